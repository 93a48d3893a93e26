package seccomp

import "github.com/opencontainers/runtime-spec/specs-go"

// Actions are those that [Compile] knows.
func Actions() []specs.LinuxSeccompAction {
	return []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActLog,
		specs.ActNotify, specs.ActTrace, specs.ActTrap,
	}
}

// Operators are those that [Compile] knows.
func Operators() []specs.LinuxSeccompOperator {
	return []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan,
		specs.OpMaskedEqual, specs.OpNotEqual,
	}
}

// Architectures are those whose system calls [Compile] knows.
func Architectures() []specs.Arch {
	return []specs.Arch{
		specs.ArchX86_64, specs.ArchX32, specs.ArchX86, specs.ArchAARCH64, specs.ArchARM, specs.ArchRISCV64,
		specs.ArchLOONGARCH64, specs.ArchPPC64LE, specs.ArchPPC64, specs.ArchPPC, specs.ArchS390X, specs.ArchMIPS,
		specs.ArchMIPSEL, specs.ArchMIPS64, specs.ArchMIPSEL64,
	}
}
