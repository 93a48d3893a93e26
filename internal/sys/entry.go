package sys

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// DeviceNumbers splits what stat(2) gives as st_rdev.
func DeviceNumbers(rdev uint64) (major, minor uint32) {
	return unix.Major(rdev), unix.Minor(rdev)
}

// SetEntryTime sets the modification time of name in dir, of a symbolic link itself; the access
// time stays.
func SetEntryTime(dir *os.File, name string, mtime time.Time) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(mtime.UnixNano())}
	return pathError("utimensat", name, unix.UtimesNanoAt(int(dir.Fd()), name, times, unix.AT_SYMLINK_NOFOLLOW))
}
