package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/rootfs"
	"github.com/tarnfs/tarn/store"
)

// lowers are an image's layers as open directories, the topmost first.
type lowers []*os.File

func (l lowers) close() {
	for _, dir := range l {
		_ = dir.Close() // was only read
	}
}

// openLowers has the driver make the layers available, each once: where a layer comes again further up, it
// hides the lower one in full, and overlayfs does not take a directory twice. The caller closes them.
func (e *Engine) openLowers(ctx context.Context, config *image.Config) (lowers, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("mount layers: %w", os.ErrPermission) // before anything is tried
	}
	dirs := make(lowers, 0, len(config.RootFS.DiffIDs)+1) // room for an init layer
	for i, diffID := range slices.Backward(config.RootFS.DiffIDs) {
		if slices.Contains(config.RootFS.DiffIDs[i+1:], diffID) {
			continue
		}
		l, err := e.Store.Layer(diffID)
		if err != nil {
			dirs.close()
			return nil, err
		}
		dir, err := e.Driver.Mount(ctx, driverLayer(l))
		if err != nil {
			dirs.close()
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// openInit opens the init layer of an image, and makes it if this is the image's first container;
// nil if the image needs none. layers are what openLowers gave. A container of the image must exist
// already, so that no sweep takes the init layer away.
func (e *Engine) openInit(ctx context.Context, config *image.Config, layers lowers) (*os.File, error) {
	chain := image.ChainID(config.RootFS.DiffIDs)
	if chain == "" {
		return nil, nil //nolint:nilnil // without layers there is nothing to keep the mount points apart from
	}
	dir, found, err := e.Store.InitDir(chain)
	if err == nil && !found {
		err = e.makeInit(ctx, chain, layers)
	}
	if err != nil {
		return nil, err
	}
	return rootfs.OpenInit(dir)
}

func (e *Engine) makeInit(ctx context.Context, chain image.Digest, layers lowers) error {
	view, err := rootfs.Overlay(layers, nil, nil, rootfs.OverlayOptions{Run: e.Store.Run()})
	if err != nil {
		return err
	}
	defer view.Close()
	stage, err := e.Store.NewStage()
	if err != nil {
		return err
	}
	if err := rootfs.BuildInit(stage.Path(), view); err != nil {
		return errors.Join(err, stage.Abort())
	}
	lock, err := e.Store.Shared(ctx)
	if err == nil {
		err = errors.Join(e.Store.PublishInit(lock, stage, chain), lock.Unlock())
	}
	return errors.Join(err, stage.Abort())
}

// openStack gives what lies below a container's own layer: the init layer and the image's.
func (e *Engine) openStack(ctx context.Context, config *image.Config) (lowers, error) {
	layers, err := e.openLowers(ctx, config)
	if err != nil {
		return nil, err
	}
	initial, err := e.openInit(ctx, config, layers)
	if err != nil {
		layers.close()
		return nil, err
	}
	if initial != nil {
		layers = slices.Insert(layers, 0, initial)
	}
	return layers, nil
}

// mountOptions says how a container's root file system is to be mounted.
type mountOptions struct {
	fresh    bool           // the container's own layer was never mounted
	volatile bool           // the disk need not keep what a power cut may take
	owners   *rootfs.Owners // to whom files belong; nil: to whom they do on the disk
}

// mountContainer gives a container's root file system as a mount attached nowhere: its own layer over
// the init layer over the image's.
func (e *Engine) mountContainer(ctx context.Context, c *store.Container, config *image.Config, opts mountOptions) (*os.File, error) {
	stack, err := e.openStack(ctx, config)
	if err != nil {
		return nil, err
	}
	defer stack.close()
	base, err := sys.OpenPath(c.Dir())
	if err != nil {
		return nil, err
	}
	defer base.Close()
	if opts.fresh {
		if err := prepareUpper(base, stack); err != nil {
			return nil, err
		}
	} else if opts.volatile {
		if err := rootfs.ForgetVolatile(c.WorkDir()); err != nil {
			return nil, err
		}
	}
	layers := []*os.File(stack)
	if opts.owners != nil {
		layers = slices.Clone(layers)
		for i, dir := range append(layers, base) {
			mapped, err := opts.owners.Map(dir)
			if err != nil {
				return nil, err
			}
			if i < len(layers) {
				layers[i] = mapped
			} else {
				base = mapped
			}
		}
	}
	upper, err := sys.OpenEntry(base, "upper", sys.OpenDirectory)
	if err != nil {
		return nil, err
	}
	defer upper.Close()
	work, err := sys.OpenEntry(base, "work", sys.OpenDirectory)
	if err != nil {
		return nil, err
	}
	defer work.Close()
	return rootfs.Overlay(layers, upper, work, rootfs.OverlayOptions{Volatile: opts.volatile, Run: e.Store.Run(), Owners: opts.owners})
}

func prepareUpper(base *os.File, stack lowers) error {
	upper, err := sys.OpenEntry(base, "upper", sys.OpenDirectory)
	if err != nil {
		return err
	}
	defer upper.Close()
	return rootfs.PrepareUpper(upper, stack)
}
