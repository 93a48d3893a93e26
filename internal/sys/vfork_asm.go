//go:build amd64 || arm64

package sys

import "golang.org/x/sys/unix"

// shareMemory has the child of a fork use our memory until its exec, instead of a copy of it: the
// copy is most of what a fork of a Go program costs.
const shareMemory = unix.CLONE_VM

// rawVfork is clone3(2), made so that it can return twice on the same stack: in the child, and when
// that has executed or ended, here.
//
//go:noescape
func rawVfork(args *cloneArgs, size uintptr) (pid, errno uintptr)
