package sys

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WaitPidFD waits until the child behind a pidfd has ended, and reaps it.
func WaitPidFD(pidfd *os.File) (syscall.WaitStatus, error) {
	return waitPidFD(pidfd, unix.WEXITED)
}

// SeeExit waits until the child behind a pidfd has ended, and leaves it to be waited for again.
func SeeExit(pidfd *os.File) (syscall.WaitStatus, error) {
	return waitPidFD(pidfd, unix.WEXITED|unix.WNOWAIT)
}

func waitPidFD(pidfd *os.File, options uintptr) (syscall.WaitStatus, error) {
	var info siginfoChild
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_PIDFD, pidfd.Fd(), uintptr(unsafe.Pointer(&info)), options, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, fmt.Errorf("waitid: %w", errno)
		}
		return info.waitStatus(), nil
	}
}

// SignalPidFD sends a signal to the process behind a pidfd; [os.ErrProcessDone] if it has ended.
func SignalPidFD(pidfd *os.File, sig syscall.Signal) error {
	err := unix.PidfdSendSignal(int(pidfd.Fd()), sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("signal %s: %w", sig, err)
	}
	return nil
}
