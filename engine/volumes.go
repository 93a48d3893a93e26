package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/internal/copytree"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/store"
)

// prepareMounts makes what the container's mounts need on the host: directories that are missing, and
// volumes that are new. root is the container's root file system, not running yet.
func (e *Engine) prepareMounts(c *Container, root *os.File) error {
	for _, m := range c.Settings.Mounts {
		var err error
		switch m.Type {
		case mountBind:
			if !m.MustExist {
				err = makeMissing(m.Source)
			}
			if err == nil {
				err = checkPropagation(m)
			}
		case mountVolume:
			err = e.prepareVolume(c, m, root)
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	return nil
}

// prepareVolume makes a volume if it is new. One without anything in it gets what the image has there, as in
// Docker, before the container runs for the first time.
func (e *Engine) prepareVolume(c *Container, m MountPoint, root *os.File) error {
	fill := func(dir *os.File) error { return copyUp(dir, root, m.Destination) }
	if m.NoCopy {
		fill = nil
	}
	durable := !c.Settings.Host.AutoRemove || !m.Anonymous
	rec := store.VolumeRecord{Name: m.Name, Created: time.Now().UTC(), Anonymous: m.Anonymous, Labels: m.VolumeLabels}
	made, err := e.Store.MakeVolume(rec, durable, fill)
	if err != nil || made || m.NoCopy || !c.State.StartedAt.IsZero() {
		return err
	}
	if own, err := e.Store.VolumePath(m.Name); err != nil || own != m.Source {
		return err // it is a directory of the host's
	}
	return e.Store.WithVolume(m.Name, func(dir *os.File) error {
		if empty, err := isEmpty(dir); err != nil || !empty {
			return err
		}
		return copyUp(dir, root, m.Destination)
	})
}

func isEmpty(dir *os.File) (bool, error) {
	again, err := os.Open(sys.FDPath(dir)) // reading moves the file's position
	if err != nil {
		return false, err
	}
	defer again.Close()
	_, err = again.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
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

// relocateVolumes corrects where a container's volumes were when it was made: the store may have been copied to another
// place since, and its containers are not to write to the volumes of the one that it was copied from.
func (e *Engine) relocateVolumes(c *Container) error {
	for i := range c.Settings.Mounts {
		m := &c.Settings.Mounts[i]
		if m.Type != mountVolume {
			continue
		}
		here, err := e.Store.VolumePath(m.Name)
		if err != nil {
			return err
		}
		was := filepath.Join("/volumes", m.Name, filepath.Base(here))
		if m.Source == here || !strings.HasSuffix(m.Source, was) {
			continue // as almost always, or a directory of the host's
		}
		m.Source = here
		if v, err := e.volume(m.Name); err == nil { // if not, whoever starts the container is told
			m.Source = v.source()
		}
	}
	return nil
}

// ownVolumes are the names of the volumes that were made for this container.
func (c *Container) ownVolumes() []string {
	var names []string
	for _, m := range c.Settings.Mounts {
		if m.Type == mountVolume && m.Anonymous {
			names = append(names, m.Name)
		}
	}
	return names
}

// removeVolumes removes the volumes that were made for a container, when it is gone. Those that others
// have by now (--volumes-from) stay.
func (e *Engine) removeVolumes(ctx context.Context, c *Container) error {
	names := c.ownVolumes()
	if len(names) == 0 {
		return nil
	}
	_, err := e.removeUnused(ctx, !c.Settings.Host.AutoRemove, func(users map[string][]string) ([]string, error) {
		return slices.DeleteFunc(names, func(name string) bool { return len(users[name]) > 0 }), nil
	})
	if errors.Is(err, store.ErrDamaged) {
		return nil // a container that cannot be read may have them: 'tarn volume prune' is for later
	}
	return err
}
