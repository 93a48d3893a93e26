package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Flags for [OpenInRoot].
const (
	OpenAny       = unix.O_PATH
	OpenDirectory = unix.O_PATH | unix.O_DIRECTORY
	OpenNoFollow  = unix.O_PATH | unix.O_NOFOLLOW
	OpenRead      = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	OpenWrite     = unix.O_WRONLY | unix.O_NOCTTY
)

// OpenInRoot opens path as it would be seen if root were the root directory: symbolic links and
// ".." cannot lead out of it, and magic links of /proc are refused (RESOLVE_IN_ROOT, Linux 5.6).
func OpenInRoot(root *os.File, path string, flags uint64) (*os.File, error) {
	return openat2(root, path, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// OpenBeneath opens path below dir; a symbolic link or a mount anywhere on the way is an error.
func OpenBeneath(dir *os.File, path string, flags uint64) (*os.File, error) {
	return openat2(dir, path, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
}

// OpenWithoutLinks opens path below dir; a symbolic link anywhere on the way is an error.
func OpenWithoutLinks(dir *os.File, path string, flags uint64) (*os.File, error) {
	return openat2(dir, path, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
}

// OpenEntry opens one name in dir; a symbolic link is opened itself with [OpenNoFollow].
func OpenEntry(dir *os.File, name string, flags uint64) (*os.File, error) {
	return openat2(dir, name, flags, unix.RESOLVE_BENEATH)
}

// openat2 tries again when the kernel says so: on EAGAIN, it could not be sure of a ".." because
// something was renamed meanwhile.
func openat2(dir *os.File, path string, flags, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(int(dir.Fd()), path, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case err == unix.EINTR, err == unix.EAGAIN && tries < 64:
			continue
		default:
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// ReadLinkFD gives the target of a symbolic link opened with [OpenNoFollow].
func ReadLinkFD(link *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: link.Name(), Err: err}
	}
	return string(buf[:n]), nil
}

// MakeDir makes the directory name in dir. One that exists gives [os.ErrExist].
func MakeDir(dir *os.File, name string, perm uint32) error {
	return pathError("mkdir", name, unix.Mkdirat(int(dir.Fd()), name, perm))
}

// MakeFile makes the empty file name in dir. Anything that exists gives [os.ErrExist].
func MakeFile(dir *os.File, name string, perm uint32) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
	if err != nil {
		return pathError("create", name, err)
	}
	return pathError("close", name, unix.Close(fd))
}

// MakeSymlink makes the symbolic link name in dir.
func MakeSymlink(dir *os.File, name, target string) error {
	return pathError("symlink", name, unix.Symlinkat(target, int(dir.Fd()), name))
}

// MakeNode makes a device or fifo in dir; mode has the type (S_IFCHR).
func MakeNode(dir *os.File, name string, mode, major, minor uint32) error {
	return pathError("mknod", name, unix.Mknodat(int(dir.Fd()), name, mode, int(unix.Mkdev(major, minor))))
}

// ChownEntry sets the owner of name in dir, of a symbolic link itself.
func ChownEntry(dir *os.File, name string, uid, gid int) error {
	return pathError("chown", name, unix.Fchownat(int(dir.Fd()), name, uid, gid, unix.AT_SYMLINK_NOFOLLOW))
}

// RemoveEntry removes name, which is no directory, from dir.
func RemoveEntry(dir *os.File, name string) error {
	return pathError("unlink", name, unix.Unlinkat(int(dir.Fd()), name, 0))
}

// RemoveEntryDir removes the empty directory name in dir.
func RemoveEntryDir(dir *os.File, name string) error {
	return pathError("rmdir", name, unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR))
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}

// Node says what an open file is.
type Node struct {
	// Type is the S_IFMT part of st_mode.
	Type uint32
	// Perm are the permission bits, with set-user-ID and the like.
	Perm uint32
	// Major and Minor are a device's numbers.
	Major, Minor uint32
}

// Kinds of nodes.
const (
	TypeDir     = unix.S_IFDIR
	TypeRegular = unix.S_IFREG
	TypeSymlink = unix.S_IFLNK
	TypeChar    = unix.S_IFCHR
	TypeBlock   = unix.S_IFBLK
	TypeFifo    = unix.S_IFIFO
	TypeMask    = unix.S_IFMT
)

// StatNode tells what an open file is.
func StatNode(f *os.File) (Node, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Node{}, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return Node{Type: st.Mode & unix.S_IFMT, Perm: st.Mode &^ unix.S_IFMT, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}, nil
}

// OpenSource opens a path of the host for a bind mount, following symbolic links, without access to
// what it is.
func OpenSource(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
