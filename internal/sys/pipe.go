package sys

import (
	"time"

	"golang.org/x/sys/unix"
)

// GrowPipe has a pipe hold so many bytes, if that is allowed (F_SETPIPE_SZ, fcntl(2)), and gives how many it holds.
func GrowPipe(fd, size int) int {
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size)
	return PipeSize(fd)
}

// PipeSize gives how many bytes a pipe holds.
func PipeSize(fd int) int {
	holds, _ := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0) // of a pipe it does not fail
	return holds
}

// Splice has the kernel move up to n bytes from one file to another, one of which is a pipe (splice(2)). It waits
// for no pipe, but gives EAGAIN then; at the end of one it gives 0. A file that is no pipe is written at offset at, if that is not
// nil, which then grows by what was moved.
func Splice(from, to int, at *int64, n int) (int, error) {
	for {
		moved, err := unix.Splice(from, nil, to, at, n, unix.SPLICE_F_NONBLOCK)
		if err != unix.EINTR {
			return int(max(moved, 0)), err
		}
	}
}

// AwaitReadable waits until at least one of so many descriptors can be read, or has ended, and tells which in ready,
// which is as long; none of them when that has taken too long. A negative time is for ever.
func AwaitReadable(fds []int, ready []bool, atMost time.Duration) error {
	polled := make([]unix.PollFd, len(fds), 3)
	for i, fd := range fds {
		polled[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	var timeout *unix.Timespec
	if atMost >= 0 {
		bound := unix.NsecToTimespec(int64(atMost))
		timeout = &bound
	}
	_, err := unix.Ppoll(polled, timeout, nil)
	for i := range polled {
		ready[i] = err == nil && polled[i].Revents != 0
	}
	if err == unix.EINTR {
		return nil
	}
	return err
}
