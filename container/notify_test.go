package container_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/container/seccomp"
	"github.com/tarnfs/tarn/internal/testenv"
)

func contextWithCancel(t *testing.T) (context.Context, func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	return ctx, func() { cancel(errors.New("never mind")) }
}

// profileOf is a seccomp section that does something about one system call.
func profileOf(action specs.LinuxSeccompAction, names ...string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: names, Action: action}}}
}

// The filter of the specification is used if the caller has none.
func TestSeccompOfTheSpecification(t *testing.T) {
	for _, noNewPrivileges := range []bool{false, true} {
		b := newBox(t)
		b.cfg.Seccomp = nil
		b.spec.Process.NoNewPrivileges = noNewPrivileges
		b.spec.Linux.Seccomp = profileOf(specs.ActErrno, "mkdir", "mkdirat")
		b.spec.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow}
		require.Equal(t, map[string]string{"mkdir:/d": "mkdir /d: operation not permitted", "create:/f": "ok"}, b.try("mkdir:/d", "create:/f"))
		require.Equal(t, "2", b.look().Status["Seccomp"])
	}
}

func notifyMkdir(t *testing.T) []byte {
	t.Helper()
	filter, err := seccomp.Compile(profileOf(specs.ActNotify, "mkdir", "mkdirat"), runtime.GOARCH)
	require.NoError(t, err)
	return filter
}

// answer is a listener that lets the first call that it is asked about have an error of its own, and
// tells what it was sent.
func answer(t *testing.T, path string) (got chan specs.ContainerProcessState) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	got = make(chan specs.ContainerProcessState, 1)
	go func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		data, control := make([]byte, 1<<16), make([]byte, 1<<10)
		n, cn, _, _, err := conn.ReadMsgUnix(data, control)
		if err != nil {
			t.Error(err)
			return
		}
		var state specs.ContainerProcessState
		if err := json.Unmarshal(data[:n], &state); err != nil {
			t.Error(err)
		}
		messages, err := syscall.ParseSocketControlMessage(control[:cn])
		if err != nil || len(messages) != 1 {
			t.Error("no descriptor was sent", err)
			return
		}
		fds, err := syscall.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			t.Error("no descriptor was sent", err)
			return
		}
		got <- state
		answerOne(t, fds[0])
	}()
	return got
}

// answerOne has one call fail with EXDEV, as seccomp_unotify(2) says.
func answerOne(t *testing.T, fd int) {
	defer unix.Close(fd)      //nolint:errcheck // the test is over
	var notification [80]byte // struct seccomp_notif
	const receive, send = 0xc0502100, 0xc0182101
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), receive, uintptr(unsafe.Pointer(&notification)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			t.Error("receive:", errno)
			return
		}
		break
	}
	response := struct { // struct seccomp_notif_resp
		id    uint64
		val   int64
		error int32
		flags uint32
	}{id: *(*uint64)(unsafe.Pointer(&notification)), error: -int32(unix.EXDEV)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), send, uintptr(unsafe.Pointer(&response))); errno != 0 {
		t.Error("send:", errno)
	}
}

// Who listens at listenerPath is asked about the container's calls.
func TestSeccompListener(t *testing.T) {
	for name, arrange := range map[string]func(b *box){
		"":                    func(*box) {},
		"no new privileges":   func(b *box) { b.spec.Process.NoNewPrivileges = true },
		"user namespace":      func(b *box) { b.inUserNamespace() },
		"hooks at the start":  func(b *box) { b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{script("cat")}} },
		"a filter of its own": func(b *box) { b.cfg.Seccomp = notifyMkdir(t) },
	} {
		path := filepath.Join(testenv.TempDir(t), "listener")
		b := newBox(t)
		b.cfg.Seccomp = nil
		b.spec.Linux.Seccomp = profileOf(specs.ActNotify, "mkdir", "mkdirat")
		b.spec.Linux.Seccomp.ListenerPath, b.spec.Linux.Seccomp.ListenerMetadata = path, "some words"
		b.cfg.State.ID = "box"
		arrange(b)
		got := answer(t, path)
		require.Equal(t, map[string]string{"mkdir:/d": "mkdir /d: invalid cross-device link"}, b.try("mkdir:/d"), name)
		state := <-got
		require.Equal(t, []string{"seccompFd"}, state.Fds)
		require.Equal(t, "some words", state.Metadata)
		require.Equal(t, []any{"box", specs.StateCreating, state.Pid}, []any{state.State.ID, state.State.Status, state.State.Pid})
		require.Positive(t, state.Pid)
	}
}

func TestSeccompThatIsRefused(t *testing.T) {
	for message, profile := range map[string]*specs.LinuxSeccomp{
		"needs a listenerPath":     profileOf(specs.ActNotify, "mkdir"),
		"asked about write":        profileOf(specs.ActNotify, "mkdir", "write"),
		"about every call":         {DefaultAction: specs.ActNotify, ListenerPath: "/x"},
		"needs a rule":             {DefaultAction: specs.ActAllow, ListenerPath: "/x"},
		"needs a listenerPath\x00": {DefaultAction: specs.ActAllow, ListenerMetadata: "x"},
		"seccomp flag \"X\"":       {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}},
		"seccomp listener: open /no/": func() *specs.LinuxSeccomp {
			p := profileOf(specs.ActNotify, "mkdir")
			p.ListenerPath = "/no/where"
			return p
		}(),
	} {
		b := newBox(t, "exit", "0")
		b.cfg.Seccomp = nil
		b.spec.Linux.Seccomp = profile
		_, err := b.start()
		require.ErrorContains(t, err, trimNUL(message))
		require.Equal(t, 125, container.ExitCode(err))
	}
}

func trimNUL(s string) string {
	for len(s) > 0 && s[len(s)-1] == 0 {
		s = s[:len(s)-1]
	}
	return s
}
