package sys

import (
	"os"
	"strings"
)

// RealPath gives the absolute path, in the tree whose root directory root is, that path leads to when
// symbolic links are followed as a process with that root would. root must be the root of its
// mount. It needs /proc.
func RealPath(root *os.File, path string) (string, error) {
	f, err := OpenInRoot(root, path, OpenAny)
	if err != nil {
		return "", err
	}
	defer f.Close()
	// A mount that is attached nowhere has no place in the caller's tree, so the kernel names what is
	// in it from its root (fs/d_path.c, prepend_path); of one that is, root's own path comes first.
	real, err := os.Readlink(FDPath(f))
	if err != nil {
		return "", err
	}
	prefix, err := os.Readlink(FDPath(root))
	if err != nil {
		return "", err
	}
	return "/" + strings.TrimPrefix(strings.TrimPrefix(real, strings.TrimSuffix(prefix, "/")), "/"), nil
}
