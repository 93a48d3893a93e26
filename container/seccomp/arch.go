package seccomp

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// syscallNumber is one line of a machine's system call table.
type syscallNumber struct {
	name   string
	number uint32
}

// machine is what a filter has to know of one system call interface.
type machine struct {
	// audit is the AUDIT_ARCH_ value the kernel gives in seccomp_data.arch (linux/audit.h).
	audit    uint32
	syscalls []syscallNumber // sorted by name
	order    binary.ByteOrder
}

// x32Bit marks the numbers of the x32 interface, which shares x86_64's audit value
// (__X32_SYSCALL_BIT, asm/unistd.h).
const x32Bit = 0x40000000

// machineOf gives the tables of an architecture of the runtime spec; false for one tarn has none of.
func machineOf(arch specs.Arch) (machine, bool) {
	little, big := binary.LittleEndian, binary.BigEndian
	switch arch {
	case specs.ArchX86_64:
		return machine{0xc000003e, syscallsAMD64, little}, true
	case specs.ArchX32:
		return machine{0xc000003e, syscallsX32, little}, true
	case specs.ArchX86:
		return machine{0x40000003, syscalls386, little}, true
	case specs.ArchAARCH64:
		return machine{0xc00000b7, syscallsARM64, little}, true
	case specs.ArchARM:
		return machine{0x40000028, syscallsARM, little}, true
	case specs.ArchRISCV64:
		return machine{0xc00000f3, syscallsRISCV64, little}, true
	case specs.ArchLOONGARCH64:
		return machine{0xc0000102, syscallsLOONG64, little}, true
	case specs.ArchPPC64LE:
		return machine{0xc0000015, syscallsPPC64LE, little}, true
	case specs.ArchPPC64:
		return machine{0x80000015, syscallsPPC64, big}, true
	case specs.ArchPPC:
		return machine{0x00000014, syscallsPPC, big}, true
	case specs.ArchS390X:
		return machine{0x80000016, syscallsS390X, big}, true
	case specs.ArchMIPS:
		return machine{0x00000008, syscallsMIPS, big}, true
	case specs.ArchMIPSEL:
		return machine{0x40000008, syscallsMIPSLE, little}, true
	case specs.ArchMIPS64:
		return machine{0x80000008, syscallsMIPS64, big}, true
	case specs.ArchMIPSEL64:
		return machine{0xc0000008, syscallsMIPS64LE, little}, true
	default:
		return machine{}, false
	}
}

// nativeArch gives the runtime spec's name for a GOARCH.
func nativeArch(goarch string) (specs.Arch, error) {
	switch goarch {
	case "amd64":
		return specs.ArchX86_64, nil
	case "386":
		return specs.ArchX86, nil
	case "arm64":
		return specs.ArchAARCH64, nil
	case "arm":
		return specs.ArchARM, nil
	case "riscv64":
		return specs.ArchRISCV64, nil
	case "loong64":
		return specs.ArchLOONGARCH64, nil
	case "ppc64le":
		return specs.ArchPPC64LE, nil
	case "ppc64":
		return specs.ArchPPC64, nil
	case "s390x":
		return specs.ArchS390X, nil
	case "mips":
		return specs.ArchMIPS, nil
	case "mipsle":
		return specs.ArchMIPSEL, nil
	case "mips64":
		return specs.ArchMIPS64, nil
	case "mips64le":
		return specs.ArchMIPSEL64, nil
	default:
		return "", fmt.Errorf("%w: no system call table for %s", ErrUnsupported, goarch)
	}
}

// number looks a system call up by name; false where the machine has none of that name.
func (m machine) number(name string) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(m.syscalls, name, func(s syscallNumber, name string) int {
		switch {
		case s.name < name:
			return -1
		case s.name > name:
			return 1
		}
		return 0
	})
	if !ok {
		return 0, false
	}
	return m.syscalls[i].number, true
}
