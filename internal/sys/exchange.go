package sys

import "golang.org/x/sys/unix"

// Exchange has two paths, on one file system, change places at once (renameat2(2), RENAME_EXCHANGE).
func Exchange(a, b string) error {
	return pathError("exchange", a, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
}
