package rootfs

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// openDir opens a directory, which must not be a symbolic link. Not with O_PATH: then reading its
// attributes would take the detour of a path.
func openDir(path string) (*os.File, error) {
	return os.OpenFile(path, syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
}

// openMade opens a directory of ours, and makes it where it is missing.
func openMade(path string, mode os.FileMode) (*os.File, error) {
	dir, err := openDir(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(path, mode); err != nil {
			return nil, err
		}
		return openDir(path)
	}
	return dir, err
}

// drop closes what was only read, or only held.
func drop[C io.Closer](files ...C) {
	for _, f := range files {
		_ = f.Close()
	}
}
