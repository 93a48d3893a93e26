package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/layer"
)

// dirsDriver extracts each layer once into $TARN_ROOT/layers/<diffID>/root, for kernels and file
// systems that cannot mount an index over a tar.
type dirsDriver struct {
	others erofsDriver // an earlier command may have had that driver
}

// wholeTree is the name of the extracted tree. It has it when it and all its contents are on the disk.
const wholeTree = "root"

func (*dirsDriver) Name() string { return Dirs }

func (*dirsDriver) Mount(ctx context.Context, l Layer) (*os.File, error) {
	id, err := l.hexID()
	if err != nil {
		return nil, err
	}
	whole := filepath.Join(l.Dir, wholeTree)
	if dir, err := openDir(whole); !errors.Is(err, os.ErrNotExist) {
		return dir, err
	}
	if err := extractOnce(ctx, l); err != nil {
		return nil, fmt.Errorf("extract layer %s: %w", id, err)
	}
	return openDir(whole)
}

func (*dirsDriver) Locate(l Layer) (driver, path string) {
	return Dirs, filepath.Join(l.Dir, wholeTree)
}

// Release leaves the tree, which lies in the layer's own directory and goes with it.
func (d *dirsDriver) Release(l Layer) error { return d.others.Release(l) }

// extractOnce extracts a layer unless another process did so while this one waited for the lock,
// which is the layer's directory's.
func extractOnce(ctx context.Context, l Layer) error {
	dir, err := openDir(l.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadLayer, err)
	}
	defer drop(dir)
	if err := sys.Flock(ctx, dir, true); err != nil {
		return err
	}
	whole := filepath.Join(l.Dir, wholeTree)
	if _, err := os.Lstat(whole); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// What a process that dies leaves there is collected like everything else.
	tree, err := atomicfile.MkdirTemp(l.Tmp)
	if err != nil {
		return err
	}
	defer drop(tree)
	if err := extractInto(ctx, tree, l); err != nil {
		return errors.Join(err, os.RemoveAll(tree.Name()))
	}
	if err := os.Rename(tree.Name(), whole); err != nil {
		return errors.Join(err, os.RemoveAll(tree.Name()))
	}
	return dir.Sync()
}

// extractInto returns when the disk has all of it.
func extractInto(ctx context.Context, tree *os.File, l Layer) error {
	tar, err := l.Open()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadLayer, err)
	}
	defer drop(tar)
	if err := tree.Chmod(0o755); err != nil { // unless the tar has another mode for it
		return err
	}
	if err := layer.Extract(ctx, tar, tree, layer.ExtractOptions{UserNamespace: sys.InUserNamespace()}); err != nil {
		return err
	}
	return sys.Syncfs(tree)
}
