package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// OpenPath opens a directory without access to its entries (O_PATH): enough to stand for it in
// mounts and lookups. A symbolic link at the path's end is an error.
func OpenPath(path string) (*os.File, error) {
	flags := unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := retryIntr(func() (int, error) { return unix.Open(path, flags, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
