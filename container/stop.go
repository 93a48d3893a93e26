package container

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/tarnfs/tarn/internal/sys"
)

// stop is a place at which the process waits: it says that it has come there, and goes on when it is
// let.
type stop struct {
	told, tell *os.File // a pipe; tell is the process's end
	until      *os.File // what the process reads a byte from
	let        *os.File // the other end, nil if somebody else lets it go on
	// do is done while it waits there.
	do func(ctx context.Context, pid int) error
}

// stops are where a process waits on its way. Most have none, and then need no copy of our memory
// and no talking.
type stops struct {
	// pivot is before the root is pivoted to, with all mounts in place.
	pivot *stop
	// seccomp is when the filter is loaded whose listener somebody is to get.
	seccomp *stop
	// exec is before the exec, when all that can fail before is done.
	exec *stop
	// executed is a pipe whose other end the exec closes; nil if nobody waits for that.
	executed, closedByExec *os.File
}

// addStop makes a stop; without until it is we who let the process go on.
func (m *maker) addStop(until *os.File, do func(ctx context.Context, pid int) error) (s *stop, err error) {
	s = &stop{until: until, do: do}
	if s.told, s.tell, err = os.Pipe(); err != nil {
		return nil, err
	}
	m.keep(s.told)
	m.keep(s.tell)
	if until == nil {
		if s.until, s.let, err = os.Pipe(); err != nil {
			return nil, err
		}
		m.keep(s.until)
		m.keep(s.let)
	}
	return s, nil
}

// write has the process stop here.
func (s *stop) write(p *sys.Program) {
	if s != nil {
		p.Tell(s.tell)
		p.Await(s.until)
	}
}

// prepareStops finds out where the process has to wait.
func (m *maker) prepareStops() (err error) {
	hooks := m.hooks()
	if m.namespaces.user != nil || len(hooks.Prestart)+len(hooks.CreateRuntime)+len(hooks.CreateContainer) > 0 { //nolint:staticcheck // deprecated, and used
		if m.stops.pivot, err = m.addStop(nil, m.beforePivot); err != nil {
			return err
		}
	}
	return m.prepareLaterStops()
}

// prepareJoinStops is prepareStops for a process that joins a container.
func (m *maker) prepareJoinStops() (err error) {
	if m.namespaces.user != nil {
		limit := func(_ context.Context, pid int) error {
			return outside(func() error { return m.limitFromOutside(pid) })
		}
		if m.stops.pivot, err = m.addStop(nil, limit); err != nil {
			return err
		}
	}
	return m.prepareLaterStops()
}

func (m *maker) prepareLaterStops() (err error) {
	hooks := m.hooks()
	if m.listener() != "" {
		if m.stops.seccomp, err = m.addStop(nil, m.sendListener); err != nil {
			return err
		}
	}
	switch {
	case m.cfg.Hold != nil:
		m.stops.exec, err = m.addStop(m.cfg.Hold, nil)
	case len(hooks.StartContainer) > 0:
		m.stops.exec, err = m.addStop(nil, m.startContainer)
	}
	if err != nil || m.cfg.Hold != nil || m.joins && !m.waits() {
		return err
	}
	if m.stops.executed, m.stops.closedByExec, err = os.Pipe(); err != nil {
		return err
	}
	m.keep(m.stops.executed)
	m.keep(m.stops.closedByExec)
	return nil
}

// waits tells whether a process that joins a container waits anywhere, or cannot share our memory.
func (m *maker) waits() bool {
	s := m.stops
	return s.pivot != nil || s.seccomp != nil || s.exec != nil || m.namespaces.time != nil
}

// finish lets the process do the rest of its program, and returns when the container's program runs, or
// when it waits and somebody else lets it go on.
func (m *maker) finish(ctx context.Context) error {
	if m.stops.closedByExec != nil {
		m.todo.KeepUntilExec(m.stops.closedByExec)
	}
	if m.cfg.Failure != nil {
		if err := m.child.ReportTo(m.cfg.Failure); err != nil {
			return err
		}
	}
	give := context.AfterFunc(ctx, m.child.Kill)
	err := m.child.Continue()
	if err == nil {
		err = m.accompany(ctx, m.child.Spawned)
	}
	if !give() {
		err = context.Cause(ctx)
	}
	return err
}

