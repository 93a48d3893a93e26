package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tarnfs/tarn/internal/sys"
)

// hold is where a process waits before its exec: it says that it has come there, and goes on when
// it is let.
type hold struct {
	until      *os.File // Config.Hold
	told, tell *os.File // a pipe; tell is the process's end
}

func (m *maker) prepareHold() (err error) {
	if m.cfg.Hold == nil {
		return nil
	}
	m.hold.until = m.cfg.Hold
	if m.hold.told, m.hold.tell, err = os.Pipe(); err != nil {
		return err
	}
	m.keep(m.hold.told)
	m.keep(m.hold.tell)
	return nil
}

func (h *hold) write(p *sys.Program) {
	if h.until != nil {
		p.Tell(h.tell)
		p.Await(h.until)
	}
}

// fork makes the process, and returns when its program runs, or it waits for that.
func (m *maker) fork(ctx context.Context, into *os.File, p *sys.Program) (*sys.Child, error) {
	if m.hold.until == nil {
		return sys.Fork(ctx, m.namespaces.fork, into, p)
	}
	return m.hold.spawn(ctx, m.namespaces.fork, into, p)
}

// spawn makes a process and waits until it waits.
func (h *hold) spawn(ctx context.Context, namespaces uint64, into *os.File, p *sys.Program) (*sys.Child, error) {
	child, err := sys.Spawn(namespaces, into, p)
	if err != nil {
		return nil, err
	}
	_ = h.tell.Close() // else the process's end would not be told
	stop := context.AfterFunc(ctx, func() { _ = h.told.Close() })
	_, err = io.ReadFull(h.told, make([]byte, 1))
	if !stop() {
		child.Discard()
		return nil, context.Cause(ctx)
	}
	if err == nil {
		child.Close()
		return &child.Child, nil
	}
	if _, err := sys.WaitPidFD(child.PidFD); err != nil {
		return nil, errors.Join(err, child.PidFD.Close())
	}
	defer child.Close()
	_ = child.PidFD.Close()
	if failure := child.Failure(); failure != nil {
		return nil, failure
	}
	return nil, fmt.Errorf("the process was killed: %w", err)
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
