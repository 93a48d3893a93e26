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
	block, err := BlockSize(f)
	if err != nil {
		return err
	}
	for r := range stretches {
		r = r.Within(block)
		if r.Length == 0 {
			continue
		}
		if err := punch(int(f.Fd()), r.Offset, r.Length); err != nil {
			return pathError("punch holes in", f.Name(), err)
		}
	}
	return nil
}

// CanPunch gives the error that PunchHoles of f would give, ErrNoPunch for one, and takes nothing: it punches
// behind the end.
func CanPunch(f *os.File) error {
	defer runtime.KeepAlive(f)
	block, err := BlockSize(f)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return pathError("punch holes in", f.Name(), punch(int(f.Fd()), (info.Size()+block-1)/block*block, block))
}

// BlockSize gives the size of the blocks in which a file lies on the disk.
func BlockSize(f *os.File) (int64, error) {
	defer runtime.KeepAlive(f)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, pathError("stat", f.Name(), err)
	}
	return max(int64(st.Blksize), 512), nil //nolint:unconvert // int32 on some architectures
}

// Within gives the blocks that lie wholly in the range.
func (r Range) Within(block int64) Range {
	start := (r.Offset + block - 1) / block * block
	end := (r.Offset + r.Length) / block * block
	return Range{Offset: start, Length: max(end-start, 0)}
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
