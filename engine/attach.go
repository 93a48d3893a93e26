package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/term"

	"github.com/tarnfs/tarn/internal/relay"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/monitor"
)

// ErrDetached is returned when somebody has typed the keys to leave a container that runs on.
var ErrDetached = errors.New("detached")

// Attach shows a running container's output, from now on, and gives it input. It returns the container's
// exit status when that has ended, or [ErrDetached].
func (e *Engine) Attach(ctx context.Context, key string, streams Streams) (status int, err error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return 0, err
	}
	switch {
	case !c.Running():
		return 0, fmt.Errorf("attach to container %s: %w", c.Name, errNotRunning)
	case c.State.Paused:
		return 0, fmt.Errorf("attach to container %s: it is paused: unpause it first", c.Name)
	}
	conn, err := sys.ConnectUnix(e.socketPath(c))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return 0, fmt.Errorf("attach to container %s: it runs in the foreground of another tarn", c.Name)
	}
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	streams.Input = streams.Input && c.Settings.Interactive
	s, err := newSession(streams, c.Settings.Terminal)
	if err != nil {
		return 0, err
	}
	defer s.close()
	s.redraw = true
	status, err = s.serve(ctx, c, conn)
	if err == nil {
		c.awaitRecord(ctx)
	}
	return status, err
}

// socketPath is where one can attach to a container.
func (e *Engine) socketPath(c *Container) string {
	return filepath.Join(e.Store.Run(), "attach", c.ID)
}

func (e *Engine) listen(c *Container) (*os.File, error) {
	path := filepath.Dir(e.socketPath(c))
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return sys.ListenUnix(dir, c.ID)
}

func (e *Engine) removeSocket(c *Container) error { return removeAll(e.socketPath(c)) }

// session is somebody attached to a container.
type session struct {
	Streams
	terminal bool // the container has one
	keys     []byte
	signals  *relay.Signals
	restore  func()
	redraw   bool // the terminal's size is changed and back, so that programs draw anew

	left  chan struct{} // closed when the user leaves
	leave sync.Once

	mu   sync.Mutex // of what is sent
	conn *os.File
}

func newSession(streams Streams, terminal bool) (*session, error) {
	s := &session{Streams: streams, terminal: terminal, restore: func() {}, left: make(chan struct{})}
	s.SigProxy = streams.SigProxy && !terminal // what is typed there makes signals by itself
	var err error
	if s.keys, err = ParseDetachKeys(streams.DetachKeys); err != nil {
		return nil, err
	}
	if terminal && s.Input {
		if !isTerminal(s.Stdin) {
			return nil, errNotTerminal
		}
		// Without it, signals, echo and line editing would happen twice.
		if state, err := term.MakeRaw(int(s.Stdin.Fd())); err == nil {
			s.restore = func() { _ = term.Restore(int(s.Stdin.Fd()), state) }
		}
	}
	if s.SigProxy || terminal {
		s.signals = relay.Catch()
	}
	return s, nil
}

func (s *session) close() {
	s.restore()
	if s.signals != nil {
		s.signals.Stop()
	}
}

// size is that of our terminal, 0 if there is none.
func (s *session) size() (cols, rows uint16) {
	cols, rows, _ = sys.TerminalSize(s.Stdout)
	return cols, rows
}

func (s *session) send(kind monitor.Kind, content []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return monitor.WriteFrame(s.conn, kind, content)
}

// serve copies between us and the monitor, until the container's end or the user's leave.
func (s *session) serve(ctx context.Context, c *Container, conn *os.File) (status int, err error) {
	s.conn = conn
	done := make(chan struct{})
	defer close(done)
	if s.terminal {
		s.resize()
	}
	if s.Input {
		_ = s.send(monitor.Stdin, nil) // says that there is an input whose end counts
		go s.copyInput()
	}
	go s.passSignals(c, done)
	type end struct {
		status int
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		status, err := s.copyOutput()
		ended <- end{status, err}
	}()
	select {
	case got := <-ended:
		return got.status, got.err
	case <-s.left:
		return 0, ErrDetached
	case <-ctx.Done():
		if s.signals != nil { // it is the container's
			got := <-ended
			return got.status, got.err
		}
		return 0, context.Cause(ctx)
	}
}

// copyOutput prints the container's output until its end, and gives its exit status.
func (s *session) copyOutput() (int, error) {
	frames := monitor.NewFrameReader(s.conn)
	for {
		kind, content, err := frames.Next()
		if err != nil {
			return exitLost, fmt.Errorf("attach: the container's monitor is gone: %w", err)
		}
		switch kind {
		case monitor.Stdout:
			_, _ = s.Stdout.Write(content) // nobody may read it any more: the container's matter
		case monitor.Stderr:
			_, _ = s.Stderr.Write(content)
		case monitor.Exited:
			return monitor.FrameStatus(content), nil
		default: // none of those that go to the container
		}
	}
}

// copyInput sends what is read here, until the keys to leave come.
func (s *session) copyInput() {
	filter := &detachFilter{keys: s.keys}
	if !s.terminal {
		filter.keys = nil
	}
	buf := make([]byte, monitor.MaxFrame/2)
	for {
		n, err := s.Stdin.Read(buf)
		if n > 0 {
			data, leave := filter.pass(buf[:n])
			if len(data) > 0 && s.send(monitor.Stdin, data) != nil {
				return
			}
			if leave {
				s.goAway()
				return
			}
		}
		if errors.Is(err, io.EOF) {
			_ = s.send(monitor.StdinEnd, nil)
		}
		if err != nil {
			return
		}
	}
}

func (s *session) passSignals(c *Container, done <-chan struct{}) {
	if s.signals == nil {
		return
	}
	go s.signals.CatchRare(done)
	asked := 0
	for {
		var sig os.Signal
		select {
		case sig = <-s.signals.C:
		case <-done:
			return
		}
		number, ok := sig.(syscall.Signal)
		switch {
		case !ok:
			continue
		case number == syscall.SIGWINCH && s.terminal:
			s.resize()
			continue
		case !s.SigProxy:
			// The terminal is gone, or somebody wants us to be.
			if slices.Contains([]syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM}, number) {
				s.goAway()
			}
			continue
		}
		if number == syscall.SIGINT || number == syscall.SIGTERM {
			asked++
		}
		if asked == askedEnough {
			number = killSignal
		}
		_ = c.refreshed().signal(func(process *os.File) error { return sys.SignalPidFD(process, number) })
	}
}

func (s *session) goAway() { s.leave.Do(func() { close(s.left) }) }

// refreshed is the container as it is now.
func (c *Container) refreshed() *Container {
	now := *c
	_ = now.reload() // of one that is gone there is no process
	return &now
}

func (s *session) resize() {
	cols, rows := s.size()
	if cols == 0 || rows == 0 {
		return
	}
	if s.redraw {
		s.redraw = false
		_ = s.send(monitor.Resize, monitor.SizeFrame(cols+1, rows+1))
	}
	_ = s.send(monitor.Resize, monitor.SizeFrame(cols, rows)) // the container may have ended
}
