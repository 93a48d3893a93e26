// Package diskusage adds up what files take.
package diskusage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tarnfs/tarn/internal/sys"
)

// Of gives the bytes that path and all below it take on the disk, as du(1) does: the blocks of every inode
// once, those of directories, too. What is removed meanwhile is not counted; a path that is not
// there takes nothing.
func Of(ctx context.Context, path string) (int64, error) {
	parent, err := sys.OpenPath(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer parent.Close()
	s := &sum{counted: make(map[uint64]bool), bytes: blocks}
	err = s.entry(ctx, parent, filepath.Base(path))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s.total, err
}

// Self gives the bytes that path itself takes, without what is below it.
func Self(_ context.Context, path string) (int64, error) {
	f, err := sys.OpenPath(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	stat, err := sys.StatFile(f)
	return blocks(&stat), err
}

// Contents adds up the regular files below path, each once. What is not on the disk does not count: holes,
// and the contents of files of which overlayfs has copied up no more than the metadata.
func Contents(ctx context.Context, path string) (int64, error) {
	dir, err := sys.OpenPath(path)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	s := &sum{counted: make(map[uint64]bool), bytes: func(stat *sys.Stat) int64 {
		if !stat.IsRegular() {
			return 0
		}
		return min(stat.Size, blocks(stat))
	}}
	err = s.dir(ctx, dir)
	return s.total, err
}

// blocks gives what an inode takes on the disk.
func blocks(stat *sys.Stat) int64 {
	const blockSize = 512 // of Stat.Blocks
	return int64(stat.Blocks) * blockSize
}

type sum struct {
	bytes   func(*sys.Stat) int64
	total   int64
	counted map[uint64]bool // inodes with several names
}

// dir goes through descriptors: a container may replace any name by a symbolic link at any moment.
func (s *sum) dir(ctx context.Context, dir *os.File) error {
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

func (s *sum) entry(ctx context.Context, dir *os.File, name string) error {
	entry, err := sys.OpenBeneath(dir, name, sys.OpenNoFollow)
	if err != nil {
		return err
	}
	defer entry.Close()
	stat, err := sys.StatFile(entry)
	if err != nil || s.counted[stat.Ino] {
		return err
	}
	s.total += s.bytes(&stat)
	if stat.IsDir() {
		return s.dir(ctx, entry)
	}
	if stat.Nlink > 1 {
		s.counted[stat.Ino] = true
	}
	return nil
}
