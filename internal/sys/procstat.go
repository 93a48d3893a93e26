package sys

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ProcessStart reads from /proc/PID/stat when a process was started, in clock ticks since boot, and whether it has
// ended since: proc_pid_stat(5) has the starttime as field 22, the state as 3, and the number of threads as 20. The
// second field, a name in parentheses, may hold anything. Of a process that is not there any more the error is
// [os.ErrProcessDone].
//
// While a thread that is not the first one executes a program, as those do that become monitors, the first
// one is a zombie with another thread beside it.
func ProcessStart(pid int) (start uint64, dead bool, err error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	stat, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) { // it may end while it is read
		return 0, false, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	if err != nil {
		return 0, false, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, false, fmt.Errorf("%s: %d fields after the name", path, len(fields))
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	state, alone := fields[0][0], string(fields[17]) == "1" || string(fields[17]) == "0"
	return start, (state == 'Z' || state == 'X') && alone, err
}

// EndProcess kills the process of that number if it was started then, waits for its end, and reaps it if it is a
// child of this program. One that is gone is no error.
func EndProcess(pid int, start uint64) error {
	pidfd, err := PidFD(pid)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer pidfd.Close()
	// It is that process for as long as the descriptor is open, or never was.
	if now, _, err := ProcessStart(pid); errors.Is(err, os.ErrProcessDone) || err == nil && now != start {
		return nil
	} else if err != nil {
		return err
	}
	if err := SignalPidFD(pidfd, unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if _, err := WaitPidFD(pidfd); err == nil || !errors.Is(err, unix.ECHILD) {
		return err
	}
	_, err = retryIntr(func() (int, error) {
		return unix.Poll([]unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}, -1)
	})
	return err
}
