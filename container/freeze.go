package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

var (
	// ErrNoFreezer says that processes cannot be stopped here.
	ErrNoFreezer = errors.New("this machine has no cgroup2 hierarchy to stop processes in")
	// ErrNotFrozen says that processes did not stop in time: one of them may wait for a disk or a network
	// in the kernel.
	ErrNotFrozen = errors.New("its processes did not stop")
)

// freezeWait bounds how long processes get to come out of the kernel.
const freezeWait = 10 * time.Second

// Freeze stops the processes in the cgroup that [Start] made for a container, and returns when none of
// them runs; thaw has them go on. path is the specification's Linux.CgroupsPath. [fs.ErrNotExist]
// says that the container has ended. Should nobody call thaw, since this process is killed, a
// later Freeze and thaw help; killing a frozen process works. (Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze.)
func Freeze(ctx context.Context, path string) (thaw func() error, err error) {
	path = strings.TrimPrefix(path, "/")
	if !filepath.IsLocal(path) {
		return nil, fmt.Errorf("cgroup path %q: %w", path, ErrSpec)
	}
	h, err := findHierarchies()
	if err != nil {
		return nil, err
	}
	if h.unified.mount == "" {
		return nil, ErrNoFreezer
	}
	dir := filepath.Join(h.unified.mount, path)
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
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.freeze"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return goneOr(err)
}

// goneOr tells by fs.ErrNotExist also of a cgroup that was removed while its file was open.
func goneOr(err error) error {
	if errors.Is(err, syscall.ENODEV) {
		return fs.ErrNotExist
	}
	return err
}

func awaitFrozen(ctx context.Context, dir string) error {
	deadline := time.Now().Add(freezeWait)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil {
			return goneOr(err)
		}
		if bytes.Contains(events, []byte("frozen 1\n")) {
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
