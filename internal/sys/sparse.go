package sys

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Range is a stretch of a file, in bytes.
type Range struct{ Offset, Length int64 }

// DataRanges lists where f holds data below size, ascending; the rest are holes. A file system that
// can't tell gives one range over everything. The offset of f moves. See lseek(2), SEEK_DATA.
func DataRanges(f *os.File, size int64) ([]Range, error) {
	defer runtime.KeepAlive(f)
	var ranges []Range
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			return ranges, nil
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
			return []Range{{0, size}}, nil
		case err != nil:
			return nil, pathError("seek data", f.Name(), err)
		case data >= size:
			return ranges, nil
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) { // it was cut shorter meanwhile
			return ranges, nil
		}
		if err != nil {
			return nil, pathError("seek hole", f.Name(), err)
		}
		hole = min(hole, size)
		ranges = append(ranges, Range{data, hole - data})
		at = hole
	}
	return ranges, nil
}

// ErrNoCopy says that the kernel can't copy between two given files by itself.
var ErrNoCopy = errors.New("the kernel does not copy between these files")

// CopyRange copies length bytes from src at srcOffset to dst at dstOffset inside the kernel, which
// shares blocks where the file system can (copy_file_range(2)). It returns how many bytes were
// copied: fewer than length at the end of src, or with an error. ErrNoCopy: nothing was copied.
// The offsets of the files do not move.
func CopyRange(dst *os.File, dstOffset int64, src *os.File, srcOffset, length int64) (int64, error) {
	defer runtime.KeepAlive(dst)
	defer runtime.KeepAlive(src)
	var done int64
	for done < length {
		n, err := unix.CopyFileRange(int(src.Fd()), &srcOffset, int(dst.Fd()), &dstOffset, int(min(length-done, 1<<30)), 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case done == 0 && cannotCopy(err):
			return 0, ErrNoCopy
		case err != nil:
			return done, pathError("copy_file_range", dst.Name(), err)
		case n == 0:
			return done, nil
		}
		done += int64(n)
	}
	return done, nil
}

func cannotCopy(err error) bool {
	return errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) ||
		errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM)
}
