package sys

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reopen opens the inode that an O_PATH handle stands for, through /proc/self/fd: what is opened is
// what was looked at, whatever its name means by now. flags are those of open(2).
func Reopen(handle *os.File, flags int) (*os.File, error) {
	defer runtime.KeepAlive(handle)
	fd, err := retryIntr(func() (int, error) { return unix.Open(FDPath(handle), flags|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: handle.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), handle.Name()), nil
}

// OpenEntries opens the directory that an O_PATH handle stands for, so that its entries can be read.
func OpenEntries(handle *os.File) (*os.File, error) {
	return OpenBeneath(handle, ".", unix.O_RDONLY|unix.O_DIRECTORY)
}

// CreateEntry makes the regular file name in dir, which must not have it, and opens it for writing.
func CreateEntry(dir *os.File, name string, perm uint32) (*os.File, error) {
	flags := unix.O_CREAT | unix.O_EXCL | unix.O_RDWR | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := retryIntr(func() (int, error) { return unix.Openat(int(dir.Fd()), name, flags, perm) })
	if err != nil {
		return nil, pathError("create", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// LinkEntry makes newName in newDir another name of oldName in oldDir. A symbolic link is linked
// itself, not what it leads to.
func LinkEntry(oldDir *os.File, oldName string, newDir *os.File, newName string) error {
	defer runtime.KeepAlive(newDir)
	defer runtime.KeepAlive(oldDir)
	return pathError("link", newName, unix.Linkat(int(oldDir.Fd()), oldName, int(newDir.Fd()), newName, 0))
}

// The errors by which a caller tells what became of a name while it looked.
const (
	ErrnoLoop        = syscall.ELOOP   // a symbolic link on the way
	ErrnoOtherMount  = syscall.EXDEV   // another mount on the way
	ErrnoPermission  = syscall.EPERM   // the kernel never allows it for this kind of file
	ErrnoUnsupported = syscall.ENOTSUP // the file system can't
)
