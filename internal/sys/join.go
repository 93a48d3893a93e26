package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ForeignNamespaces gives the kinds of the namespaces of a process that are not this program's as
// well.
func ForeignNamespaces(pid int) (kinds int, err error) {
	for kind, name := range namespaceNames() {
		var theirs, ours unix.Stat_t
		err := unix.Stat("/proc/self/ns/"+name, &ours)
		if errors.Is(err, unix.ENOENT) {
			continue // this kernel has none
		}
		if err != nil {
			return 0, pathError("stat", "/proc/self/ns/"+name, err)
		}
		path := fmt.Sprintf("/proc/%d/ns/%s", pid, name)
		if err := unix.Stat(path, &theirs); err != nil {
			return 0, pathError("stat", path, err)
		}
		if theirs.Dev != ours.Dev || theirs.Ino != ours.Ino {
			kinds |= kind
		}
	}
	return kinds, nil
}

// JoinNamespaces moves the calling thread (for pid namespaces: its future children) into namespaces of
// the process behind a pidfd, all or none (setns(2), Linux 5.8). With a mount namespace, the thread's
// root and working directory are that one's root. The goroutine is locked to its thread for good.
func JoinNamespaces(pidfd *os.File, kinds int) error {
	if kinds == 0 {
		return nil
	}
	if kinds&NewMount != 0 {
		// Threads share these, and setns refuses to change those of others.
		if err := Unshare(unix.CLONE_FS); err != nil {
			return err
		}
	}
	return Setns(pidfd, kinds)
}

// RootOf opens the root directory of the mount namespace that the process behind pidfd lives in, or
// if that is not another one our own.
func RootOf(pidfd *os.File, foreign bool) (root *os.File, err error) {
	if !foreign {
		return OpenPath("/")
	}
	done := make(chan struct{})
	OnOwnThread(func() {
		defer close(done)
		if err = JoinNamespaces(pidfd, NewMount); err == nil {
			root, err = OpenPath("/")
		}
	})
	<-done
	return root, err
}

// IsExecutableSealed tells whether this program's file, as /proc/self/exe leads to it, is on a mount
// that cannot be written to.
func IsExecutableSealed() (bool, error) {
	exe, err := OpenSource("/proc/self/exe")
	if err != nil {
		return false, err
	}
	defer exe.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(exe.Fd()), &st); err != nil {
		return false, fmt.Errorf("statfs %s: %w", exe.Name(), err)
	}
	return st.Flags&unix.ST_RDONLY != 0, nil
}

// ExecReadOnly executes this program again, with the same arguments, from a read-only bind mount of
// its file that is attached nowhere. It only returns with an error.
func ExecReadOnly() error {
	exe, err := OpenSource("/proc/self/exe")
	if err != nil {
		return err
	}
	defer exe.Close()
	mount, err := CloneTree(exe, false)
	if err != nil {
		return fmt.Errorf("seal this program: %w", err)
	}
	defer mount.Close()
	if err := SetMountAttr(mount, false, AttrReadOnly, 0, 0); err != nil {
		return fmt.Errorf("seal this program: %w", err)
	}
	argv, err := syscall.SlicePtrFromStrings(os.Args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(os.Environ())
	if err != nil {
		return err
	}
	var empty byte
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, mount.Fd(), uintptr(unsafe.Pointer(&empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	runtime.KeepAlive(argv)
	runtime.KeepAlive(envv)
	return &fs.PathError{Op: "exec", Path: "/proc/self/exe", Err: errno}
}
