package sys

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LoadDeviceFilter attaches a BPF program of type BPF_PROG_TYPE_CGROUP_DEVICE, an array of struct
// bpf_insn, to a cgroup: it decides about every access to a device from within.
func LoadDeviceFilter(cgroup *os.File, insns []byte) error {
	license := []byte("Apache-2.0\x00")
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&insns[0])
	pins.Pin(&license[0])
	load := struct {
		progType, insnCount uint32
		insns, license      uint64
		logLevel, logSize   uint32
		log                 uint64
		kernVersion, flags  uint32
	}{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, insnCount: uint32(len(insns) / 8),
		insns: uint64(uintptr(unsafe.Pointer(&insns[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	prog, err := bpf(unix.BPF_PROG_LOAD, &load)
	if err != nil {
		return fmt.Errorf("load device filter: %w", err)
	}
	defer unix.Close(prog) //nolint:errcheck // the cgroup has it
	attach := struct{ target, prog, attachType, flags uint32 }{
		target: uint32(cgroup.Fd()), prog: uint32(prog), attachType: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI,
	}
	if _, err = bpf(unix.BPF_PROG_ATTACH, &attach); err != nil {
		return fmt.Errorf("attach device filter to %s: %w", cgroup.Name(), err)
	}
	return nil
}

// bpf is bpf(2). The kernel's check of a program gives up for a signal (EAGAIN), as Go's own threads send
// each other.
func bpf[T any](command uintptr, args *T) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EAGAIN, unix.EINTR:
		default:
			return -1, errno
		}
	}
}
