package logfile

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
)

// Name is the name of the n-th file of a log, 0 being the newest.
func Name(path string, n int) string {
	if n == 0 {
		return path
	}
	return path + "." + strconv.Itoa(n)
}

// Files says where a log is, and how much of it is kept.
type Files struct {
	Path    string
	MaxSize int64 // bytes of a file, after which another is begun; 0 for no limit
	MaxFile int   // how many files there are then, at least 1
}

// rotating is the newest file of a log.
type rotating struct {
	Files

	flags int      // of open(2)
	file  *os.File // nil if there can be none
	size  int64    // where to write
}

// open opens the newest file.
func (r *rotating) open() (err error) {
	if r.file, err = os.OpenFile(r.Path, r.flags|os.O_CREATE, 0o640); err != nil {
		return err
	}
	info, err := r.file.Stat()
	if err == nil {
		r.size = info.Size()
	}
	return err
}

// rotate begins another file, and gives the one that was the newest the name that ends in .1. If that has failed
// before, it tries to open one again.
func (r *rotating) rotate() error {
	if r.file != nil {
		_ = r.file.Close()
		r.file, r.size = nil, 0
		r.shift(r.MaxFile)
	}
	return r.open()
}

// shift gives the newest file the name that ends in .1, that one .2, and so on, until there are so many. The oldest goes.
//
// No file is renamed to a name that is taken: ext4 writes the renamed file to the disk then, at once (its
// option auto_da_alloc), which takes longer than to write it took.
func (r *rotating) shift(files int) {
	last := 1
	for last < files && exists(Name(r.Path, last)) {
		last++
	}
	if last >= files {
		last = max(files, 1) - 1
		removeSoon(Name(r.Path, last))
	}
	for n := last; n > 0; n-- {
		if err := os.Rename(Name(r.Path, n-1), Name(r.Path, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// removeSoon takes a file's name away, and has another thread free what it holds: that takes long, and the container
// would be waiting.
func removeSoon(name string) {
	held, err := os.Open(name)
	_ = os.Remove(name)
	if err == nil {
		go held.Close()
	}
}
