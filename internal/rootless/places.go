package rootless

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Places are where a user's store lies, and what need not outlive the machine's uptime: by the XDG Base Directory
// Specification. The second is made, if it is not there.
func Places() (root, run string, err error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", "", err
	}
	root = filepath.Join(cmp.Or(os.Getenv("XDG_DATA_HOME"), filepath.Join(home, ".local/share")), "tarn")
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && isOurs(dir) == nil {
		run = filepath.Join(dir, "tarn")
	} else {
		run = filepath.Join(os.TempDir(), "tarn-run-"+strconv.Itoa(os.Getuid()))
	}
	if err := os.Mkdir(run, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", "", err
	}
	return root, run, isOurs(run)
}

// isOurs refuses a directory that another user could have made, or can write to.
func isOurs(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: %w: it is not a directory of this user's alone", dir, fs.ErrPermission)
	}
	return nil
}
