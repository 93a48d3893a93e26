package container_test

import (
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/container/seccomp"
)

// deny has system calls fail in this process, and in those that it makes.
func deny(t *testing.T, names []string, errno syscall.Errno) {
	t.Helper()
	ret := uint(errno)
	filterCalls(t, specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: &ret}, unix.SECCOMP_FILTER_FLAG_TSYNC)
}

// hang has a system call wait for an answer that nobody gives.
func hang(t *testing.T, name string) {
	t.Helper()
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	filterCalls(t, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActNotify}, flags)
}

// filterCalls puts all threads of this process under a filter.
func filterCalls(t *testing.T, call specs.LinuxSyscall, flags uintptr) {
	t.Helper()
	filter, err := seccomp.Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{call}}, runtime.GOARCH)
	require.NoError(t, err)
	prog := unix.SockFprog{Len: uint16(len(filter) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	require.Zero(t, errno)
}

// A filter need not allow what this runtime does before it executes the program: not even without
// no_new_privs, when it takes a privilege to load the filter.
func TestFilterMayRefuseWhatTheRuntimeDoes(t *testing.T) {
	b := newBox(t).withShell("echo works")
	b.cfg.Seccomp = nil
	b.spec.Process.NoNewPrivileges = false
	b.spec.Process.User.UID = 7
	b.spec.Process.Cwd = "/bin"
	b.spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{{Action: specs.ActErrno, Names: []string{
			"close_range", "openat2", "setgroups", "setresgid", "setresuid", "fchdir", "prlimit64", "umask", "setsid", "dup3",
			"mount", "move_mount", "keyctl", "ppoll", "seccomp", "rt_sigaction",
		}}},
	}
	require.Equal(t, "works\n", b.output())
}
