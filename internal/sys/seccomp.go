package sys

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// SeccompNewListener has seccomp(2) give a descriptor that is asked about calls (seccomp_unotify(2)).
const SeccompNewListener = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER

// SeccompFlags are the flags of seccomp(2) without their prefix, in the order of their bits: linux/seccomp.h.
const SeccompFlags = "TSYNC LOG SPEC_ALLOW NEW_LISTENER TSYNC_ESRCH WAIT_KILLABLE_RECV"

// SeccompFlag gives the bit of a flag of seccomp(2) ("SECCOMP_FILTER_FLAG_LOG").
func SeccompFlag(name string) (uint, bool) {
	bit, ok := indexOf(name, "SECCOMP_FILTER_FLAG_", SeccompFlags)
	if name == "SECCOMP_FILTER_FLAG_NEW_LISTENER" || name == "SECCOMP_FILTER_FLAG_TSYNC_ESRCH" {
		return 0, false // about what the call returns, which is not for others to decide
	}
	return 1 << bit, ok
}

// TakeSeccompListener gives the seccomp listener that a process has open (pidfd_getfd(2), Linux 5.6).
func TakeSeccompListener(pid int) (*os.File, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	pidfd, err := PidFD(pid)
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	for _, e := range entries {
		to, err := os.Readlink(dir + "/" + e.Name())
		if err != nil || to != "anon_inode:seccomp notify" {
			continue
		}
		number, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		fd, err := unix.PidfdGetfd(int(pidfd.Fd()), number, 0)
		if err != nil {
			return nil, fmt.Errorf("pidfd_getfd: %w", err)
		}
		return os.NewFile(uintptr(fd), "seccomp listener"), nil
	}
	return nil, fmt.Errorf("process %d has no seccomp listener", pid)
}
