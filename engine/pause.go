package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/tarnfs/tarn/container"
)

// Pause has the processes of a running container stand still.
func (e *Engine) Pause(ctx context.Context, key string) error {
	return e.freeze(ctx, key, true)
}

// Unpause has them go on.
func (e *Engine) Unpause(ctx context.Context, key string) error {
	return e.freeze(ctx, key, false)
}

func (e *Engine) freeze(ctx context.Context, key string, pause bool) error {
	verb := "unpause"
	if pause {
		verb = "pause"
	}
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	err = e.change(ctx, c, func() error {
		switch {
		case !c.Running():
			return errNotRunning
		case c.State.Paused == pause && pause:
			return errors.New("it is paused already")
		case c.State.Paused == pause:
			return errors.New("it is not paused")
		}
		c.State.Paused = pause
		if !pause {
			return container.Thaw(c.cgroupPath())
		}
		_, err := container.Freeze(ctx, c.cgroupPath())
		if errors.Is(err, fs.ErrNotExist) {
			return errNotRunning
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s container %s: %w", verb, c.Name, err)
	}
	return e.emit(c, verb)
}
