package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/rootfs"
)

// Mount shows the whole root file system of a container, or of an image where no container has that
// name, and gives the directory. It stays there until Umount, or a reboot. An image's cannot be
// written; a container's is the container's own, running or not: what is written there it finds.
func (e *Engine) Mount(ctx context.Context, ref string) (string, error) {
	c, err := e.container(ctx, ref)
	if errors.Is(err, ErrNoContainer) {
		return e.mountImage(ctx, ref)
	}
	if err != nil {
		return "", err
	}
	return e.showContainer(ctx, c)
}

func (e *Engine) mountImage(ctx context.Context, ref string) (path string, err error) {
	err = e.undisturbedImage(ctx, ref, func(img *Image) (err error) {
		path, err = e.showImage(ctx, img)
		return err
	})
	if errors.Is(err, ErrNoImage) {
		return "", noObject(ref)
	}
	return path, err
}

func (e *Engine) showImage(ctx context.Context, img *Image) (string, error) {
	layers, err := e.openLowers(ctx, img.Config)
	if err != nil {
		return "", err
	}
	defer layers.close()
	root, err := rootfs.Overlay(layers, nil, nil, rootfs.OverlayOptions{Run: e.Store.Run()})
	if err != nil {
		return "", err
	}
	defer root.Close()
	if err := e.keepShown(img.ID, img.Config.RootFS.DiffIDs); err != nil {
		return "", err
	}
	return e.show(ctx, root, img.ID.Hex())
}

// showContainer holds the container's lock, so that it does not start or end meanwhile: a layer that
// can be written must be in one overlay only.
func (e *Engine) showContainer(ctx context.Context, c *Container) (_ string, err error) {
	lock, err := c.Lock(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	path := e.mountPath(c.ID)
	if there, err := rootfs.Mounted(path); there || err != nil {
		return path, err
	}
	root, err := e.containerRoot(ctx, c)
	if err != nil {
		return "", err
	}
	defer root.Close()
	return e.show(ctx, root, c.ID)
}

func (e *Engine) containerRoot(ctx context.Context, c *Container) (*os.File, error) {
	config, err := e.config(c)
	if err != nil {
		return nil, err
	}
	if err := c.reload(); err != nil {
		return nil, err
	}
	if ids, err := c.ids(); err != nil {
		return nil, err
	} else if ids != nil && c.Running() {
		return nil, fmt.Errorf("container %s has users of its own, to whom its files belong while it runs: stop it first, or use 'tarn cp'", c.Name)
	}
	if !c.Running() {
		return e.mountContainer(ctx, c.Container, config, mountOptions{fresh: c.State.StartedAt.IsZero()})
	}
	root, err := c.liveRoot(ctx)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.Name, err)
	}
	return root, nil
}

// show attaches a mount to its place. Another process may have done so just now.
func (e *Engine) show(ctx context.Context, root *os.File, id string) (string, error) {
	path := e.mountPath(id)
	err := rootfs.MountAt(ctx, root, path)
	if err != nil && !errors.Is(err, rootfs.ErrMounted) {
		return "", err
	}
	return path, nil
}

// MountRow is one line of "tarn mount": a root file system that is shown.
type MountRow struct {
	ID    string // the container's, or the image's without "sha256:"
	Name  string // the container's, or one of the image's; the beginning of the ID if there is none
	Image bool
	Path  string
}

// Mounts lists what Mount shows, by path.
func (e *Engine) Mounts(ctx context.Context) ([]MountRow, error) {
	entries, err := os.ReadDir(e.mountPath(""))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rows []MountRow
	for _, entry := range entries {
		row := MountRow{ID: entry.Name(), Path: e.mountPath(entry.Name())}
		if there, err := rootfs.Mounted(row.Path); err != nil {
			return nil, err
		} else if !there {
			continue
		}
		if err := e.nameMount(ctx, &row); err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// nameMount finds what is mounted. It may have been removed since.
func (e *Engine) nameMount(ctx context.Context, row *MountRow) error {
	c, err := e.container(ctx, row.ID)
	if err == nil {
		row.Name = c.Name
		return nil
	}
	if !errors.Is(err, ErrNoContainer) {
		return err
	}
	row.Image, row.Name = true, row.ID[:min(12, len(row.ID))]
	names, err := e.namesOf(image.Digest(image.SHA256 + ":" + row.ID))
	if len(names) > 0 {
		row.Name = familiar(names[0])
	}
	return err
}

// Umount takes away what Mount made.
func (e *Engine) Umount(ctx context.Context, ref string) error {
	id, err := e.mountedID(ctx, ref)
	if err != nil {
		return err
	}
	err = rootfs.Unmount(e.mountPath(id))
	if errors.Is(err, rootfs.ErrNotMounted) {
		return fmt.Errorf("%s is %w", ref, rootfs.ErrNotMounted)
	}
	if err != nil {
		return err
	}
	if err := os.Remove(e.shownPath(id)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// mountedID finds what ref may mean. What was removed since it was mounted is found by its ID.
func (e *Engine) mountedID(ctx context.Context, ref string) (string, error) {
	c, err := e.container(ctx, ref)
	if err == nil {
		return c.ID, nil
	}
	if !errors.Is(err, ErrNoContainer) {
		return "", err
	}
	img, err := e.Image(ref)
	if err == nil {
		return img.ID.Hex(), nil
	}
	if errors.Is(err, ErrNoImage) && isIDPrefix(ref) {
		matches, globErr := filepath.Glob(e.mountPath(strings.TrimPrefix(ref, "sha256:") + "*"))
		if globErr == nil && len(matches) == 1 {
			return filepath.Base(matches[0]), nil
		}
	}
	if errors.Is(err, ErrNoImage) {
		return "", noObject(ref)
	}
	return "", err
}
