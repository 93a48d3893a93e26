package sys

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrNoLease says that a file system does not tell who has a file open.
var ErrNoLease = errors.New("the file system knows no leases")

// OpenElsewhere tells whether anybody but f has the same file open, by whatever name it has or had: a
// process, or the kernel for a mount. It takes a write lease for a moment, which Linux grants only
// if there is no other open file description (fcntl(2), F_SETLEASE; fs/locks.c). Who opens the
// file in that moment waits until it is over.
func OpenElsewhere(f *os.File) (bool, error) {
	defer runtime.KeepAlive(f)
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return true, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOLCK):
		return false, ErrNoLease
	case err != nil:
		return false, pathError("lease", f.Name(), err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		return false, pathError("give up the lease of", f.Name(), err)
	}
	return false, nil
}
