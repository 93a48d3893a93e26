package sys

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Personality is an execution domain, see personality(2).
type Personality uint32

// The execution domains of linux/personality.h that the OCI runtime specification has names of.
const (
	PersonalityLinux   Personality = 0
	PersonalityLinux32 Personality = 8
)

// SetPersonality sets the execution domain.
func (p *Program) SetPersonality(domain Personality) {
	p.call("personality", unix.SYS_PERSONALITY, uintptr(domain))
}

// Scheduling are the attributes of sched_setattr(2).
type Scheduling struct {
	Policy, Flags             int
	Nice, Priority            int32
	Runtime, Deadline, Period uint64 // nanoseconds
}

// SchedulingPolicy gives the number of a policy ("SCHED_FIFO").
func SchedulingPolicy(name string) (int, bool) {
	// In the order of their numbers: linux/sched.h.
	return indexOf(name, "SCHED_", "OTHER FIFO RR BATCH ISO IDLE DEADLINE")
}

// SchedulingFlag gives the bit of a flag ("SCHED_FLAG_RESET_ON_FORK").
func SchedulingFlag(name string) (int, bool) {
	bit, ok := indexOf(name, "SCHED_FLAG_", "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX")
	return 1 << bit, ok
}

// IOPriorityClass gives the number of a class ("IOPRIO_CLASS_BE").
func IOPriorityClass(name string) (int, bool) {
	return indexOf(name, "IOPRIO_CLASS_", "NONE RT BE IDLE")
}

// MemoryPolicyMode gives the number of a mode of NUMA memory policy ("MPOL_BIND").
func MemoryPolicyMode(name string) (int, bool) { return indexOf(name, "MPOL_", MemoryPolicyModes) }

// MemoryPolicyFlag gives the bit of a flag that goes with a mode ("MPOL_F_STATIC_NODES").
func MemoryPolicyFlag(name string) (int, bool) {
	bit, ok := indexOf(name, "MPOL_F_", MemoryPolicyFlags)
	return 1 << (bit + 13), ok // from bit 13 on
}

// The names without their prefix, in the order of their numbers: linux/mempolicy.h.
const (
	MemoryPolicyModes = "DEFAULT PREFERRED BIND INTERLEAVE LOCAL PREFERRED_MANY WEIGHTED_INTERLEAVE"
	MemoryPolicyFlags = "NUMA_BALANCING RELATIVE_NODES STATIC_NODES"
)

// MaxNodes is how many memory nodes a kernel can have.
const MaxNodes = 1024

// SetMemoryPolicy sets the NUMA memory policy of the child and of what it executes, see set_mempolicy(2). mode has
// the flags in it.
func (p *Program) SetMemoryPolicy(mode int, nodes []int) {
	var mask *[MaxNodes / 64]uint64
	var addr, size uintptr
	if len(nodes) > 0 {
		mask = new([MaxNodes / 64]uint64)
		for _, n := range nodes {
			mask[n/64] |= 1 << (n % 64)
		}
		addr, size = pin(p, *mask), MaxNodes
	}
	p.call("set_mempolicy", unix.SYS_SET_MEMPOLICY, uintptr(mode), addr, size)
}

func indexOf(name, prefix, list string) (int, bool) {
	for i, n := range strings.Fields(list) {
		if name == prefix+n {
			return i, true
		}
	}
	return 0, false
}

func (s Scheduling) attr() *unix.SchedAttr {
	return &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: uint32(s.Policy), Flags: uint64(s.Flags), Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
}

// SetScheduling sets the scheduling policy and its attributes.
func (p *Program) SetScheduling(s Scheduling) {
	p.call("sched_setattr", unix.SYS_SCHED_SETATTR, 0, pin(p, *s.attr()), 0)
}

// SetScheduling is [Program.SetScheduling] for another process.
func SetScheduling(pid int, s Scheduling) error {
	if err := unix.SchedSetAttr(pid, s.attr(), 0); err != nil {
		return fmt.Errorf("sched_setattr: %w", err)
	}
	return nil
}

// SetRlimit is [Program.Rlimit] for another process. What the kernel refuses is a [*StepError].
func SetRlimit(pid, resource int, soft, hard uint64) error {
	err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: soft, Max: hard}, nil)
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return &StepError{Step: StepRlimit, Errno: errno}
	}
	return err
}

// SetIOPriority sets the class and the priority in it for reading and writing, see ioprio_set(2).
func (p *Program) SetIOPriority(class, priority int) {
	const whoProcess, classShift = 1, 13
	p.call("ioprio_set", unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(class<<classShift|priority))
}
