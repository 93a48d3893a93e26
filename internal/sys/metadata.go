package sys

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ChownFile gives the inode that f, which may be an O_PATH handle, stands for to uid and gid. The
// kernel drops set-user-ID and set-group-ID bits and security.capability on the way.
func ChownFile(f *os.File, uid, gid uint32) error {
	defer runtime.KeepAlive(f)
	return pathError("chown", f.Name(), unix.Fchownat(int(f.Fd()), "", int(uid), int(gid), unix.AT_EMPTY_PATH))
}

// ChmodFile sets the permission bits (07777) of the inode that f, which may be an O_PATH handle but
// not one of a symbolic link, stands for.
func ChmodFile(f *os.File, perm uint32) error {
	defer runtime.KeepAlive(f)
	// By name, since fchmod takes no O_PATH handle and fchmodat2 is too new to count on.
	return pathError("chmod", f.Name(), unix.Chmod(FDPath(f), perm&0o7777))
}

// SetMtime sets the access and modification times of the inode that f, which may be an O_PATH
// handle, also of a symbolic link, stands for.
func SetMtime(f *os.File, sec int64, nsec uint32) error {
	defer runtime.KeepAlive(f)
	t := unix.Timespec{Sec: sec, Nsec: int64(nsec)}
	return pathError("utimensat", f.Name(), unix.UtimesNanoAt(int(f.Fd()), "", []unix.Timespec{t, t}, unix.AT_EMPTY_PATH))
}

// ChownHandle sets the owner of a file that may be opened with O_PATH.
func ChownHandle(f *os.File, uid, gid int) error {
	if err := unix.Fchownat(int(f.Fd()), "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("chown %s: %w", f.Name(), err)
	}
	return nil
}
