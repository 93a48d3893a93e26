package container

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// RemoveCgroup kills what is left in the cgroups that [New] made for a container and removes them: for
// containers whose runtime was killed. path is the specification's Linux.CgroupsPath; a cgroup that
// is not there is no error.
func RemoveCgroup(path string) error {
	h, err := openHierarchies()
	if err != nil {
		return err
	}
	defer h.close()
	c, err := findCgroup(h, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.remove()
}

// HasCgroup tells whether the cgroups that [New] made for a container are there: it runs, or has left them.
func HasCgroup(path string) (bool, error) {
	h, err := findHierarchies()
	if err != nil {
		return false, err
	}
	defer h.close()
	_, err = findCgroup(h, path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// IsCgroupEmpty tells whether no process is in the cgroup2 of that name, nor below it (cgroup.events in the kernel's
// admin-guide/cgroup-v2.rst). One that is not there is empty.
func IsCgroupEmpty(path string) (bool, error) {
	h, err := findHierarchies()
	if err != nil {
		return false, err
	}
	defer h.close()
	dir := h.unified.find(path)
	if dir == "" {
		return true, nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) { // removed in this moment
		return true, nil
	}
	return strings.Contains(string(text), "populated 0\n"), err
}
