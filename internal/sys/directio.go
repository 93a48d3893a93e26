package sys

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DirectIO tells whether f can be read past the page cache (O_DIRECT) at every multiple of align
// bytes, align being a power of two. It asks statx(2) (STATX_DIOALIGN, Linux 6.1), or where the file
// system does not answer, reads such a piece.
func DirectIO(f *os.File, align uint32) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN|unix.STATX_SIZE, &st); err != nil {
		return false, fmt.Errorf("statx %s: %w", f.Name(), err)
	}
	if st.Mask&unix.STATX_DIOALIGN != 0 {
		return st.Dio_offset_align != 0 && st.Dio_offset_align <= align, nil
	}
	return readsDirectly(f, int64(align)), nil
}

func readsDirectly(f *os.File, align int64) bool {
	fd, err := unix.Open(FDPath(f), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	// The buffer begins at a multiple of align too, but not of twice that: a file system that
	// wants more of memory must say so.
	buf := make([]byte, 4*align)
	skip := 2*align - int64(uintptr(unsafe.Pointer(&buf[0])))&(2*align-1) + align
	skip &= 2*align - 1
	_, err = unix.Pread(fd, buf[skip:skip+align], align)
	return err == nil
}

// Syncfs writes all changes of the file system that f lies on to the disk.
func Syncfs(f *os.File) error {
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", f.Name(), err)
	}
	return nil
}
