package ociruntime

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/term"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/relay"
	"github.com/tarnfs/tarn/internal/sys"
)

func run(ctx context.Context, r *runtime, args []string) (int, error) {
	var c creation
	var keep bool
	flags := newFlags("run")
	c.addFlags(flags)
	flags.BoolVar(&c.detach, "detach", false, "do not wait for the container's end")
	flags.BoolVar(&c.detach, "d", false, "do not wait for the container's end")
	flags.BoolVar(&keep, "keep", false, "do not delete the container when it has ended")
	flags.Bool("no-subreaper", true, "accepted for runc's sake")
	rest, err := parse(flags, args, 1, 1)
	if err != nil {
		return 1, err
	}
	if status, done, err := r.asRoot(ctx, 0); done {
		return status, err
	}
	c.id = rest[0]
	proxy := proxy{wanted: !c.detach}
	c.ready = proxy.ready
	h, spec, p, err := r.create(ctx, &c)
	if err != nil {
		return 1, err
	}
	defer h.close()
	r.log.warn(container.PoststartHooks(ctx, spec, h.hookState(specs.StateRunning)))
	if c.detach {
		return 0, nil
	}
	if err := h.unlock(); err != nil {
		return 1, err
	}
	status, err := proxy.serve(p)
	if keep {
		return status, err
	}
	return status, errors.Join(err, h.ended(ctx, r, spec))
}

// proxy stands between a container's process and who waits for it here: signals, and the terminal if
// it has one.
type proxy struct {
	wanted  bool
	signals *relay.Signals // nil until it is ready
}

// ready takes signals from now on: whoever learns that there is a process may send it some.
func (x *proxy) ready() {
	if x.wanted {
		x.signals = relay.Catch()
	}
}

// serve passes on signals and what is typed and shown, until the process ends.
func (x *proxy) serve(p *container.Process) (int, error) {
	restore := func() {}
	shown := make(chan struct{})
	if pty := p.Terminal(); pty != nil {
		resize(p)
		if state, err := term.MakeRaw(int(os.Stdin.Fd())); err == nil {
			restore = func() { _ = term.Restore(int(os.Stdin.Fd()), state) }
		}
		go func() { _, _ = io.Copy(pty, os.Stdin) }()
		go func() {
			_, _ = io.Copy(os.Stdout, pty) // ends with EIO
			close(shown)
		}()
	} else {
		close(shown)
	}
	go x.signals.CatchRare(p.Done())
	go x.passSignals(p)
	status, err := p.Wait()
	<-shown
	restore()
	x.signals.Stop()
	return status, err
}

func (x *proxy) passSignals(p *container.Process) {
	for {
		select {
		case sig := <-x.signals.C:
			if sig == syscall.SIGWINCH {
				resize(p)
			} else if number, ok := sig.(syscall.Signal); ok {
				_ = p.Signal(number) // it may have ended
			}
		case <-p.Done():
			return
		}
	}
}

func resize(p *container.Process) {
	if p.Terminal() == nil {
		return
	}
	if cols, rows, err := sys.TerminalSize(os.Stdin); err == nil {
		_ = p.Resize(cols, rows) // the next change is another chance
	}
}
