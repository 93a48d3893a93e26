package sys

import (
	"errors"
	"iter"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrNoPunch says that a file system cannot take a part out of a file.
var ErrNoPunch = errors.New("the file system does not punch holes")

// PunchHoles gives the disk blocks back that lie wholly in one of the stretches of f, which then read
// as zeros; the rest of the stretches, and the file's size, stay (fallocate(2), FALLOC_FL_PUNCH_HOLE).
func PunchHoles(f *os.File, stretches iter.Seq[Range]) error {
	defer runtime.KeepAlive(f)
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("stat", f.Name(), err)
	}
	block := max(int64(st.Blksize), 512) //nolint:unconvert // int32 on some architectures
	for r := range stretches {
		start := (r.Offset + block - 1) / block * block
		end := (r.Offset + r.Length) / block * block
		if end <= start {
			continue
		}
		if err := punch(fd, start, end-start); err != nil {
			return pathError("punch holes in", f.Name(), err)
		}
	}
	return nil
}

func punch(fd int, offset, length int64) error {
	for {
		err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return ErrNoPunch
		default:
			return err
		}
	}
}
