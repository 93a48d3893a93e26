package sys

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Caps is a set of capabilities: bit n is the one with number n.
type Caps uint64

// capNames are the names of linux/capability.h, in the order of their numbers.
const capNames = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE " +
	"NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE " +
	"SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE " +
	"AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF " +
	"CHECKPOINT_RESTORE"

// CapNames are all capabilities known here ("CAP_CHOWN"), in the order of their numbers.
func CapNames() []string {
	names := strings.Fields(capNames)
	for i, name := range names {
		names[i] = "CAP_" + name
	}
	return names
}

// ParseCaps gives the set of the named capabilities ("CAP_CHOWN"), and the names that are none.
func ParseCaps(names []string) (set Caps, unknown []string) {
	known := strings.Fields(capNames)
next:
	for _, name := range names {
		for i, k := range known {
			if len(name) == len("CAP_")+len(k) && name[:4] == "CAP_" && name[4:] == k {
				set |= 1 << i
				continue next
			}
		}
		unknown = append(unknown, name)
	}
	return set, unknown
}

// KernelCaps gives all capabilities that the running kernel has.
func KernelCaps() (Caps, error) {
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, err
	}
	last, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 6)
	if err != nil {
		return 0, fmt.Errorf("cap_last_cap: %w", err)
	}
	return ^Caps(0) >> (63 - last), nil
}

// PermittedCaps gives the capabilities that are permitted to the calling thread.
func PermittedCaps() (Caps, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("capget: %w", err)
	}
	return Caps(data[0].Permitted) | Caps(data[1].Permitted)<<32, nil
}

// BoundCaps takes every capability of all that is not in keep out of the bounding set, for good.
func (p *Program) BoundCaps(all, keep Caps) {
	for n := range 64 {
		if all&^keep&(1<<n) != 0 {
			p.call("prctl PR_CAPBSET_DROP", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(n))
		}
	}
}

// SetCaps sets the child's capabilities, see capabilities(7). Ambient ones must be permitted and
// inheritable.
func (p *Program) SetCaps(effective, permitted, inheritable, ambient Caps) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{}
	for i := range data {
		data[i] = unix.CapUserData{
			Effective:   uint32(effective >> (32 * i)),
			Permitted:   uint32(permitted >> (32 * i)),
			Inheritable: uint32(inheritable >> (32 * i)),
		}
	}
	p.call("capset", unix.SYS_CAPSET, pin(p, header), pin(p, data))
	p.call("prctl PR_CAP_AMBIENT", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	for n := range 64 {
		if ambient&(1<<n) != 0 {
			p.call("prctl PR_CAP_AMBIENT", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0)
		}
	}
}
