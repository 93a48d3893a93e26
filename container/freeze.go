package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

var (
	// ErrNoFreezer says that processes cannot be stopped here.
	ErrNoFreezer = errors.New("this machine has no cgroup hierarchy to stop processes in")
	// ErrNotFrozen says that processes did not stop in time: one of them may wait for a disk or a network
	// in the kernel.
	ErrNotFrozen = errors.New("its processes did not stop")
)

// freezeWait bounds how long processes get to come out of the kernel.
const freezeWait = 10 * time.Second

// Freeze stops the processes in the cgroup that [Start] made for a container, and returns when none of
// them runs; thaw has them go on. path is the specification's Linux.CgroupsPath. [fs.ErrNotExist]
// says that the container has ended. Should nobody call thaw, since this process is killed, a
// later Freeze and thaw help; killing a frozen process works. (Documentation/admin-guide/cgroup-v2.rst,
// cgroup.freeze.)
func Freeze(ctx context.Context, path string) (thaw func() error, err error) {
	h, err := findHierarchies()
	if err != nil {
		return nil, err
	}
	c, err := findCgroup(h, path)
	if errors.Is(err, fs.ErrNotExist) && h.unified.mount == "" && h.legacyOf("freezer") == nil {
		return nil, ErrNoFreezer
	}
	if err != nil {
		return nil, err
	}
	if c.dir == "" {
		return c.freezeLegacy(ctx, h, path)
	}
	dir := c.dir
	thaw = func() error {
		err := writeFreeze(dir, "0")
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was killed
		}
		return err
	}
	if err := writeFreeze(dir, "1"); err != nil {
		return nil, err
	}
	if err := awaitFrozen(ctx, dir); err != nil {
		return nil, errors.Join(err, thaw())
	}
	return thaw, nil
}

func writeFreeze(dir, value string) error {
	return goneOr(writeCgroup(dir+"/cgroup.freeze", value))
}

// goneOr tells by fs.ErrNotExist also of a cgroup that was removed while its file was open.
func goneOr(err error) error {
	if errors.Is(err, syscall.ENODEV) {
		return fs.ErrNotExist
	}
	return err
}

func awaitFrozen(ctx context.Context, dir string) error {
	return awaitContent(ctx, dir+"/cgroup.events", "frozen 1\n")
}

// awaitContent waits until a cgroup's file has a line.
func awaitContent(ctx context.Context, file, line string) error {
	deadline := time.Now().Add(freezeWait)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		text, err := os.ReadFile(file)
		if err != nil {
			return goneOr(err)
		}
		if bytes.Contains(text, []byte(line)) {
			return nil
		}
		if time.Now().After(deadline) {
			return ErrNotFrozen
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// freezeLegacy stops the processes with the freezer of version 1, which a container joins when it is
// first needed. (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst.)
func (c *cgroup) freezeLegacy(ctx context.Context, h hierarchies, name string) (thaw func() error, err error) {
	if h.legacyOf("freezer") == nil {
		return nil, ErrNoFreezer
	}
	if c.legacyDir("freezer") == "" {
		if err := c.makeLegacy(h, name, "freezer"); err != nil {
			return nil, err
		}
		added := c.legacy[len(c.legacy)-1]
		defer added.procs.Close()
	}
	dir := c.legacyDir("freezer")
	thaw = func() error {
		err := goneOr(writeCgroup(dir+"/freezer.state", "THAWED"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	// A process that is moved may have made another one before: until there is none outside.
	for outside := -1; outside != 0; {
		if outside, err = moveAll(c.legacy[0].dir, dir); err != nil {
			return nil, errors.Join(err, thaw())
		}
		if err := goneOr(writeCgroup(dir+"/freezer.state", "FROZEN")); err != nil {
			return nil, errors.Join(err, thaw())
		}
	}
	if err := awaitContent(ctx, dir+"/freezer.state", "FROZEN\n"); err != nil {
		return nil, errors.Join(err, thaw())
	}
	return thaw, nil
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
