package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
)

// erofsDriver mounts each layer's index over its tar, once per host, at $TARN_RUN/layers/<diffID>.
type erofsDriver struct {
	run string
}

// layerAttrs: nobody has business with a layer but overlayfs, which looks at its own mount's
// attributes and not at its layers' when it decides on set-user-ID, devices and execution. So
// these take nothing from a container, and a path into $TARN_RUN offers nothing to the host.
const layerAttrs = sys.AttrReadOnly | sys.AttrNoSuid | sys.AttrNoDev | sys.AttrNoExec

// tarBlock is the unit in which an index points into a tar, and so the alignment its reads have.
const tarBlock = 512

func (*erofsDriver) Name() string { return Erofs }

func (d *erofsDriver) Mount(ctx context.Context, l Layer) (*os.File, error) {
	id, err := l.hexID()
	if err != nil {
		return nil, err
	}
	point := filepath.Join(d.run, "layers", id)
	if dir, err := mountedErofs(point); dir != nil || err != nil {
		return dir, err
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Someone may have mounted it while this process waited.
	if dir, err := mountedErofs(point); dir != nil || err != nil {
		return dir, err
	}
	mount, err := mountIndex(l)
	if err != nil {
		return nil, fmt.Errorf("mount layer %s: %w", id, err)
	}
	if err := attach(mount, point, 0o700); err != nil {
		drop(mount)
		return nil, fmt.Errorf("mount layer %s: %w", id, err)
	}
	return mount, nil
}

func (d *erofsDriver) Locate(l Layer) (driver, path string) {
	return Erofs, filepath.Join(d.run, "layers", strings.TrimPrefix(l.DiffID, "sha256:"))
}

func (d *erofsDriver) Release(l Layer) error {
	id, err := l.hexID()
	if err != nil {
		return err
	}
	unlock, err := d.lock(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	point := filepath.Join(d.run, "layers", id)
	err = sys.Unmount(point)
	if sys.IsBusy(err) {
		// Overlays do not make it busy, they hold a mount of their own: this is someone who
		// has a file or directory open there. It ends when they have closed it.
		err = sys.Detach(point)
	}
	if notMounted(err) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("release layer %s: %w", id, err)
	}
	if err := os.Remove(point); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("release layer %s: %w", id, err)
	}
	return nil
}

// lock keeps other processes and goroutines from mounting and unmounting layers. One lock serves
// all layers, because a mount takes well under a millisecond.
func (d *erofsDriver) lock(ctx context.Context) (unlock func(), err error) {
	layers, err := openMade(filepath.Join(d.run, "layers"), 0o700)
	if err != nil {
		return nil, err
	}
	if err := sys.Flock(ctx, layers, true); err != nil {
		drop(layers)
		return nil, err
	}
	return func() { drop(layers) }, nil
}

// mountedErofs opens point if an EROFS is mounted there, and gives nil if not. The type says
// enough: the directory below would have to be on a writable file system to have been made.
func mountedErofs(point string) (*os.File, error) {
	dir, err := openDir(point)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // not mounted is no error, and there is nothing to give
	}
	if err != nil {
		return nil, err
	}
	magic, err := sys.FSType(dir)
	if err == nil && magic == sys.MagicErofs {
		return dir, nil
	}
	drop(dir)
	return nil, err
}

// mountIndex gives a layer as a mount that is attached nowhere. When the kernel refuses, it finds
// out who is at fault by asking for a mount of an index that is known to be sound.
func mountIndex(l Layer) (*os.File, error) {
	tar, err := l.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadLayer, err)
	}
	defer drop(tar)
	mount, err := mountErofs(tar.Index, tar.Devices)
	if err == nil {
		return mount, nil
	}
	if probeErr := ProbeErofs(l.Dir); probeErr != nil {
		return nil, probeErr
	}
	return nil, fmt.Errorf("%w: %w", ErrBadLayer, err)
}

// mountErofs mounts an index with its extra devices, the layer's own first. Contents are read past
// the devices' page cache (directio), or they would be in memory twice, unless the disk's blocks
// are too big for that.
//
// Source: Documentation/filesystems/erofs.rst.
func mountErofs(index *os.File, devices []*os.File) (*os.File, error) {
	fs, err := sys.OpenFS("erofs")
	if errors.Is(err, syscall.ENODEV) {
		return nil, fmt.Errorf("%w: this kernel has no EROFS", ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	if err := fs.String("source", sys.FDPath(index)); err != nil {
		return nil, err
	}
	for _, device := range devices {
		if err := fs.String("device", sys.FDPath(device)); err != nil {
			return nil, err
		}
	}
	direct, err := sys.DirectIO(devices[0], tarBlock) // a store is one file system
	if err != nil {
		return nil, err
	}
	if direct {
		// Refused by kernels that do not know it: then contents are cached twice, and right.
		_ = fs.Flag("directio")
	}
	if err := fs.Create(); err != nil {
		return nil, err
	}
	return fs.Mount(layerAttrs)
}

// autoDriver uses EROFS mounts, and extracted directories once those were refused as unsupported.
type autoDriver struct {
	mounts, extracts Driver
	refused          atomic.Bool
}

func (*autoDriver) Name() string { return Auto }

func (d *autoDriver) Mount(ctx context.Context, l Layer) (*os.File, error) {
	if d.refused.Load() {
		return d.extracts.Mount(ctx, l)
	}
	dir, err := d.mounts.Mount(ctx, l)
	if !errors.Is(err, ErrUnsupported) {
		return dir, err
	}
	d.refused.Store(true)
	dir, extractErr := d.extracts.Mount(ctx, l)
	if extractErr != nil {
		return nil, fmt.Errorf("%w (tried because: %w)", extractErr, err)
	}
	return dir, nil
}

// Locate: a layer was extracted only if its mount was refused, and that is so until it is removed. Where
// it was neither mounted nor extracted yet, nobody knows, and a mount will be tried first.
func (d *autoDriver) Locate(l Layer) (driver, path string) {
	mounts, point := d.mounts.Locate(l)
	if dir, err := mountedErofs(point); err == nil && dir != nil {
		drop(dir)
		return mounts, point
	}
	extracts, tree := d.extracts.Locate(l)
	if _, err := os.Lstat(tree); err == nil {
		return extracts, tree
	}
	return mounts, point
}

func (d *autoDriver) Release(l Layer) error {
	return d.extracts.Release(l) // which looks for mounts, too
}
