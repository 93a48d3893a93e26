package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tarnfs/tarn/store"
)

// change changes the state of a container under its lock, read again before. An error of do leaves it as it
// is.
func (e *Engine) change(ctx context.Context, c *Container, do func() error) (err error) {
	lock, err := c.lockPresent(ctx, c.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := c.reload(); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return c.WriteState(c.State)
}

// lockPresent locks a container. If it was removed since it was found, the error wraps [ErrNoContainer], and says key.
func (c *Container) lockPresent(ctx context.Context, key string) (*store.Lock, error) {
	lock, err := c.Lock(ctx)
	if errors.Is(err, os.ErrNotExist) {
		return nil, noContainer(key)
	}
	if err != nil {
		return nil, err
	}
	if c.gone() {
		return nil, errors.Join(noContainer(key), lock.Unlock())
	}
	return lock, nil
}

func noContainer(key string) error {
	return fmt.Errorf("%w: %s (see 'tarn ps -a')", ErrNoContainer, key)
}
