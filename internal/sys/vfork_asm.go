//go:build amd64 || arm64

package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shareMemory has the child of a fork use our memory until its exec, instead of a copy of it: the
// copy is most of what a fork of a Go program costs.
const shareMemory = unix.CLONE_VM

// rawVfork is clone3(2), made so that it can return twice on the same stack: in the child, and when
// that has executed or ended, here.
//
//go:noescape
func rawVfork(args *cloneArgs, size uintptr) (pid, errno uintptr)

// forkSharing gives a fork whose child uses our memory while we go on. The child has a stack of its own,
// does not touch what belongs to Go's runtime, and takes no signals until its program says so.
func forkSharing(p *Program) forking {
	const size = 16 << 10
	stack := p.take(size)
	return func(args *cloneArgs, t *task) (uintptr, syscall.Errno) {
		args.flags |= unix.CLONE_VM
		args.stack, args.stackSize = uint64(uintptr(stack)), size
		runtimeBeforeFork() // blocks all signals, also in the child
		pid, errno := rawClone(args, unsafe.Sizeof(*args), t)
		runtimeAfterFork()
		return pid, syscall.Errno(errno)
	}
}

// rawClone is clone3(2) whose child runs t, on the stack that args has for it.
//
//go:noescape
func rawClone(args *cloneArgs, size uintptr, t *task) (pid, errno uintptr)
