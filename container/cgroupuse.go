package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container/cgroups"
)

// SetResources changes the limits of a container that runs; what resources does not name stays.
// path is the specification's Linux.CgroupsPath; [fs.ErrNotExist] says that the container has ended.
// Devices are not among what can be changed.
func SetResources(ctx context.Context, path string, resources *specs.LinuxResources) error {
	h, err := openHierarchies()
	if err != nil {
		return err
	}
	defer h.close()
	c, err := findCgroup(h, path)
	if err != nil {
		return err
	}
	l, err := sortLimits(h, resources)
	if err != nil {
		return err
	}
	if c.dir == "" && len(l.controllers) > 0 {
		return fmt.Errorf("set limits: %w: the container has no cgroup of its own there", ErrUnsupported)
	}
	if c.dir != "" {
		if err := h.enable(filepath.Dir(c.dir), l.controllers); err != nil {
			return err
		}
	}
	known := len(c.legacy)
	for _, controller := range l.subsystems {
		if err := c.makeLegacy(h, path, controller); err != nil {
			return err
		}
	}
	defer func() {
		for _, added := range c.legacy[known:] {
			_ = added.tasks.Close()
		}
	}()
	if err := l.apply(c); err != nil {
		return err
	}
	return c.moveInto(ctx, path, c.legacy[known:])
}

// moveInto moves the container's processes into cgroups of version 1 that it had no need of before.
// They stand still meanwhile, so that none makes another one outside.
func (c *cgroup) moveInto(ctx context.Context, path string, added []legacyCgroup) (err error) {
	if len(added) == 0 {
		return nil
	}
	from := c.dir
	if from == "" {
		from = c.legacy[0].dir
	} else {
		thaw, err := Freeze(ctx, path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, thaw()) }()
	}
	for _, l := range added {
		for moved := -1; moved != 0; { // without a freezer, one may have made another one meanwhile
			if moved, err = moveAll(from, l.dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// AddProcess puts a process into a cgroup of version 2, which it makes if it is not there. path is one as a
// specification's Linux.CgroupsPath is; where that version is not mounted, nothing happens.
func AddProcess(path string, pid int) error {
	h, err := findHierarchies()
	if err != nil || h.unified.mount == "" {
		return err
	}
	if err := checkCgroupName(path); err != nil {
		return err
	}
	dir := filepath.Join(h.unified.mount, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	return writeCgroup(dir+"/cgroup.procs", strconv.Itoa(pid))
}

// moveAll moves the processes of a cgroup into one of another hierarchy, and gives how many were not
// there yet.
func moveAll(from, to string) (moved int, err error) {
	there, err := cgroupProcesses(to)
	if err != nil {
		return 0, err
	}
	pids, err := cgroupProcesses(from)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if slices.Contains(there, pid) {
			continue
		}
		err := writeCgroup(to+"/cgroup.procs", strconv.Itoa(pid))
		if errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return moved, fmt.Errorf("move process %d into %s: %w", pid, to, err)
		}
		moved++
	}
	return moved, nil
}

// Processes gives the processes in a container's cgroup and in those it made below, ascending.
// path is the specification's Linux.CgroupsPath; a cgroup that is not there has none.
func Processes(path string) ([]int, error) {
	h, err := openHierarchies()
	if err != nil {
		return nil, err
	}
	defer h.close()
	c, err := findCgroup(h, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if c.dir != "" {
		return cgroupProcesses(c.dir)
	}
	return cgroupProcesses(c.legacy[0].dir)
}

// cgroupProcesses lists the processes of a cgroup and all below it.
func cgroupProcesses(dir string) (pids []int, err error) {
	err = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(name + "/cgroup.procs")
		if err != nil {
			return goneOr(err)
		}
		for line := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(line)
			if err != nil {
				return err
			}
			pids = append(pids, pid)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	slices.Sort(pids)
	return slices.Compact(pids), err
}

// Stats gives what a container uses, of what its cgroups count: controllers that it has no limit of
// may be missing. path is the specification's Linux.CgroupsPath.
func Stats(path string) (*cgroups.Stats, error) {
	h, err := openHierarchies()
	if err != nil {
		return nil, err
	}
	defer h.close()
	c, err := findCgroup(h, path)
	if err != nil {
		return nil, err
	}
	stats := &cgroups.Stats{Hugetlb: make(map[string]cgroups.MemoryEntry)}
	if c.dir != "" {
		if stats, err = cgroups.Read(c.dir); err != nil {
			return nil, err
		}
	}
	dirs := make(map[string]string)
	for _, l := range c.legacy {
		for _, controller := range l.controllers {
			dirs[controller] = l.dir
		}
	}
	return stats, cgroups.ReadLegacy(dirs, stats)
}
