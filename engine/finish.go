package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/monitor"
)

// Finish is what a monitor executes when its container has ended: it records that, removes the container if
// that was wanted, or starts it again, and then does not return.
func (e *Engine) Finish(ctx context.Context, id string) error {
	c, err := e.containerByID(id)
	if errors.Is(err, ErrNoContainer) {
		return nil
	}
	if err != nil {
		return err
	}
	again := false
	err = e.ifOurs(ctx, c, func() (err error) {
		again, err = e.recordEnd(ctx, c)
		return err
	})
	if err != nil || !again {
		return err
	}
	time.Sleep(c.State.RestartDelay)
	return e.startAgain(ctx, c)
}

// ifOurs does something for a container under its lock, unless it is gone, or in the hands of another
// monitor by now.
func (e *Engine) ifOurs(ctx context.Context, c *Container, do func() error) (err error) {
	lock, err := c.lockPresent(ctx, c.Name)
	if errors.Is(err, ErrNoContainer) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	self, err := identifySelf()
	if err != nil {
		return err
	}
	if err := c.reload(); err != nil || c.State.Owner != self {
		return err
	}
	return do()
}

// recordEnd records the end of a container whose lock is held, and tells whether it is to be started again.
func (e *Engine) recordEnd(ctx context.Context, c *Container) (again bool, err error) {
	asked := c.setExit()
	kills, err := container.OOMKills(c.cgroupPath())
	if err != nil {
		return false, err
	}
	c.State.OOMKilled = kills > 0
	if err := errors.Join(e.release(c), removeAll(c.exitPath())); err != nil {
		return false, err
	}
	// At a shutdown it is not started again, but it is with the next start of the machine.
	again = !asked && c.wantsRestart()
	if again {
		c.State.Status = StatusRestarting
		return true, errors.Join(c.WriteState(c.State), e.emitDie(c))
	}
	c.State.Owner = processID{}
	if err := e.emitDie(c); err != nil {
		return false, err
	}
	if c.Settings.Host.AutoRemove && !c.State.Kept {
		return false, errors.Join(e.discard(ctx, c), e.emit(c, "destroy"))
	}
	return false, c.WriteState(c.State)
}

// setExit takes over how the container ended from its monitor, if that could say so, and whether that was asked to
// end it.
func (c *Container) setExit() (asked bool) {
	exit, err := monitor.ReadExit(c.exitPath())
	if err != nil {
		exit = monitor.Exit{Status: exitLost, At: time.Now().UTC()}
	}
	s := &c.State
	s.Status, s.Process, s.Paused, s.ExitCode, s.FinishedAt = StatusExited, processID{}, false, exit.Status, exit.At
	return exit.Asked
}

// startAgain starts a container once more, unless somebody has stopped it meanwhile.
func (e *Engine) startAgain(ctx context.Context, c *Container) (err error) {
	lock, err := c.lockPresent(ctx, c.Name)
	if errors.Is(err, ErrNoContainer) {
		return nil
	}
	if err != nil {
		return err
	}
	unlock := func() error { return lock.Unlock() }
	self, err := identifySelf()
	if err == nil {
		err = c.reload()
	}
	if err != nil || c.State.Status != StatusRestarting || c.State.Owner != self {
		return errors.Join(err, unlock())
	}
	b := &background{interactive: c.Settings.Interactive, terminal: c.Settings.Terminal}
	return e.stay(ctx, c, b, unlock, func() error { return nil }, stayOptions{})
}

func (e *Engine) emitDie(c *Container) error {
	return e.record(c.died())
}

func (c *Container) died() Event {
	return c.event("die", "exitCode", strconv.Itoa(c.State.ExitCode))
}

// exitPath is where the monitor says how the container ended.
func (c *Container) exitPath() string { return filepath.Join(c.Dir(), "exit") }

func removeAll(paths ...string) error {
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
