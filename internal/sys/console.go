package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// SendFile sends an open file through the Unix stream socket at path (SCM_RIGHTS, unix(7)), with its
// name as the data: that is how engines take a container's terminal.
func SendFile(path string, f *os.File) error { return SendFileWith(path, []byte(f.Name()), f) }

// SendFileWith is [SendFile] with other data.
func SendFileWith(path string, data []byte, f *os.File) error {
	socket, err := ConnectUnix(path)
	if err != nil {
		return err
	}
	defer socket.Close()
	return SendFiles(socket, data, f)
}

// AwaitNoReader waits until nobody has the other end of a fifo open for reading.
func AwaitNoReader(ctx context.Context, fifo *os.File) error {
	defer runtime.KeepAlive(fifo)
	fds := []unix.PollFd{{Fd: int32(fifo.Fd())}}
	for {
		n, err := unix.Poll(fds, pollStep)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("poll %s: %w", fifo.Name(), err)
		case n > 0: // POLLERR, pipe(7)
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
}

// IsInherited tells whether a descriptor is open and would stay open in another exec: those that Go
// opens would not.
func IsInherited(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}
