package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/rootfs"
	"github.com/tarnfs/tarn/store"
)

// killSignal cannot be caught.
const killSignal = syscall.SIGKILL

// RemoveOptions says how to remove containers.
type RemoveOptions struct {
	Force   bool // end it if it runs, and detach a mount that is in use
	Volumes bool // remove the volumes that were made for it alone, too
}

// RemoveContainer removes a container with all that it has written. One that runs is refused
// without Force.
func (e *Engine) RemoveContainer(ctx context.Context, key string, opts RemoveOptions) (err error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	lock, err := c.lockPresent(ctx, key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if c.Damaged == nil {
		if err := e.makeRemovable(ctx, c, opts); err != nil {
			return fmt.Errorf("remove container %s: %w", c.Name, err)
		}
	}
	if err := e.Store.RemoveContainer(c.Container, true); err != nil {
		return err
	}
	if err := e.emit(c, "destroy"); err != nil || !opts.Volumes {
		return err
	}
	if err := e.removeVolumes(ctx, c); err != nil {
		return fmt.Errorf("remove container %s: %w", c.Name, err)
	}
	return nil
}

// PrunableContainers lists the containers that do not run, and that the filter selects.
func (e *Engine) PrunableContainers(ctx context.Context, filter PruneFilter) ([]*Container, error) {
	all, err := e.Containers(ctx, ContainerFilter{Statuses: []string{StatusCreated, StatusExited}, All: true, Labels: filter.Labels})
	return slices.DeleteFunc(all, func(c *Container) bool {
		return !filter.Until.IsZero() && !c.Created.Before(filter.Until) || hasAnyLabel(c.Settings.Config.Labels, filter.Unlabels)
	}), err
}

// PlanPruneContainers says what PruneContainers would remove now, by name.
func (e *Engine) PlanPruneContainers(ctx context.Context, filter PruneFilter) ([]Lost, error) {
	list, err := e.PrunableContainers(ctx, filter)
	if err != nil {
		return nil, err
	}
	losses := make([]Lost, len(list))
	for i, c := range list {
		losses[i] = Lost{Kind: string(store.KindContainer), ID: c.Name}
		if losses[i].Bytes, err = e.ContainerDisk(ctx, c); err != nil {
			return nil, err
		}
	}
	return losses, nil
}

// PruneContainers removes the containers that do not run, and that the filter selects. It gives their IDs and what the disk has back.
func (e *Engine) PruneContainers(ctx context.Context, filter PruneFilter) (ids []string, freed int64, err error) {
	list, err := e.PrunableContainers(ctx, filter)
	if err != nil {
		return nil, 0, err
	}
	for _, c := range list {
		size, err := e.ContainerDisk(ctx, c)
		if err == nil {
			err = e.RemoveContainer(ctx, c.ID, RemoveOptions{})
		}
		switch {
		case errors.Is(err, ErrNoContainer), errors.Is(err, ErrRunning), errors.Is(err, fs.ErrNotExist):
			continue // since it was looked at
		case err != nil:
			return ids, freed, err
		}
		ids, freed = append(ids, c.ID), freed+size
	}
	return ids, freed, nil
}

// makeRemovable ends the container and unmounts it. The state is read again under the lock.
func (e *Engine) makeRemovable(ctx context.Context, c *Container, opts RemoveOptions) error {
	if err := c.reload(); err != nil {
		return err
	}
	if c.State.Status == StatusRestarting && !opts.Force {
		return fmt.Errorf("%w again and again: stop it first, or use -f", ErrRunning)
	}
	if c.Running() {
		if !opts.Force {
			return fmt.Errorf("%w: stop it first, or use -f", ErrRunning)
		}
		if err := errors.Join(c.kill(ctx), e.networks.AwaitEnd(ctx, c.ID)); err != nil {
			return err
		}
	}
	if err := e.release(c); err != nil {
		return err
	}
	return e.unmountForRemoval(c.ID, opts.Force)
}

// release takes away what a container has on the host while it runs, and what one that was killed
// together with tarn left behind.
func (e *Engine) release(c *Container) error {
	return errors.Join(container.RemoveCgroup(c.cgroupPath()), e.networks.Release(c.ID), e.removeSocket(c))
}

// kill ends the container's first process, and so all of them, and waits for that.
func (c *Container) kill(ctx context.Context) error {
	return c.signal(func(process *os.File) error {
		return errors.Join(sys.SignalPidFD(process, killSignal), end(ctx, process, -1))
	})
}

// unmountForRemoval takes away what "tarn mount" made.
func (e *Engine) unmountForRemoval(id string, force bool) error {
	point := e.mountPath(id)
	err := rootfs.Unmount(point)
	switch {
	case errors.Is(err, rootfs.ErrNotMounted), errors.Is(err, os.ErrNotExist):
		return nil
	case errors.Is(err, rootfs.ErrBusy) && force:
		return errors.Join(sys.Detach(point), os.Remove(point))
	default:
		return err
	}
}

// discard removes a container that has ended, and its own volumes.
func (e *Engine) discard(ctx context.Context, c *Container) error {
	return errors.Join(e.unmountForRemoval(c.ID, true), e.Store.RemoveContainer(c.Container, false), e.removeVolumes(ctx, c))
}

// mountPath is where "tarn mount" shows an image or a container.
func (e *Engine) mountPath(id string) string { return filepath.Join(e.Store.Run(), "mounts", id) }
