package sys

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Kinds of namespaces, for [Unshare], [Setns] and [Fork].
const (
	NewMount  = unix.CLONE_NEWNS
	NewPID    = unix.CLONE_NEWPID
	NewUTS    = unix.CLONE_NEWUTS
	NewIPC    = unix.CLONE_NEWIPC
	NewNet    = unix.CLONE_NEWNET
	NewCgroup = unix.CLONE_NEWCGROUP
	NewUser   = unix.CLONE_NEWUSER
	NewTime   = unix.CLONE_NEWTIME
	// OwnRoot is no namespace: a root and a working directory that are not those of the other threads.
	OwnRoot = unix.CLONE_FS
)

// OpenNamespace opens a namespace by its path, for example /proc/PID/ns/net, and verifies that it
// is one of that kind.
func OpenNamespace(path string, kind int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	got, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err == nil && got != kind {
		err = unix.EINVAL
	}
	if err != nil {
		_ = f.Close()
		return nil, &os.PathError{Op: "open namespace", Path: path, Err: err}
	}
	return f, nil
}

// ThreadMountNamespace opens the mount namespace of the calling thread.
func ThreadMountNamespace() (*os.File, error) {
	return OpenNamespace("/proc/thread-self/ns/mnt", NewMount)
}

// ThreadNetworkNamespace opens the network namespace of the calling thread.
func ThreadNetworkNamespace() (*os.File, error) {
	return OpenNamespace("/proc/thread-self/ns/net", NewNet)
}

// Unshare moves the calling thread into new namespaces, see unshare(2). The goroutine is locked to
// its thread for good.
func Unshare(kinds int) error {
	if err := unix.Unshare(kinds); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	return nil
}

// Setns moves the calling thread (for pid namespaces: its future children) into a namespace. The
// goroutine is locked to its thread for good.
func Setns(ns *os.File, kind int) error {
	if err := unix.Setns(int(ns.Fd()), kind); err != nil {
		return fmt.Errorf("setns %s: %w", ns.Name(), err)
	}
	return nil
}

// InCgroupNamespace runs f in a new cgroup namespace, whose root is this program's own cgroup, and comes
// back. Who may have none runs f where it is.
func InCgroupNamespace(f func()) error {
	runtime.LockOSThread()
	ours, err := OpenNamespace("/proc/thread-self/ns/cgroup", NewCgroup)
	if err == nil {
		defer ours.Close()
		err = unix.Unshare(NewCgroup)
	}
	if err != nil {
		f()
		runtime.UnlockOSThread()
		return nil
	}
	f()
	if err := Setns(ours, NewCgroup); err != nil {
		return err // the thread ends with this goroutine: nobody else gets it
	}
	runtime.UnlockOSThread()
	return nil
}

// OnMainThread tells whether the calling thread is the first one of the process: the only one
// that cannot end before the process does.
func OnMainThread() bool { return unix.Gettid() == unix.Getpid() }

// OnOwnThread runs f in a goroutine on a thread that ends with it: what f does to the thread, such as
// entering a namespace, nobody else gets to see. It does not wait.
func OnOwnThread(f func()) {
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends
		GrowStack()
		if !OnMainThread() {
			f()
			return
		}
		// The main thread cannot end, and /proc/self would go on showing what f did to it. While it
		// is held, the next goroutine gets another one.
		other := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(other)
			f()
		}()
		<-other
		runtime.UnlockOSThread()
	}()
}

// PivotRoot makes dir, the root of a mount, the root of the calling thread's mount namespace and of
// the thread, and takes all that was mounted before out of the namespace.
//
// Source: pivot_root(2), "pivot_root(".", ".")".
func PivotRoot(dir *os.File) error {
	if err := dir.Chdir(); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// The old root lies on top of the new one now, and the working directory is the old root.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir to the new root: %w", err)
	}
	return nil
}

// SetPropagation changes how mounts propagate into and out of the mount of the thread's root
// directory and, with recursive, all below. It is one of the Propagation constants.
func SetPropagation(propagation uintptr, recursive bool) error {
	if recursive {
		propagation |= unix.MS_REC
	}
	if err := unix.Mount("", "/", "", propagation, ""); err != nil {
		return fmt.Errorf("set mount propagation: %w", err)
	}
	return nil
}

// SetHostname sets the host name of the calling thread's UTS namespace.
func SetHostname(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name %q: %w", name, err)
	}
	return nil
}

// SetDomainname sets the NIS domain name of the calling thread's UTS namespace.
func SetDomainname(name string) error {
	if err := unix.Setdomainname([]byte(name)); err != nil {
		return fmt.Errorf("set domain name %q: %w", name, err)
	}
	return nil
}

// Umask sets the file mode creation mask. It is the thread's own after [Unshare] of the mount
// namespace.
func Umask(mask int) { unix.Umask(mask) }

// LoopbackUp turns on the loopback interface of the calling thread's network namespace, which
// also gives it its addresses.
func LoopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: socket: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_LOOPBACK | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("loopback: set up: %w", err)
	}
	return nil
}

// HideProcess keeps all but the host's root from this process's memory, files and executable
// through /proc, as PR_SET_DUMPABLE in prctl(2) says.
func HideProcess() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	return nil
}

// RlimitNumber gives the number of a resource limit ("RLIMIT_NOFILE").
func RlimitNumber(name string) (int, bool) {
	// In the order of their numbers: asm-generic/resource.h, which all machines Go runs on share
	// but mips.
	const names = "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"
	for i, n := range strings.Fields(names) {
		if name == "RLIMIT_"+n {
			return i, true
		}
	}
	return 0, false
}

// MaxFiles gives this process's hard limit of open files.
func MaxFiles() (uint64, error) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 0, fmt.Errorf("getrlimit: %w", err)
	}
	return lim.Max, nil
}
