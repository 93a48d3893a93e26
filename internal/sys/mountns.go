package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// UnshareMounts gives the calling thread its own copy of the mount namespace, in which nothing
// propagates back to the old one. The caller has locked the goroutine to its thread, and never
// unlocks it: the thread ends with the goroutine, and with it the namespace.
func UnshareMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// CloneRoot gives a bind mount, attached nowhere, of the root of the mount namespace that the
// process behind pidfd (see [os.Process.WithHandle] or pidfd_open(2)) lives in; with recursive also of the
// mounts below it, as they are now. Entering the namespace happens on a thread that ends right after.
func CloneRoot(pidfd *os.File, recursive bool) (*os.File, error) {
	type result struct {
		root *os.File
		err  error
	}
	done := make(chan result)
	OnOwnThread(func() {
		root, err := cloneRootHere(int(pidfd.Fd()), recursive)
		done <- result{root, err}
	})
	r := <-done
	return r.root, r.err
}

// cloneRootHere changes the calling thread for good.
func cloneRootHere(pidfd int, recursive bool) (*os.File, error) {
	// Threads of a process share root and working directory, and setns refuses to change those of others.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("unshare root directory: %w", err)
	}
	if err := unix.Setns(pidfd, unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("enter mount namespace: %w", err)
	}
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", flags)
	if err != nil {
		return nil, fmt.Errorf("open_tree: %w", err)
	}
	return os.NewFile(uintptr(fd), "/"), nil
}

// CloneFrom gives a bind mount, attached nowhere, of a directory in the mount namespace that the process
// behind pidfd lives in; path is looked up as a process with that namespace's root would.
func CloneFrom(pidfd *os.File, path string) (clone *os.File, err error) {
	done := make(chan struct{})
	OnOwnThread(func() {
		defer close(done)
		if err = JoinNamespaces(pidfd, NewMount); err != nil {
			return
		}
		root, openErr := OpenPath("/")
		if err = openErr; err != nil {
			return
		}
		defer root.Close()
		dir, openErr := OpenInRoot(root, path, OpenDirectory)
		if err = openErr; err != nil {
			return
		}
		defer dir.Close()
		clone, err = CloneTree(dir, false)
	})
	<-done
	return clone, err
}

// PidFD opens a process: the file keeps meaning that very process (pidfd_open(2)). A process that
// is gone gives [os.ErrProcessDone].
func PidFD(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid)), nil
}
