package sys

import (
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// backlog is how many may wait to be accepted.
const backlog = 128

// ListenUnix makes a Unix stream socket called name in dir, in place of what is there, and listens.
func ListenUnix(dir *os.File, name string) (*os.File, error) {
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && err != unix.ENOENT {
		return nil, fmt.Errorf("remove socket %s: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	// By descriptor: an address has place for 107 bytes, a path may have more.
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: FDPath(dir) + "/" + name}); err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("socket %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// ConnectUnix connects to the Unix stream socket at path. The file can be used with deadlines.
func ConnectUnix(path string) (*os.File, error) {
	socket, err := OpenSource(path)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	// By descriptor: an address has place for 107 bytes, a path may have more.
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: FDPath(socket)})
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// SocketPair gives two Unix stream sockets that are connected. They can be used with deadlines.
func SocketPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// KeepOnExec has a file stay open when this program executes another one, and gives its descriptor there.
func KeepOnExec(f *os.File) (int, error) {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
		return 0, fmt.Errorf("keep %s: %w", f.Name(), err)
	}
	return int(f.Fd()), nil
}

// HideFiles has all files but the standard ones closed when this program executes another one, also those
// that it was started with. Files that are passed on on purpose are not affected.
func HideFiles() { _ = unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC) } // Linux 5.11: before it, they are the caller's mistake

// SendFiles writes data to a Unix stream socket in one piece, and passes files on with it (SCM_RIGHTS, unix(7)).
func SendFiles(socket *os.File, data []byte, files ...*os.File) error {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		n, sendErr = unix.SendmsgN(int(fd), data, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return sendErr != unix.EAGAIN
	})
	if err == nil && sendErr == nil && n < len(data) {
		sendErr = io.ErrShortWrite
	}
	runtime.KeepAlive(files)
	if sendErr != nil {
		return &os.PathError{Op: "sendmsg", Path: socket.Name(), Err: sendErr}
	}
	return err
}
