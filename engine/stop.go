package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
)

const (
	stopSignal  = "SIGTERM"
	stopTimeout = 10 * time.Second
	// recordWait is how long Stop waits for the container's own tarn to write down its end.
	recordWait = 5 * time.Second
)

// StopOptions says how to stop a container.
type StopOptions struct {
	Signal  string         // else the container's own, which its image may name; else SIGTERM
	Timeout *time.Duration // until it is killed; negative: never. Else the container's own; else 10 s
}

// Stop asks a container to end, and kills it if it does not. One that does not run is no error.
func (e *Engine) Stop(ctx context.Context, key string, opts StopOptions) error {
	c, err := e.container(ctx, key)
	if err != nil || !c.Running() {
		return err
	}
	sig, err := parseSignal(cmp.Or(opts.Signal, c.Settings.Config.StopSignal, stopSignal))
	if err != nil {
		return fmt.Errorf("stop container %s: %w", c.Name, err)
	}
	timeout := stopTimeout
	if own := c.Settings.Config.StopTimeout; own != nil {
		timeout = time.Duration(*own) * time.Second
	}
	if opts.Timeout != nil {
		timeout = *opts.Timeout
	}
	err = c.signal(func(process *os.File) error { return end(ctx, process, sig, timeout) })
	if err != nil {
		return fmt.Errorf("stop container %s: %w", c.Name, err)
	}
	// Who passes on the container's output writes that down when somebody has taken it all.
	ctx, cancel := context.WithTimeout(ctx, recordWait)
	defer cancel()
	c.awaitRecord(ctx)
	return nil
}

// Kill sends a signal to a container's first process; "" is SIGKILL.
func (e *Engine) Kill(ctx context.Context, key, signal string) error {
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	sig, err := parseSignal(cmp.Or(signal, "SIGKILL"))
	if err == nil && !c.Running() {
		err = errNotRunning
	}
	if err == nil {
		err = c.signal(func(process *os.File) error { return sys.SignalPidFD(process, sig) })
	}
	if err != nil {
		return fmt.Errorf("kill container %s: %w", c.Name, err)
	}
	return nil
}

var errNotRunning = errors.New("it is not running")

func parseSignal(text string) (syscall.Signal, error) {
	sig, ok := sys.ParseSignal(text)
	if !ok {
		return 0, fmt.Errorf("%w: signal %q: use a name as SIGTERM, or a number", ErrOption, text)
	}
	return sig, nil
}

// signal does something with the container's first process, unless that has ended.
func (c *Container) signal(do func(process *os.File) error) error {
	process, err := sys.PidFD(c.State.Process.PID)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer process.Close()
	// The number may have been given to another process between the look and the open.
	if !c.State.Process.alive() {
		return nil
	}
	return ignoreDone(do(process))
}

// end ends a process, with force when it does not by itself in time.
func end(ctx context.Context, process *os.File, sig syscall.Signal, timeout time.Duration) error {
	if err := sys.SignalPidFD(process, sig); err != nil {
		return err
	}
	if timeout < 0 {
		return sys.AwaitExit(ctx, process)
	}
	patience, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := sys.AwaitExit(patience, process)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if err := sys.SignalPidFD(process, killSignal); err != nil {
		return err
	}
	return sys.AwaitExit(ctx, process)
}
