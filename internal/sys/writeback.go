package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// StartWriteback asks the kernel to begin writing length dirty bytes of f at offset to the disk,
// and does not wait (sync_file_range(2)). It is a hint, so that a later fsync has less to do; file
// systems without it are not an error.
func StartWriteback(f *os.File, offset, length int64) error {
	err := unix.SyncFileRange(int(f.Fd()), offset, length, unix.SYNC_FILE_RANGE_WRITE)
	if err == nil || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EINTR) {
		return nil
	}
	return fmt.Errorf("sync_file_range %s: %w", f.Name(), err)
}
