package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/rootfs"
)

// contents is a container's file system, opened to be read.
type contents struct {
	layer.PackSource
	// mounted are paths, from the root, on which the container has something else mounted: what the
	// overlay has there is not the container's.
	mounted []string
	// owner gives the owners that Merged shows as they are in the container; nil: as they are shown.
	owner func(uid, gid uint32) (uint32, uint32)
}

// contentsOptions says how to look at a container's file system.
type contentsOptions struct {
	// pause keeps the container's processes from changing it meanwhile.
	pause bool
	// withInit counts the init layer to what lies below; without, only the image's layers.
	withInit bool
}

// readContents has read look at a container's file system, running or not. Until it returns, the
// container does not start, and is not removed, for its lock is held.
func (e *Engine) readContents(ctx context.Context, c *Container, opts contentsOptions, read func(*contents) error) (err error) {
	config, err := e.config(c)
	if err != nil {
		return err
	}
	lock, err := c.lockPresent(ctx, c.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := c.reload(); err != nil {
		return err
	}
	if opts.pause && c.Running() {
		thaw, err := c.pause(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, thaw()) }()
	}
	return e.openContents(ctx, c, config, opts.withInit, read)
}

func (e *Engine) openContents(ctx context.Context, c *Container, config *image.Config, withInit bool, read func(*contents) error) error {
	stack, err := e.openStack(ctx, config)
	if err != nil {
		return err
	}
	defer stack.close()
	upper, err := sys.OpenPath(c.UpperDir())
	if err != nil {
		return err
	}
	defer upper.Close()
	merged, err := e.mergedRoot(ctx, c, upper, stack)
	if err != nil {
		return err
	}
	defer merged.Close()
	x := &contents{PackSource: layer.PackSource{Upper: upper, Merged: merged, UserXattrs: sys.InUserNamespace()}}
	if c.Running() {
		ids, err := c.ids()
		if err != nil {
			return err
		}
		x.owner = ids.insideFunc()
	}
	below := stack
	if !withInit {
		below = stack[len(stack)-len(config.RootFS.DiffIDs):]
	}
	if len(below) > 0 {
		if x.Lower, err = rootfs.Overlay(below, nil, nil, e.overlayOptions()); err != nil {
			return err
		}
		defer x.Lower.Close()
	}
	if x.mounted, err = c.mountedPaths(merged); err != nil {
		return err
	}
	return read(x)
}

func (e *Engine) overlayOptions() rootfs.OverlayOptions {
	return rootfs.OverlayOptions{Run: e.Store.Run()}
}

// mergedRoot gives the whole of a container's file system, as a mount without what is mounted in it. It
// is the very mount that somebody writes to, if there is one: the kernel makes no promise about
// another view of a layer that changes.
func (e *Engine) mergedRoot(ctx context.Context, c *Container, upper *os.File, stack lowers) (*os.File, error) {
	if c.Running() {
		root, err := c.liveRoot(ctx)
		if !errors.Is(err, errEnded) {
			return root, err
		}
	}
	shown, err := e.shownRoot(c)
	if shown != nil || err != nil {
		return shown, err
	}
	if c.State.StartedAt.IsZero() {
		if err := rootfs.PrepareUpper(upper, stack); err != nil {
			return nil, err
		}
	}
	return rootfs.MergedView(upper, stack, e.overlayOptions())
}

// shownRoot gives what "tarn mount" mounted; nil if it did not.
func (e *Engine) shownRoot(c *Container) (*os.File, error) {
	path := e.mountPath(c.ID)
	if there, err := rootfs.Mounted(path); err != nil || !there {
		return nil, err
	}
	dir, err := sys.OpenPath(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return sys.CloneTree(dir, false)
}

// errEnded says that a container has ended since it was seen running.
var errEnded = errors.New("it has just ended: try again")

// liveRoot gives the root of a running container. The error wraps errEnded if that is not there any more.
func (c *Container) liveRoot(ctx context.Context) (*os.File, error) {
	for {
		root, err := rootfs.LiveRoot(c.State.Process.PID)
		alive := c.State.Process.alive()
		switch {
		case err == nil && alive:
			return root, nil
		case err == nil: // it may have been another process's root, of the same number
			return nil, errors.Join(errEnded, root.Close())
		case !alive:
			return nil, errEnded
		case !errors.Is(err, syscall.ESRCH):
			return nil, err
		}
		// It is ending: it has no root any more, and the last of its processes may still write to it.
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// mountedPaths lists the places of the container's mounts, as they are when links are followed.
func (c *Container) mountedPaths(root *os.File) ([]string, error) {
	var paths []string
	for _, m := range specMounts(c.Dir(), &c.Settings, container.DefaultSpec().Mounts) {
		path, err := sys.RealPath(root, m.Destination)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
			path, err = m.Destination, nil // it never started, or the container led the path elsewhere
		}
		if err != nil {
			return nil, fmt.Errorf("mount point %s: %w", m.Destination, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}