// fork makes a process that joins a container, and returns when its program runs.
func (m *maker) fork(ctx context.Context, into *os.File, p *sys.Program) (*sys.Child, error) {
	if !m.waits() {
		return sys.Fork(ctx, m.namespaces.forkFlags(), into, p)
	}
	if m.stops.closedByExec != nil {
		p.KeepUntilExec(m.stops.closedByExec)
	}
	child, err := sys.Spawn(m.namespaces.forkFlags(), into, p)
	if err != nil {
		return nil, err
	}
	defer child.Close()
	give := context.AfterFunc(ctx, child.Kill)
	err = m.accompany(ctx, child)
	if !give() {
		err = context.Cause(ctx)
	}
	if err != nil {
		child.Kill()
		_, _ = sys.WaitPidFD(child.PidFD)
		_ = child.PidFD.Close()
		return nil, err
	}
	return &child.Child, nil
}

// accompany goes with the process from stop to stop.
func (m *maker) accompany(ctx context.Context, child *sys.Spawned) error {
	var way []*stop
	for _, s := range []*stop{m.stops.pivot, m.stops.seccomp, m.stops.exec} {
		if s != nil {
			_ = s.tell.Close() // else the process's end would not be told
			way = append(way, s)
		}
	}
	for _, s := range way {
		if err := reached(s.told, child); err != nil {
			return err
		}
		if s.do != nil {
			if err := s.do(ctx, child.Pid); err != nil {
				return err
			}
		}
		if s.let != nil {
			if _, err := s.let.Write([]byte{1}); err != nil {
				return err
			}
		}
	}
	if m.stops.executed == nil {
		return nil
	}
	_ = m.stops.closedByExec.Close()
	if err := reached(m.stops.executed, child); err != nil && !errors.Is(err, errSilent) {
		return err
	}
	return nil
}

// errSilent says that a process has closed its end of a pipe without a word: it was killed, or it is
// another program now.
var errSilent = sys.ErrKilled

// reached waits until the process has come to a stop, or has ended.
func reached(told *os.File, child *sys.Spawned) error {
	_, err := told.Read(make([]byte, 1))
	if heirErr := child.Heir(); heirErr != nil {
		return heirErr
	}
	switch failure := child.Failure(); {
	case err == nil:
		return nil
	case failure != nil:
		return failure
	case errors.Is(err, io.EOF):
		return errSilent
	default:
		return err
	}
}

// keepFiles has the exec close all files but those that the process is given.
func (m *maker) keepFiles(p *sys.Program) {
	first := 3
	for range m.cfg.KeepFiles {
		p.Keep(first)
		first++
	}
	p.CloseOnExec(first)
}

// pivot makes the container's root the thread's, and that of every process that has the same.
func (m *maker) pivot() error {
	if m.namespaces.hostMounts {
		return nil // the process does that itself
	}
	if !m.cfg.NoPivot { // else the process enters it
		if err := sys.PivotRoot(m.cfg.Root); err != nil {
			return err
		}
	}
	return setRootPropagation(m.cfg.Root, m.spec.Linux.RootfsPropagation)
}

// beforePivot runs the hooks that see the container's mounts below the host's root.
func (m *maker) beforePivot(ctx context.Context, pid int) error {
	if m.namespaces.user != nil {
		if err := m.limitFromOutside(pid); err != nil {
			return err
		}
	}
	if err := m.createHooks(ctx, pid); err != nil {
		return err
	}
	return m.pivot()
}

// limitFromOutside gives the process what it has no right to take any more in its user namespace.
func (m *maker) limitFromOutside(pid int) error {
	limits, err := limitsOfProcess(m.spec.Process)
	if err != nil {
		return err
	}
	for _, l := range limits {
		if err := sys.SetRlimit(pid, l.resource, l.soft, l.hard); err != nil {
			return err
		}
	}
	if s := m.spec.Process.Scheduler; s != nil {
		attributes, err := scheduling(s)
		if err != nil {
			return err
		}
		return sys.SetScheduling(pid, attributes)
	}
	return nil
}

// outside runs f on another thread: on that which makes the container, paths can be the container's.
func outside(f func() error) error {
	done := make(chan error)
	go func() { done <- f() }()
	return <-done
}
