package ociruntime

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
)

// procStat is what this package wants to know of /proc/PID/stat.
type procStat struct {
	state   byte
	started uint64 // in clock ticks since the machine's boot
}

// readStat gives fs.ErrNotExist if there is no such process.
func readStat(pid int) (procStat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, syscall.ESRCH) {
		return procStat{}, fs.ErrNotExist
	}
	if err != nil {
		return procStat{}, err
	}
	return parseStat(text)
}

// parseStat parses proc_pid_stat(5): the name, in parentheses, may contain anything.
func parseStat(text []byte) (procStat, error) {
	const state, started = 3, 22 // the fields' numbers
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= started-state {
		return procStat{}, errors.New("/proc/PID/stat is too short")
	}
	n, err := strconv.ParseUint(string(fields[started-state]), 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("/proc/PID/stat: %w", err)
	}
	return procStat{state: fields[0][0], started: n}, nil
}

// isAlive tells whether the process with that pid that started then still runs. One that has ended,
// but that nobody has waited for, does not.
func isAlive(pid int, started uint64) (bool, error) {
	if pid <= 0 {
		return false, nil
	}
	st, err := readStat(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && st.started == started && st.state != 'Z' && st.state != 'X', err
}

// openProcess opens a container's first process; os.ErrProcessDone if it has ended.
func openProcess(rec record) (*os.File, error) {
	pidfd, err := sys.PidFD(rec.Pid)
	if err != nil {
		return nil, err
	}
	// Looked at after it was opened: if it is that process now, the file means that process.
	alive, err := isAlive(rec.Pid, rec.PidStarted)
	if err == nil && !alive {
		err = os.ErrProcessDone
	}
	if err != nil {
		return nil, errors.Join(err, pidfd.Close())
	}
	return pidfd, nil
}
