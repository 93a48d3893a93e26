package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// change changes the state of a container under its lock, read again before. An error of do leaves it as it
// is.
func (e *Engine) change(ctx context.Context, c *Container, do func() error) (err error) {
	lock, err := c.Lock(ctx)
	if errors.Is(err, os.ErrNotExist) {
		return noContainer(c.Name)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if c.gone() {
		return noContainer(c.Name)
	}
	if err := c.reload(); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return c.WriteState(c.State)
}

func noContainer(key string) error {
	return fmt.Errorf("%w: %s (see 'tarn ps -a')", ErrNoContainer, key)
}
