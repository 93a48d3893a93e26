//go:build !amd64 && !arm64

package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shareMemory: without a rawVfork in assembly the child has a copy of our memory.
const shareMemory = 0

//go:nosplit
func rawVfork(args *cloneArgs, size uintptr) (pid, errno uintptr) {
	pid, _, e := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), size, 0)
	return pid, uintptr(e)
}

// forkSharing shares nothing, for the same reason.
func forkSharing(*Program) forking { return fork }
