package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/container"
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
	if err != nil {
		return err
	}
	if err := e.stop(ctx, c, opts); err != nil {
		return fmt.Errorf("stop container %s: %w", c.Name, err)
	}
	return nil
}

func (e *Engine) stop(ctx context.Context, c *Container, opts StopOptions) error {
	if !c.Running() && c.State.Status != StatusRestarting {
		return nil
	}
	sig, err := c.stopSignal(opts.Signal)
	if err != nil {
		return err
	}
	timeout := stopTimeout
	if own := c.Settings.Config.StopTimeout; own != nil {
		timeout = time.Duration(*own) * time.Second
	}
	if opts.Timeout != nil {
		timeout = *opts.Timeout
	}
	if err := e.markStopped(ctx, c); err != nil || !c.Running() {
		return err
	}
	err = c.signal(func(process *os.File) error {
		if err := sys.SignalPidFD(process, sig); err != nil {
			return err
		}
		e.thawStopped(c)
		return end(ctx, process, timeout)
	})
	if err != nil {
		return err
	}
	// Who passes on the container's output writes that down when somebody has taken it all.
	ctx, cancel := context.WithTimeout(ctx, recordWait)
	defer cancel()
	c.awaitRecord(ctx)
	return e.emit(c, "stop")
}

// markStopped records that somebody has asked for a container's end, so that it is not started again. One
// that waits to be has ended by that.
func (e *Engine) markStopped(ctx context.Context, c *Container) error {
	if c.Settings.Host.RestartPolicy.Name == RestartNo || c.Settings.Host.RestartPolicy.Name == "" {
		return nil // nobody asks
	}
	err := e.change(ctx, c, func() error {
		c.State.Stopped = true
		if c.State.Status == StatusRestarting {
			c.State.Status, c.State.Owner = StatusExited, processID{}
		}
		return nil
	})
	if errors.Is(err, ErrNoContainer) {
		return nil // it is removed meanwhile
	}
	return err
}

// thawStopped lets a paused container go on that is to end.
func (e *Engine) thawStopped(c *Container) {
	if c.State.Paused {
		_ = container.Thaw(c.cgroupPath()) // then it is killed
	}
}

// stopSignal gives the signal that asks the container to end, unless another is asked for.
func (c *Container) stopSignal(asked string) (syscall.Signal, error) {
	return parseSignal(cmp.Or(asked, c.Settings.Config.StopSignal, stopSignal))
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
	own, ownErr := c.stopSignal("")
	if ends := sig == killSignal || ownErr == nil && sig == own; err == nil && ends {
		err = e.markStopped(ctx, c)
		defer e.thawStopped(c)
	}
	if err == nil {
		err = c.signal(func(process *os.File) error { return sys.SignalPidFD(process, sig) })
	}
	if err == nil {
		err = e.emit(c, "kill", "signal", strconv.Itoa(int(sig)))
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
	if c.State.Process.PID == 0 {
		return nil
	}
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

// end waits for the end of a process that was asked to, and kills it when that does not come in time.
func end(ctx context.Context, process *os.File, timeout time.Duration) error {
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
