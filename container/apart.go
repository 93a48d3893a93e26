package container

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// OpenCgroupApart gives a cgroup of version 2, called name and made if need be, that does not end with the service or
// session that this program is part of: systemd kills what is in theirs. It is nil where there is no need for it, or this
// program may not make it. It stays when it is empty.
func OpenCgroupApart(name string) *os.File {
	h, err := findHierarchies()
	if err != nil || h.unified.mount == "" || h.unified.self == "/" {
		return nil
	}
	path := filepath.Join(h.unified.mount, name)
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil
	}
	return dir
}
