package sys

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ListXattrsAt is [ListXattrs] of a single name in an open directory, of whatever type it is and
// without following or opening it. It needs /proc.
func ListXattrsAt(dir *os.File, name string) ([]string, error) {
	path := procPath(dir, name)
	list, err := grow(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listxattr %s: %w", name, err)
	}
	return strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 }), nil
}

// GetXattrAt is [GetXattr] of a single name in an open directory, of whatever type it is and
// without following or opening it. It needs /proc.
func GetXattrAt(dir *os.File, name, attr string) ([]byte, error) {
	path := procPath(dir, name)
	value, err := grow(func(buf []byte) (int, error) { return unix.Lgetxattr(path, attr, buf) })
	if err != nil {
		return nil, fmt.Errorf("getxattr %s of %s: %w", attr, name, err)
	}
	return value, nil
}

// procPath names an entry of an open directory: getxattrat(2) came only with Linux 6.13.
func procPath(dir *os.File, name string) string {
	return "/proc/self/fd/" + strconv.FormatUint(uint64(dir.Fd()), 10) + "/" + name
}
