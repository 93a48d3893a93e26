package sys

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Propagation tells whether the mount that f lies on is in a peer group of others ("shared"), and
// whether it gets the events of one ("slave"), see mount_namespaces(7).
func Propagation(f *os.File) (shared, slave bool, err error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return false, false, fmt.Errorf("statx %s: %w", f.Name(), err)
	}
	info, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return false, false, err
	}
	defer info.Close()
	id := strconv.FormatUint(st.Mnt_id, 10)
	for lines := bufio.NewScanner(info); lines.Scan(); {
		// proc_pid_mountinfo(5): the ID is the first field; the optional ones end with a hyphen.
		before, _, _ := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if len(fields) < 6 || fields[0] != id {
			continue
		}
		for _, field := range fields[6:] {
			shared = shared || strings.HasPrefix(field, "shared:")
			slave = slave || strings.HasPrefix(field, "master:")
		}
		return shared, slave, nil
	}
	return false, false, fmt.Errorf("%s: its mount is not in this mount namespace", f.Name())
}
