package rootless

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
)

// keeper is a process that keeps the user's namespaces: the one that does nothing else, or any other that is in them.
type keeper struct {
	pid           int
	start         uint64 // clock ticks since boot: with the number it names the process for good
	users, mounts uint64 // the namespaces' inodes
}

// String is what the file has: four numbers.
func (k keeper) String() string { return fmt.Sprintf("%d %d %d %d", k.pid, k.start, k.users, k.mounts) }

func parseKeeper(text string) (k keeper, ok bool) {
	n, err := fmt.Sscanf(text, "%d %d %d %d", &k.pid, &k.start, &k.users, &k.mounts)
	return k, n == 4 && err == nil
}

// keeperOf describes a process; [os.ErrProcessDone] if it is gone.
func keeperOf(pid int) (k keeper, err error) {
	k.pid = pid
	var dead bool
	if k.start, dead, err = sys.ProcessStart(pid); err != nil || dead {
		return k, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	if k.users, err = inode(pid, "user"); err == nil {
		k.mounts, err = inode(pid, "mnt")
	}
	return k, err
}

func inode(pid int, namespace string) (uint64, error) {
	info, err := os.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, namespace))
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil //nolint:forcetypeassert // this is Linux
}

// open opens the namespaces; [os.ErrProcessDone] if the process is gone.
func (k keeper) open() (users, mounts *os.File, err error) {
	users, err = sys.OpenNamespace(fmt.Sprintf("/proc/%d/ns/user", k.pid), sys.NewUser)
	if err == nil {
		mounts, err = sys.OpenNamespace(fmt.Sprintf("/proc/%d/ns/mnt", k.pid), sys.NewMount)
	}
	// If it still is that process now, those are its namespaces, or that error is about them.
	if start, dead, gone := sys.ProcessStart(k.pid); gone != nil || dead || start != k.start {
		err = os.ErrProcessDone
	}
	if err != nil {
		_, _ = users.Close(), mounts.Close() // of nil, that does nothing
		return nil, nil, err
	}
	return users, mounts, nil
}

// successor finds another process in the same namespaces, when the keeper has been killed: the monitor of a container,
// which nobody would reach from others.
func (k keeper) successor() (keeper, bool) {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return k, false
	}
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		other, err := keeperOf(pid) // an error of most: they are others'
		if err == nil && other.users == k.users && other.mounts == k.mounts {
			return other, true
		}
	}
	return k, false
}
