package container

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

// Frozen tells whether a container's processes were stopped by [Freeze]. path is the specification's
// Linux.CgroupsPath; a container without a cgroup cannot be stopped.
func Frozen(path string) (frozen bool, err error) {
	err = inFreezer(path, func(dir string) error {
		text, err := os.ReadFile(dir + "/cgroup.freeze")
		frozen = strings.TrimSpace(string(text)) == "1"
		return err
	})
	return frozen, err
}

// Thaw has a container's processes go on that [Freeze] stopped, also in another program. path is the
// specification's Linux.CgroupsPath; a container that has ended is no error.
func Thaw(path string) error {
	return inFreezer(path, func(dir string) error { return writeFreeze(dir, "0") })
}

// inFreezer does something in a container's cgroup, if it has one.
func inFreezer(path string, do func(dir string) error) error {
	h, err := findHierarchies()
	if err != nil {
		return err
	}
	defer h.close()
	c, err := findCgroup(h, path)
	if err == nil && c.dir != "" {
		err = do(c.dir)
	}
	if err = goneOr(err); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
