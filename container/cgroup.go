package container

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
)

// cgroupRoot is where every distribution mounts the hierarchies.
const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is a cgroup hierarchy of the host: where it is mounted, and the cgroup in it that this
// program is in.
type hierarchy struct{ mount, self string }

// hierarchies are the host's: unified is the cgroup2 one, its mount "" if there is none; legacy
// are those of version 1. With both it is called hybrid.
type hierarchies struct {
	unified hierarchy
	legacy  []hierarchy
}

// findHierarchies reads /proc/self/cgroup (cgroups(7)) and believes a mount only if it is of the
// kind it should be.
func findHierarchies() (hierarchies, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return hierarchies{}, err
	}
	var h hierarchies
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		fields := strings.SplitN(s.Text(), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if fields[0] == "0" {
			for _, mount := range []string{cgroupRoot, cgroupRoot + "/unified"} {
				if isFS(mount, sys.MagicCgroup2) {
					h.unified = hierarchy{mount, fields[2]}
				}
			}
			continue
		}
		mount := cgroupRoot + "/" + strings.TrimPrefix(fields[1], "name=")
		if isFS(mount, sys.MagicCgroup) {
			h.legacy = append(h.legacy, hierarchy{mount, fields[2]})
		}
	}
	return h, nil
}

func isFS(dir string, magic int64) bool {
	f, err := sys.OpenPath(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	got, err := sys.FSType(f)
	return err == nil && got == magic
}

// cgroup is a cgroup of a container's own, in the cgroup2 hierarchy.
type cgroup struct {
	dir string
	fd  *os.File
}

// makeCgroup makes the cgroup that the specification names. Where there is no cgroup2 hierarchy, or
// it may not be written, it gives nil.
func makeCgroup(h hierarchies, name string) (*cgroup, error) {
	name = strings.TrimPrefix(name, "/")
	if !filepath.IsLocal(name) || strings.Contains(name, ":") {
		return nil, fmt.Errorf("cgroup path %q: %w: want a path below the cgroup2 hierarchy", name, ErrSpec)
	}
	if h.unified.mount == "" {
		return nil, nil //nolint:nilnil // documented: the machine has none
	}
	dir := filepath.Join(h.unified.mount, name)
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(dir), 0o755); err == nil {
			err = os.Mkdir(dir, 0o755)
		}
	}
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		return nil, nil //nolint:nilnil // documented: none that we may use
	}
	if errors.Is(err, fs.ErrExist) {
		// One without a process in it was left by a runtime that was killed.
		if err = os.Remove(dir); err == nil {
			err = os.Mkdir(dir, 0o755)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	c := &cgroup{dir: dir}
	if c.fd, err = sys.OpenPath(dir); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return c, nil
}

// removeWait bounds how long the kernel gets for ending killed processes.
const removeWait = 10 * time.Second

// remove kills what is left in the cgroup and removes it.
func (c *cgroup) remove() error {
	if c == nil {
		return nil
	}
	_ = c.fd.Close()
	if err := os.Remove(c.dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.WriteFile(c.dir+"/cgroup.kill", []byte("1"), 0); err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	deadline := time.Now().Add(removeWait)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := removeTree(c.dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		time.Sleep(pause)
	}
}

// removeTree removes a cgroup and those the container made in it. (Their files are not removed:
// they vanish with them.)
func removeTree(dir string) error {
	err := os.Remove(dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return readErr
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(path.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}
