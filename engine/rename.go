package engine

import (
	"context"
	"errors"
	"fmt"
)

// Rename gives a container another name.
func (e *Engine) Rename(ctx context.Context, key, name string) (err error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	lock, err := c.lockPresent(ctx, key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if c.Damaged != nil {
		return c.Damaged
	}
	old := c.Name
	if c.Container, err = e.Store.RenameContainer(c.Container, name); err != nil {
		return fmt.Errorf("rename container %s: %w", old, err)
	}
	if err := e.networks.Rename(c.ID, name); err != nil {
		return fmt.Errorf("rename container %s: %w", old, err)
	}
	return e.emit(c, "rename", "oldName", old)
}
