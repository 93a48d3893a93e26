package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tarnfs/tarn/internal/sys"
)

// ContainerSize gives how many bytes a container's own files take, and with those of its image's
// layers. A running container may change them meanwhile.
func (e *Engine) ContainerSize(ctx context.Context, c *Container) (own, virtual int64, err error) {
	config, err := e.config(c)
	if err != nil {
		return 0, 0, err
	}
	image, err := e.size(config)
	if err == nil {
		own, err = treeSize(ctx, c.UpperDir())
	}
	if err != nil {
		return 0, 0, fmt.Errorf("container %s: %w", c.Name, err)
	}
	return own, own + image, nil
}

// treeSize adds up the regular files at path and below, each once. What is not on the disk does not
// count: holes, and the contents of files of which overlayfs has copied up no more than the metadata.
func treeSize(ctx context.Context, path string) (int64, error) {
	dir, err := sys.OpenPath(path)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	s := &sizing{counted: make(map[uint64]bool)}
	err = s.dir(ctx, dir)
	return s.total, err
}

type sizing struct {
	total   int64
	counted map[uint64]bool // inodes with several names
}

// dir goes through descriptors: a container may replace any name by a symbolic link at any moment.
func (s *sizing) dir(ctx context.Context, dir *os.File) error {
	entries, err := sys.OpenEntries(dir)
	if err != nil {
		return err
	}
	defer entries.Close()
	names, err := entries.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.entry(ctx, entries, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // what was removed since the directory was read is not counted
		}
	}
	return nil
}

func (s *sizing) entry(ctx context.Context, dir *os.File, name string) error {
	entry, err := sys.OpenBeneath(dir, name, sys.OpenNoFollow)
	if err != nil {
		return err
	}
	defer entry.Close()
	stat, err := sys.StatFile(entry)
	switch {
	case err != nil:
		return err
	case stat.IsDir():
		return s.dir(ctx, entry)
	case stat.IsRegular() && !s.counted[stat.Ino]:
		if stat.Nlink > 1 {
			s.counted[stat.Ino] = true
		}
		const blockSize = 512 // of Stat.Blocks
		s.total += min(stat.Size, int64(stat.Blocks)*blockSize)
	}
	return nil
}
