package sys

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ListXattrs gives the names of f's extended attributes as the kernel orders them. A file system
// without any is no error.
func ListXattrs(f *os.File) ([]string, error) {
	list, err := grow(func(buf []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), buf) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listxattr %s: %w", f.Name(), err)
	}
	return strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 }), nil
}

// GetXattr gives the value of one of f's extended attributes, at most 64 KiB; nil where f has no such
// attribute, or its file system none at all.
func GetXattr(f *os.File, name string) ([]byte, error) {
	value, err := grow(func(buf []byte) (int, error) {
		n, err := unix.Fgetxattr(int(f.Fd()), name, buf)
		if errors.Is(err, unix.EBADF) { // O_PATH
			return unix.Getxattr(FDPath(f), name, buf)
		}
		return n, err
	})
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("getxattr %s of %s: %w", name, f.Name(), err)
	}
	return value, nil
}

// SetXattr sets one of f's extended attributes, new or not.
func SetXattr(f *os.File, name string, value []byte) error {
	if err := unix.Fsetxattr(int(f.Fd()), name, value, 0); err != nil {
		return fmt.Errorf("setxattr %s of %s: %w", name, f.Name(), err)
	}
	return nil
}

// maxXattr is the kernel's XATTR_SIZE_MAX and XATTR_LIST_MAX (linux/limits.h).
const maxXattr = 64 << 10

// grow reads with a buffer that is made bigger until the answer fits.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := retryIntr(func() (int, error) { return read(buf) })
		if err == nil {
			return buf[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size >= maxXattr {
			return nil, err
		}
	}
}
