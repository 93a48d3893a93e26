package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Feature is something that a kernel may lack.
type Feature struct {
	Name  string
	Since string // the first Linux that has it
	has   func() bool
}

// Has asks the kernel.
func (f Feature) Has() bool { return f.has() }

// Features are what containers cannot do without, the oldest first. Nothing is asked unless
// something has failed: a start costs nothing for it.
func Features() []Feature {
	const nobody = ^uintptr(0) // no descriptor
	call := func(name, since string, nr uintptr, args ...uintptr) Feature {
		return Feature{name, since, func() bool {
			var a [6]uintptr
			copy(a[:], args)
			_, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
			return errno != unix.ENOSYS
		}}
	}
	namespace := func(kind, since string) Feature {
		return Feature{kind + " namespaces", since, func() bool {
			_, err := os.Lstat("/proc/self/ns/" + kind)
			return !errors.Is(err, os.ErrNotExist)
		}}
	}
	return []Feature{
		namespace("mnt", "2.4.19"), namespace("uts", "2.6.19"), namespace("ipc", "2.6.19"),
		namespace("pid", "2.6.24"), namespace("net", "2.6.29"), namespace("cgroup", "4.6"),
		call("pidfd_send_signal", "5.1", unix.SYS_PIDFD_SEND_SIGNAL, nobody),
		call("fsopen", "5.2", unix.SYS_FSOPEN, 0),
		call("open_tree", "5.2", unix.SYS_OPEN_TREE, nobody, 0),
		call("move_mount", "5.2", unix.SYS_MOVE_MOUNT, nobody, 0, nobody),
		call("clone3", "5.3", unix.SYS_CLONE3, 0, 0),
		call("pidfd_open", "5.3", unix.SYS_PIDFD_OPEN, 0),
		call("openat2", "5.6", unix.SYS_OPENAT2, nobody, 0),
		call("close_range", "5.9", unix.SYS_CLOSE_RANGE, 1, 0), // the last is before the first: nothing is closed
		call("mount_setattr", "5.12", unix.SYS_MOUNT_SETATTR, nobody, 0),
		call("seccomp", "3.17", unix.SYS_SECCOMP, nobody),
	}
}
