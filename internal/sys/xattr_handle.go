package sys

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// HandleXattrs gives, in byte order, the names of the extended attributes of the inode that an
// O_PATH handle, of a file of any kind, stands for. A file system without any is no error.
func HandleXattrs(handle *os.File) ([]string, error) {
	defer runtime.KeepAlive(handle)
	path := FDPath(handle)
	list, err := grow(func(buf []byte) (int, error) { return unix.Listxattr(path, buf) })
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && len(list) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listxattr %s: %w", handle.Name(), err)
	}
	names := strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00")
	slices.Sort(names)
	return names, nil
}

// HandleXattr gives the value of an extended attribute of the inode that an O_PATH handle, of a file
// of any kind, stands for, and whether there is one of that name.
func HandleXattr(handle *os.File, name string) (value []byte, ok bool, err error) {
	defer runtime.KeepAlive(handle)
	path := FDPath(handle)
	value, err = grow(func(buf []byte) (int, error) { return unix.Getxattr(path, name, buf) })
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("getxattr %s of %s: %w", name, handle.Name(), err)
	}
	return value, true, nil
}

// SetHandleXattr sets an extended attribute of the inode that an O_PATH handle, of a file of any
// kind, stands for.
func SetHandleXattr(handle *os.File, name string, value []byte) error {
	defer runtime.KeepAlive(handle)
	if err := unix.Setxattr(FDPath(handle), name, value, 0); err != nil {
		return fmt.Errorf("setxattr %s of %s: %w", name, handle.Name(), err)
	}
	return nil
}
