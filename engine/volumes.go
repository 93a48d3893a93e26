package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/internal/copytree"
	"github.com/tarnfs/tarn/internal/sys"
)

// prepareMounts makes what the container's mounts need on the host: directories that are missing, and
// volumes that are new. root is the container's root file system, not running yet.
func (e *Engine) prepareMounts(c *Container, root *os.File) error {
	for _, m := range c.Settings.Mounts {
		var err error
		switch m.Type {
		case mountBind:
			if err = makeMissing(m.Source); err == nil {
				err = checkPropagation(m)
			}
		case mountVolume:
			durable := !c.Settings.Host.AutoRemove || !m.Anonymous
			_, err = e.Store.MakeVolume(m.Name, durable, func(dir *os.File) error {
				if m.NoCopy {
					return nil
				}
				return copyUp(dir, root, m.Destination)
			})
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	return nil
}

// makeMissing makes a directory of the host where nothing is, as Docker does for -v.
func makeMissing(path string) error {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(path, 0o755)
	}
	return err
}

// checkPropagation refuses what would do nothing: from a mount that tells nobody of its events, there
// is nothing to hear.
func checkPropagation(m MountPoint) error {
	kind := strings.TrimPrefix(m.Propagation, "r")
	if kind != "shared" && kind != "slave" {
		return nil
	}
	source, err := sys.OpenSource(m.Source)
	if err != nil {
		return err
	}
	defer source.Close()
	shared, slave, err := sys.Propagation(source)
	if err != nil || shared || slave && kind == "slave" {
		return err
	}
	return fmt.Errorf("%w: %s: %s is not on a shared mount: use 'mount --make-shared', or leave that out", ErrOption, m.Propagation, m.Source)
}

// copyUp fills a new volume with what the image has at its place, owner and mode included.
func copyUp(volume, root *os.File, dest string) error {
	from, err := sys.OpenInRoot(root, dest, sys.OpenRead|syscall.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.Close()
	return copytree.Copy(volume, from)
}

// removeVolumes removes the volumes that were made for this container alone.
func (e *Engine) removeVolumes(c *Container) error {
	var errs []error
	for _, m := range c.Settings.Mounts {
		if m.Type == mountVolume && m.Anonymous {
			errs = append(errs, e.Store.RemoveVolume(m.Name))
		}
	}
	return errors.Join(errs...)
}
