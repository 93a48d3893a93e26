package faultpoint

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Forms of linux/seccomp.h.
type (
	notice struct {
		id    uint64
		tid   uint32
		flags uint32
		nr    int32
		arch  uint32
		ip    uint64
		args  [6]uint64
	}
	answer struct {
		id    uint64
		val   int64
		errno int32
		flags uint32
	}
)

// listener is told of system calls, which wait until it has answered (seccomp_unotify(2)).
type listener struct{ fd int }

// listen has the calls of this thread from now on, and of all that it starts, wait for the listener's
// answer if they are in the list of calls. The thread must not make such calls itself.
func listen() (*listener, error) {
	program := filter()
	// A call that waits is not interrupted: with signals that Go's threads send each other it would be made
	// a second time. (Linux 5.19)
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return nil, fmt.Errorf("seccomp: %w", errno)
	}
	return &listener{fd: int(fd)}, nil
}

// next waits for a call. It is false when no process with the filter is left.
func (l *listener) next() (*notice, bool, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return nil, false, fmt.Errorf("poll: %w", err)
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return nil, false, nil
		}
		n := new(notice)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(n)))
		switch errno {
		case 0:
			return n, true, nil
		case unix.EINTR, unix.ENOENT: // it was killed since
		default:
			return nil, false, fmt.Errorf("seccomp: receive: %w", errno)
		}
	}
}

// answer lets the call go on, or fail if errno is not 0.
func (l *listener) answer(n *notice, errno unix.Errno) error {
	a := answer{id: n.id, errno: -int32(errno)}
	if errno == 0 {
		a.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	_, _, failed := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a)))
	if failed != 0 && !errors.Is(failed, unix.ENOENT) {
		return fmt.Errorf("seccomp: answer: %w", failed)
	}
	return nil
}

func (l *listener) close() { _ = unix.Close(l.fd) }

// text reads a string that the call was given.
func (n *notice) text(address uint64) string {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", n.tid))
	if err != nil {
		return ""
	}
	defer mem.Close()
	buf := make([]byte, unix.PathMax)
	// What there is of it: the string may end with its page.
	size, _ := mem.ReadAt(buf, int64(address))
	return unix.ByteSliceToString(buf[:size])
}

// process gives the ID of the process whose thread makes the call, 0 if it is gone.
func (n *notice) process() int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.tid))
	if err != nil {
		return 0
	}
	var id int
	for line := range lines(status) {
		if _, err := fmt.Sscanf(line, "Tgid: %d", &id); err == nil {
			return id
		}
	}
	return 0
}
