package sys

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Stat is what statx(2) says about one inode.
type Stat struct {
	Mode                 uint32 // st_mode: type and permission bits
	UID, GID             uint32
	Nlink                uint32
	Size                 int64
	Blocks               uint64 // of 512 bytes
	Sec                  int64  // modification time
	Nsec                 uint32
	DevMajor, DevMinor   uint32 // the file system it lies on
	Ino                  uint64
	RdevMajor, RdevMinor uint32 // of a device node
}

// Type is the S_IFMT part of the mode.
func (s *Stat) Type() uint32 { return s.Mode & unix.S_IFMT }

// IsDir tells whether the inode is a directory.
func (s *Stat) IsDir() bool { return s.Type() == unix.S_IFDIR }

// IsRegular tells whether the inode is a regular file.
func (s *Stat) IsRegular() bool { return s.Type() == unix.S_IFREG }

// IsWhiteout tells whether the inode is a character device 0:0, which overlayfs
// takes for "deleted".
func (s *Stat) IsWhiteout() bool {
	return s.Type() == unix.S_IFCHR && s.RdevMajor == 0 && s.RdevMinor == 0
}

// StatFile describes the inode that f, which may be an O_PATH handle, stands for.
func StatFile(f *os.File) (Stat, error) {
	return statx(f, "", unix.AT_EMPTY_PATH)
}

// StatAt describes the entry called name in dir and does not follow a symbolic link.
func StatAt(dir *os.File, name string) (Stat, error) {
	return statx(dir, name, unix.AT_SYMLINK_NOFOLLOW)
}

func statx(f *os.File, name string, flags int) (Stat, error) {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), name, flags|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, &st)
	runtime.KeepAlive(f)
	if err != nil {
		if name == "" {
			name = f.Name()
		}
		return Stat{}, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return Stat{
		Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Nlink: st.Nlink,
		Size: int64(st.Size), Blocks: st.Blocks, //nolint:gosec // the kernel keeps sizes below 2^63.
		Sec: st.Mtime.Sec, Nsec: st.Mtime.Nsec,
		DevMajor: st.Dev_major, DevMinor: st.Dev_minor, Ino: st.Ino,
		RdevMajor: st.Rdev_major, RdevMinor: st.Rdev_minor,
	}, nil
}
