package sys

import "syscall"

// siginfoChild is siginfo_t as waitid(2) fills it in on 64-bit machines: si_signo, si_errno and
// si_code, then the SIGCHLD part of the union at byte 16. (mips alone swaps errno and code.)
type siginfoChild struct {
	signo, errno, code, _ int32
	pid, uid, status, _   int32
	_                     [96]byte
}

// Codes of SIGCHLD, asm-generic/siginfo.h.
const (
	cldExited = 1
	cldDumped = 3
)

// waitStatus gives the same in the form of wait(2), which package syscall has methods for.
func (s *siginfoChild) waitStatus() syscall.WaitStatus {
	switch s.code {
	case cldExited:
		return syscall.WaitStatus(uint32(s.status&0xff) << 8)
	case cldDumped:
		return syscall.WaitStatus(uint32(s.status&0x7f) | 0x80)
	default:
		return syscall.WaitStatus(uint32(s.status & 0x7f))
	}
}
