package engine

import (
	"os"
	"strings"

	"github.com/tarnfs/tarn/internal/sys"
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
	start, _, err := sys.ProcessStart(pid)
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
	start, dead, err := sys.ProcessStart(p.PID)
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
