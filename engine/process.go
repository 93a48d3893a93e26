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
	start, state, err := processStart(p.PID)
	if err != nil || start != p.Start || state == 'Z' || state == 'X' {
		return false
	}
	boot, err := bootID()
	return err == nil && boot == p.Boot
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// processStart reads starttime and state from /proc/PID/stat; proc_pid_stat(5) has them as fields
// 22 and 3. The second field, a name in parentheses, may hold anything.
func processStart(pid int) (start uint64, state byte, err error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	stat, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) { // it may end while it is read
		return 0, 0, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	if err != nil {
		return 0, 0, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("%s: %d fields after the name", path, len(fields))
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return start, fields[0][0], err
}
