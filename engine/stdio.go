package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/term"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/relay"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/monitor/logfile"
)

// attachment connects a container's standard files, or its terminal, and its signals with ours.
type attachment struct {
	Stdin, Stdout, Stderr *os.File // ours
	interactive           bool     // the container gets Stdin
	terminal              bool     // the container has a terminal of its own
	sigProxy              bool     // it gets the signals that we get

	log     logfile.Writer // of what the container writes, nil for none
	files   []*os.File     // of the container's, to be closed when it has them
	inputs  []func()       // copies to the container: nobody waits for them
	outputs []func()       // copies from the container: waited for, so that nothing is lost
	copying sync.WaitGroup // the outputs
	signals *relay.Signals // nil if they are not for the container
}

// errNotTerminal is what Docker says in the same place.
var errNotTerminal = errors.New("the input is not a terminal: leave out -t, or -i")

// prepare fills in the standard files. Pipes and sockets are handed to the container, so that no
// byte takes a detour. Nothing else of the host's is, for the container's root could open it again:
// a file that is only read here for writing, or a terminal to read what is typed for others.
func (a *attachment) prepare(spec *specs.Spec, cfg *container.Config) (err error) {
	if a.sigProxy {
		a.signals = relay.Catch()
	}
	if a.terminal {
		if a.interactive && !isTerminal(a.Stdin) {
			return errNotTerminal
		}
		if cols, rows, err := sys.TerminalSize(a.Stdout); err == nil {
			spec.Process.ConsoleSize = &specs.Box{Width: uint(cols), Height: uint(rows)}
		}
		return nil
	}
	if a.interactive {
		if cfg.Stdin, err = a.input(a.Stdin); err != nil {
			return err
		}
	}
	if cfg.Stdout, err = a.output(a.Stdout, logfile.Stdout); err != nil {
		return err
	}
	if sameFile(a.Stdout, a.Stderr) {
		cfg.Stderr = cfg.Stdout // what is written to both keeps its order
		return nil
	}
	cfg.Stderr, err = a.output(a.Stderr, logfile.Stderr)
	return err
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// sameFile tells whether two descriptors are of one open file, as after "2>&1".
func sameFile(a, b *os.File) bool {
	of, err := a.Stat()
	if err != nil {
		return false
	}
	other, err := b.Stat()
	return err == nil && os.SameFile(of, other)
}

// input gives what the container reads: f itself, or a copy of it; nil for nothing.
func (a *attachment) input(f *os.File) (*os.File, error) {
	kind, err := sys.StreamOf(f)
	if err != nil || kind == sys.StreamNull {
		return nil, err
	}
	if kind == sys.StreamPipe {
		return f, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	a.files = append(a.files, r)
	a.inputs = append(a.inputs, func() {
		_, _ = io.Copy(w, f) // ends when either side does
		_ = w.Close()
	})
	return r, nil
}

// output gives where the container writes: f itself, or a pipe that is copied to it, and to the log if there is
// one; nil for nowhere.
func (a *attachment) output(f *os.File, stream logfile.Stream) (*os.File, error) {
	kind, err := sys.StreamOf(f)
	if err != nil || kind == sys.StreamNull && a.log == nil {
		return nil, err
	}
	if kind == sys.StreamPipe && a.log == nil {
		return f, nil
	}
	var to io.Writer = f
	if a.log != nil {
		to = io.MultiWriter(logStream{a.log, stream}, f)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	a.files = append(a.files, w)
	a.outputs = append(a.outputs, func() {
		_, _ = io.Copy(to, r) // ends when the last process that can write has, or f takes no more
		_ = r.Close()
	})
	return w, nil
}

// logStream writes one stream to a log.
type logStream struct {
	log    logfile.Writer
	stream logfile.Stream
}

func (s logStream) Write(data []byte) (int, error) {
	s.log.Write(s.stream, data, time.Now())
	return len(data), nil
}

// stop ends what prepare has begun.
func (a *attachment) stop() {
	if a.signals != nil {
		a.signals.Stop()
	}
}

// serve copies and passes on signals until the process ends, and gives its status.
func (a *attachment) serve(ctx context.Context, p *container.Process) (int, error) {
	a.closeFiles()
	restore := func() {}
	if a.terminal {
		restore = a.attachTerminal(p)
	}
	defer restore()
	for _, copyInput := range a.inputs {
		go copyInput()
	}
	for _, copyOutput := range a.outputs {
		a.copying.Go(copyOutput)
	}
	stop := a.passSignals(ctx, p)
	defer stop()
	status, err := p.Wait()
	a.copying.Wait()
	if a.log != nil {
		a.log.Close(time.Now())
	}
	return status, err
}

func (a *attachment) closeFiles() {
	for _, f := range a.files {
		_ = f.Close() // the container has its own
	}
}

// attachTerminal connects our terminal with the container's.
func (a *attachment) attachTerminal(p *container.Process) (restore func()) {
	restore = func() {}
	pty := p.Terminal()
	a.resize(p) // it may have changed since the size was asked for
	a.outputs = append(a.outputs, func() {
		_, _ = io.Copy(a.Stdout, pty) // ends with EIO
		_ = pty.Close()
	})
	if !a.interactive {
		return restore
	}
	// Without it, signals, echo and line editing would happen twice.
	if state, err := term.MakeRaw(int(a.Stdin.Fd())); err == nil {
		restore = func() { _ = term.Restore(int(a.Stdin.Fd()), state) }
	}
	a.inputs = append(a.inputs, func() { _, _ = io.Copy(pty, a.Stdin) })
	return restore
}

// askedEnough is how often somebody has to ask a container to end that does not, to have it killed:
// a program that is the first of its pid namespace and has no handler for a signal never gets it.
const askedEnough = 3

// passSignals passes signals on to the container. If they are not to be, the one that ends this
// program ends the container.
func (a *attachment) passSignals(ctx context.Context, p *container.Process) (stop func()) {
	if a.signals == nil {
		after := context.AfterFunc(ctx, func() { _ = p.Signal(syscall.SIGKILL) })
		return func() { after() }
	}
	done := make(chan struct{})
	go a.signals.CatchRare(done)
	go func() {
		asked := 0
		for {
			var sig os.Signal
			select {
			case sig = <-a.signals.C:
			case <-done:
				return
			}
			if sig == syscall.SIGWINCH && a.terminal {
				a.resize(p)
				continue
			}
			if sig == syscall.SIGINT || sig == syscall.SIGTERM {
				asked++
			}
			if asked == askedEnough {
				sig = syscall.SIGKILL
			}
			if sig, ok := sig.(syscall.Signal); ok {
				_ = p.Signal(sig) // it may have ended
			}
		}
	}()
	return func() { close(done) }
}

func (a *attachment) resize(p *container.Process) {
	if cols, rows, err := sys.TerminalSize(a.Stdout); err == nil {
		_ = p.Resize(cols, rows) // it may have ended
	}
}
