package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tarnfs/tarn/store"
)

// UpdateOptions changes a container. nil leaves what it is.
type UpdateOptions struct {
	Restart *RestartPolicy
}

// Update changes a container, also while it runs.
func (e *Engine) Update(ctx context.Context, key string, opts UpdateOptions) (err error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	lock, err := c.Lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if c.gone() {
		return noContainer(key)
	}
	if c.Damaged != nil {
		return c.Damaged
	}
	if err := e.readAgain(c); err != nil {
		return err
	}
	if err := c.update(opts); err != nil {
		return fmt.Errorf("update container %s: %w", c.Name, err)
	}
	raw, err := json.Marshal(c.Settings)
	if err != nil {
		return err
	}
	c.Config = raw
	return errors.Join(e.Store.ChangeContainer(c.Container), e.emit(c, "update"))
}

// readAgain reads the record of a container that is locked now.
func (e *Engine) readAgain(c *Container) error {
	record, err := e.Store.Container(c.ID)
	if errors.Is(err, store.ErrNotFound) {
		return noContainer(c.Name)
	}
	if err != nil {
		return err
	}
	c.Container = record
	if c.readSettings(); c.Damaged != nil {
		return c.Damaged
	}
	return c.reload()
}

func (c *Container) update(opts UpdateOptions) error {
	if opts.Restart != nil {
		if c.Settings.Host.AutoRemove && opts.Restart.Name != RestartNo {
			return fmt.Errorf("%w: it is removed at its end, and cannot be started again", ErrOption)
		}
		c.Settings.Host.RestartPolicy = *opts.Restart
	}
	return nil
}
