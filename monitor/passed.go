package monitor

import (
	"io"
	"os"
	"syscall"
)

// connection is a Unix socket by which a client may pass files on (SCM_RIGHTS, unix(7)).
type connection struct {
	*os.File
	passed []*os.File
}

// maxPassed bounds how many files are taken with one read; the kernel drops the others.
const maxPassed = 2

// Read reads as a file does, and keeps what is passed on with what it reads.
func (c *connection) Read(p []byte) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	rights := make([]byte, syscall.CmsgSpace(4*maxPassed))
	var size int
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		n, size, _, _, readErr = syscall.Recvmsg(int(fd), p, rights, syscall.MSG_CMSG_CLOEXEC)
		return readErr != syscall.EAGAIN
	})
	switch {
	case err != nil:
		return 0, err
	case readErr != nil:
		return 0, os.NewSyscallError("recvmsg", readErr)
	case size > 0:
		c.keep(rights[:size])
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *connection) keep(rights []byte) {
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil {
		return
	}
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			c.passed = append(c.passed, os.NewFile(uintptr(fd), "passed"))
		}
	}
	// Nobody has to pass more than one frame takes.
	for len(c.passed) > maxPassed {
		_ = c.passed[0].Close()
		c.passed = c.passed[1:]
	}
}

// takePassed gives what was passed on; it is the caller's now.
func (c *connection) takePassed() []*os.File {
	files := c.passed
	c.passed = nil
	return files
}
