// Package atomicfile replaces files so that a reader, or a machine that lost power, sees the old
// content or the new, never a part of either.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/tarnfs/tarn/internal/sys"
)

// tempPrefix begins the names of files that are not finished. A writer keeps its file flock'ed, so
// that one which nobody holds is known to be left over.
const tempPrefix = ".tmp-"

// Write replaces the file at path by data, and returns when the disk has it.
func Write(path string, data []byte, perm fs.FileMode) error {
	return write(path, perm, true, all(data))
}

// WriteFunc replaces the file at path by what fill writes, and returns when the disk has it. If fill
// fails the file is as it was.
func WriteFunc(path string, perm fs.FileMode, fill func(io.Writer) error) error {
	return write(path, perm, true, fill)
}

// Replace replaces the file at path by data for all other processes at once, and leaves it to the
// kernel when the disk has it. After a power cut the file may be the old one, the new one, empty, or
// zeros.
func Replace(path string, data []byte, perm fs.FileMode) error {
	return write(path, perm, false, all(data))
}

func all(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

func write(path string, perm fs.FileMode, durable bool, fill func(io.Writer) error) (err error) {
	f, err := CreateTemp(filepath.Dir(path), perm)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, errors.Join(err, ignoreMissing(os.Remove(f.Name()))))
		}
		// Closing gives up the lock, so it comes after the rename.
		err = errors.Join(err, f.Close())
	}()
	if err := fill(f); err != nil {
		return err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if durable {
		return SyncDir(filepath.Dir(path))
	}
	return nil
}

// CreateTemp makes an unfinished file in dir, open for reading and writing, which [Collect] leaves
// alone until it is closed. Rename it (its name is the file's Name) to finish it.
func CreateTemp(dir string, perm fs.FileMode) (*os.File, error) {
	for {
		f, err := os.CreateTemp(dir, tempPrefix)
		if err != nil {
			return nil, err
		}
		if claimed, err := claim(f); err != nil || !claimed {
			if err := errors.Join(err, f.Close(), ignoreMissing(os.Remove(f.Name()))); err != nil {
				return nil, err
			}
			continue
		}
		if err := f.Chmod(perm); err != nil {
			return nil, errors.Join(err, os.Remove(f.Name()), f.Close())
		}
		return f, nil
	}
}

// MkdirTemp makes an unfinished directory in dir, mode 0700, and opens it; as with [CreateTemp] it
// is safe from [Collect] until it is closed.
func MkdirTemp(dir string) (*os.File, error) {
	for {
		name, err := os.MkdirTemp(dir, tempPrefix)
		if err != nil {
			return nil, err
		}
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errors.Join(err, os.Remove(name))
		}
		if claimed, err := claim(f); claimed {
			return f, nil
		} else if err := errors.Join(err, f.Close(), ignoreMissing(os.Remove(name))); err != nil {
			return nil, err
		}
	}
}

// RemoveAll is [os.RemoveAll], and removes the directories in dir side by side, and beside its files: many a file
// system waits for its disk at each.
func RemoveAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return os.RemoveAll(dir) // it is a file
	}
	var all sync.WaitGroup
	var files []string
	for _, entry := range entries[:min(len(entries), maxSideBySide)] {
		path := filepath.Join(dir, entry.Name())
		if entry.IsDir() {
			all.Go(func() { _ = os.RemoveAll(path) })
		} else {
			files = append(files, path)
		}
	}
	for _, path := range files {
		_ = os.Remove(path)
	}
	all.Wait()
	return os.RemoveAll(dir) // also what could not be removed above, and says why
}

const maxSideBySide = 16

// Entomb takes what is at path out of its place at once, to be removed then: it is moved into dir, on the same
// file system, as an unfinished one, which [Collect] removes if nobody else does. It says where it is now.
func Entomb(path, dir string) (grave string, err error) {
	grave = filepath.Join(dir, tempPrefix+strconv.FormatUint(rand.Uint64(), 36))
	return grave, os.Rename(path, grave)
}

// claim locks a fresh file or directory. A collector, or somebody who only looks, may take it in the
// moment before that: then claim is false, and it is to be removed and another one made.
func claim(f *os.File) (bool, error) {
	locked, err := sys.TryFlock(f, true)
	if err != nil || !locked {
		return false, err
	}
	opened, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(opened, named), err
}

// IsTemp reports whether a file of this name in a directory is an unfinished one of this package.
func IsTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }

// Collect removes the unfinished files and directories in dir whose makers have died.
func Collect(dir string) error { return CollectWith(dir, os.RemoveAll) }

// CollectWith is Collect that has remove remove what is at a path.
func CollectWith(dir string, remove func(path string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("collect leftovers: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if IsTemp(entry.Name()) && (entry.Type().IsRegular() || entry.IsDir()) {
			errs = append(errs, collect(filepath.Join(dir, entry.Name()), remove))
		}
	}
	return errors.Join(errs...)
}

func collect(path string, remove func(path string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return ignoreMissing(err)
	}
	defer f.Close()
	if locked, err := sys.TryFlock(f, true); err != nil || !locked {
		return err
	}
	return remove(path)
}

// SyncDir waits until the disk has dir's entries.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync: %w", err), f.Close())
	}
	return f.Close()
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
