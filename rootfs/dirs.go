package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/layer"
)

// dirsDriver extracts each layer once into $TARN_ROOT/layers/<diffID>/root, for kernels and file
// systems that cannot mount an index over a tar.
type dirsDriver struct{}

// The extracted tree has the first name while it may be incomplete, and the second when it and
// all its contents are on the disk.
const (
	partialTree = "root.partial"
	wholeTree   = "root"
)

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

// Release has nothing to do: the tree lies in the layer's own directory and goes with it.
func (*dirsDriver) Release(l Layer) error {
	_, err := l.hexID()
	return err
}

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
	root, err := os.OpenRoot(sys.FDPath(dir))
	if err != nil {
		return err
	}
	defer drop(root)
	if _, err := root.Lstat(wholeTree); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// A process that died left it; nobody alive can be at work in it, since we have the lock.
	if err := root.RemoveAll(partialTree); err != nil {
		return err
	}
	if err := extractInto(ctx, root, l); err != nil {
		return errors.Join(err, root.RemoveAll(partialTree))
	}
	if err := sys.Syncfs(dir); err != nil {
		return err
	}
	if err := root.Rename(partialTree, wholeTree); err != nil {
		return err
	}
	return dir.Sync()
}

func extractInto(ctx context.Context, root *os.Root, l Layer) error {
	tar, err := l.Open()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadLayer, err)
	}
	defer drop(tar)
	if err := root.Mkdir(partialTree, 0o755); err != nil {
		return err
	}
	tree, err := root.Open(partialTree)
	if err != nil {
		return err
	}
	defer drop(tree)
	return layer.Extract(ctx, tar, tree, layer.ExtractOptions{})
}
