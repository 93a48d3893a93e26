package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// processID names a process for good: numbers are given to other processes later, and counted anew
// after a reboot.
type processID struct {
	PID   int    `json:",omitempty"`
	Start uint64 `json:",omitempty"` // clock ticks from boot to the process's start
	Boot  string `json:",omitempty"` // the boot's own ID
}

// identify gives the name of a process. One that has ended and was waited for gives
// [os.ErrProcessDone].
func identify(pid int) (processID, error) {
	start, _, err := processStart(pid)
	if err != nil {
		return processID{}, err
	}
	boot, err := bootID()
	if err != nil {
		return processID{}, err
	}
	return processID{PID: pid, Start: start, Boot: boot}, nil
}

func identifySelf() (processID, error) { return identify(os.Getpid()) }

// alive tells whether the process has not ended.
func (p processID) alive() bool {
	if p.PID == 0 {
		return false
	}
	start, dead, err := processStart(p.PID)
	if err != nil || start != p.Start || dead {
		return false
	}
	boot, err := bootID()
	return err == nil && boot == p.Boot
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// processStart reads from /proc/PID/stat when a process was started, and whether it has ended since:
// proc_pid_stat(5) has the starttime as field 22, the state as 3, and the number of threads as 20. The
// second field, a name in parentheses, may hold anything.
//
// While a thread that is not the first one executes a program, as those do that become monitors, the first
// one is a zombie with another thread beside it.
func processStart(pid int) (start uint64, dead bool, err error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	stat, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) { // it may end while it is read
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
