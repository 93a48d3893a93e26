package container

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/tarnfs/tarn/internal/sys"
)

// RemoveCgroup kills what is left in a cgroup that [Start] made for a container and removes it: for
// containers whose runtime was killed. path is the specification's Linux.CgroupsPath; a cgroup that
// is not there is no error.
func RemoveCgroup(path string) error {
	path = strings.TrimPrefix(path, "/")
	if !filepath.IsLocal(path) {
		return fmt.Errorf("cgroup path %q: %w", path, ErrSpec)
	}
	h, err := findHierarchies()
	if err != nil || h.unified.mount == "" {
		return err
	}
	c := &cgroup{dir: filepath.Join(h.unified.mount, path)}
	c.fd, err = sys.OpenPath(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.remove()
}
