package container

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
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

// Freeze stops the processes in the cgroup that [New] made for a container, and returns when none of
// them runs; thaw has them go on, once. path is the specification's Linux.CgroupsPath. [fs.ErrNotExist]
// says that the container has ended. Should nobody call thaw, since this process is killed, [Thaw]
// helps; killing a frozen process works. (Documentation/admin-guide/cgroup-v2.rst,
// cgroup.freeze.)
func Freeze(ctx context.Context, path string) (thaw func() error, err error) {
	h, err := openHierarchies()
	if err != nil {
		return nil, err
	}
	c, err := findCgroup(h, path)
	if err == nil && c.dir == "" || errors.Is(err, fs.ErrNotExist) && h.unified.mount == "" {
		err = ErrNoFreezer
	}
	if err != nil {
		h.close()
		return nil, err
	}
	thaw = func() error {
		defer h.close()
		err := writeFreeze(c.dir, "0")
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was killed
		}
		return err
	}
	err = writeFreeze(c.dir, "1")
	if err == nil {
		err = awaitFrozen(ctx, c.dir)
	}
	if err != nil {
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

// awaitFrozen waits until no process of the cgroup runs.
func awaitFrozen(ctx context.Context, dir string) error {
	deadline := time.Now().Add(freezeWait)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		text, err := os.ReadFile(dir + "/cgroup.events")
		if err != nil {
			return goneOr(err)
		}
		if bytes.Contains(text, []byte("frozen 1\n")) {
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
