package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tarnfs/tarn/container"
)

// fileFrozen is there while a command has stopped the processes of a container to read what they write. It holds
// the container's lock for as long: if the lock can be had, the command was killed.
const fileFrozen = "frozen"

// pause stops the container's processes until the function that it gives is called. The container's lock is held.
func (c *Container) pause(ctx context.Context) (thaw func() error, err error) {
	c.thawAbandoned()
	if frozen, err := container.Frozen(c.cgroupPath()); err == nil && frozen {
		return func() error { return nil }, nil // by somebody who wants it to stay so
	}
	mark := filepath.Join(c.Dir(), fileFrozen)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return nil, err
	}
	goOn, err := container.Freeze(ctx, c.cgroupPath())
	if err == nil {
		return func() error { return errors.Join(goOn(), os.Remove(mark)) }, nil
	}
	if err := os.Remove(mark); err != nil {
		return nil, err
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err := c.reload(); err != nil || !c.Running() {
			return func() error { return nil }, err // it ended just now
		}
		err = container.ErrNoFreezer // there is one, but not for us to use
	}
	return nil, fmt.Errorf("pause the container: %w (use --pause=false to go on without)", err)
}

// settleFrozen has processes go on that were stopped by a command that has been killed since.
func (c *Container) settleFrozen() error {
	if _, err := os.Lstat(filepath.Join(c.Dir(), fileFrozen)); errors.Is(err, fs.ErrNotExist) {
		return nil // as almost always
	}
	lock, err := c.TryLock()
	if err != nil || lock == nil {
		return err
	}
	c.thawAbandoned()
	return lock.Unlock()
}

// thawAbandoned is settleFrozen under the container's lock. If it cannot be done, that is for the next command to try:
// none is about this.
func (c *Container) thawAbandoned() {
	mark := filepath.Join(c.Dir(), fileFrozen)
	if _, err := os.Lstat(mark); err == nil && container.Thaw(c.cgroupPath()) == nil {
		_ = os.Remove(mark)
	}
}
