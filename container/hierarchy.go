package container

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/internal/sys"
)

// cgroupRoot is where every distribution mounts the hierarchies.
const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is a cgroup hierarchy of the host: where it is mounted, the cgroup in it that this
// program is in, and for version 1 the controllers that are bound to it.
type hierarchy struct {
	mount, self string
	controllers []string
}

// hierarchies are the host's: unified is the cgroup2 one, its mount "" if there is none; legacy
// are those of version 1. With both it is called hybrid.
type hierarchies struct {
	unified hierarchy
	legacy  []hierarchy
	// own is a mount of the cgroup2 hierarchy that is ours, where the host has none: the hierarchy itself
	// is part of every kernel, and what a container needs of it (a device filter, the freezer, to be
	// born in it) needs no controller. It must be open for as long as the mount's path is used.
	own *os.File
}

// close ends the use of the hierarchies.
func (h hierarchies) close() {
	if h.own != nil {
		_ = h.own.Close()
	}
}

// openHierarchies finds the hierarchies, and mounts cgroup2 if the host has not. The caller closes them.
func openHierarchies() (hierarchies, error) {
	h, err := findHierarchies()
	if err == nil && h.unified.mount == "" {
		err = h.mountOwn()
	}
	return h, err
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
			h.unified.self = fields[2]
			for _, mount := range []string{cgroupRoot, cgroupRoot + "/unified"} {
				if isFS(mount, sys.MagicCgroup2) {
					h.unified.mount = mount
				}
			}
			continue
		}
		mount := cgroupRoot + "/" + strings.TrimPrefix(fields[1], "name=")
		if isFS(mount, sys.MagicCgroup) {
			h.legacy = append(h.legacy, hierarchy{mount, fields[2], strings.Split(fields[1], ",")})
		}
	}
	return h, nil
}

// CgroupVersion says which hierarchies the host has mounted: "1", "2", or both, "hybrid".
func CgroupVersion() (string, error) {
	h, err := findHierarchies()
	switch {
	case err != nil:
		return "", err
	case len(h.legacy) == 0:
		return "2", nil
	case h.unified.mount == "":
		return "1", nil
	default:
		return "hybrid", nil
	}
}

// mountOwn mounts the cgroup2 hierarchy for ourselves. Where that may not be, there is none.
//
// To mount it from the first cgroup namespace sets its options, for which Linux 6.18 waits for all
// processors (an RCU grace period, 10 ms). From another one whose root is the same it does not.
func (h *hierarchies) mountOwn() error {
	mount := func() {
		made, err := newFS("cgroup2", "cgroup2", nil, sys.AttrNoSuid|sys.AttrNoDev|sys.AttrNoExec)
		if err == nil {
			h.own, h.unified.mount = made, sys.FDPath(made)
		}
	}
	if h.unified.self != "/" {
		mount()
		return nil
	}
	return sys.InCgroupNamespace(mount)
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

// legacyOf gives the hierarchy of version 1 that a controller is bound to, or nil.
func (h hierarchies) legacyOf(controller string) *hierarchy {
	i := slices.IndexFunc(h.legacy, func(l hierarchy) bool { return slices.Contains(l.controllers, controller) })
	if i < 0 {
		return nil
	}
	return &h.legacy[i]
}

// unifiedControllers are those that the cgroup2 hierarchy has.
func (h hierarchies) unifiedControllers() ([]string, error) {
	if h.unified.mount == "" {
		return nil, nil
	}
	text, err := os.ReadFile(h.unified.mount + "/cgroup.controllers")
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(text)), nil
}

// directories are where a cgroup of that name can be in a hierarchy, the best first: below its root,
// or for a name that is not absolute beside our own cgroup, which is where a service manager lets
// users have cgroups (systemd's Delegate=, user.slice).
func (h hierarchy) directories(name string) []string {
	dirs := []string{filepath.Join(h.mount, name)}
	if beside := filepath.Dir(h.self); !strings.HasPrefix(name, "/") && beside != "/" && beside != "." && !strings.HasPrefix(h.self, "/..") {
		dirs = append(dirs, filepath.Join(h.mount, beside, name))
	}
	return dirs
}

// find gives the directory of a cgroup that exists, "" if there is none.
func (h hierarchy) find(name string) string {
	if h.mount == "" {
		return ""
	}
	for _, dir := range h.directories(name) {
		if _, err := os.Lstat(dir); err == nil {
			return dir
		}
	}
	return ""
}

// findCgroup gives the cgroup that [New] made by a specification's Linux.CgroupsPath, in every
// hierarchy that has it; [fs.ErrNotExist] if none has. Its descriptor is not opened.
func findCgroup(h hierarchies, name string) (*cgroup, error) {
	if err := checkCgroupName(name); err != nil {
		return nil, err
	}
	c := &cgroup{dir: h.unified.find(name)}
	for _, l := range h.legacy {
		if dir := l.find(name); dir != "" {
			c.legacy = append(c.legacy, legacyCgroup{hierarchy: l, dir: dir})
		}
	}
	if c.dir == "" && len(c.legacy) == 0 {
		return nil, fmt.Errorf("cgroup %s: %w", name, fs.ErrNotExist)
	}
	return c, nil
}

func checkCgroupName(name string) error {
	rel := strings.TrimPrefix(name, "/")
	if !filepath.IsLocal(rel) || filepath.Clean(rel) == "." || strings.Contains(name, ":") {
		return fmt.Errorf("cgroup path %q: %w: want a path below the root of a cgroup hierarchy", name, ErrSpec)
	}
	return nil
}

// mayNot tells whether an error says that this program has no right to a cgroup.
func mayNot(err error) bool {
	return errors.Is(err, fs.ErrPermission) || isReadOnly(err)
}

// HasLegacyController tells whether a controller is bound to a hierarchy of version 1.
func HasLegacyController(name string) bool {
	h, err := findHierarchies()
	return err == nil && h.legacyOf(name) != nil
}

// LimitsSwap tells whether swap can be limited: kernels may lack that.
func LimitsSwap() bool {
	h, err := findHierarchies()
	if err != nil {
		return false
	}
	if l := h.legacyOf("memory"); l != nil {
		_, err = os.Stat(l.mount + "/memory.memsw.limit_in_bytes")
	} else {
		_, err = os.Stat("/proc/swaps")
	}
	return err == nil
}
