package sys

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/internal/testenv"
)

func TestFork(t *testing.T) {
	dir := t.TempDir()
	out, err := os.OpenFile(filepath.Join(dir, "out"), os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	defer out.Close()
	p := &Program{}
	defer p.Close()
	p.ResetSignals()
	p.NewSession()
	p.Umask(0o077)
	p.Dup(out, 1)
	p.CloseOnExec(3)
	p.Exec("exec", "/bin/sh", []string{"sh", "-c", "echo $GREETING; umask; exit 7"}, []string{"GREETING=hello", "PATH=/bin"})
	for range 3 { // a program can be carried out again
		child, err := Fork(t.Context(), 0, nil, p)
		require.NoError(t, err)
		status, err := WaitPidFD(child.PidFD)
		require.NoError(t, err)
		require.Equal(t, 7, status.ExitStatus())
		require.NoError(t, child.PidFD.Close())
	}
	text, err := os.ReadFile(out.Name())
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("hello\n0077\n", 3), string(text))
}

func TestForkTellsWhatFailed(t *testing.T) {
	p := &Program{}
	defer p.Close()
	p.NewSession()
	p.Exec("exec it", "/does/not/exist", []string{"x"}, nil)
	_, err := Fork(t.Context(), 0, nil, p)
	step, ok := errors.AsType[*StepError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, &StepError{Step: "exec it", Errno: syscall.ENOENT}, step)
	require.ErrorIs(t, err, os.ErrNotExist)
	requireNoChild(t)

	_, err = Fork(t.Context(), 1<<40, nil, p)
	require.ErrorContains(t, err, "clone3")
}

// A child that hangs is killed when its time is over; and one whose time is over before is none.
func TestForkIsGivenUp(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	p := &Program{}
	defer p.Close()
	p.call("open a fifo that nobody writes", unix.SYS_OPENAT, fdcwd, p.str(fifo), unix.O_RDONLY)
	p.Exec("exec", "/bin/true", []string{"true"}, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		// When the child has the other end open, it hangs there; then it has been told to go on, and is killed.
		for {
			matches, _ := filepath.Glob("/proc/self/task/*/children")
			for _, m := range matches {
				if text, _ := os.ReadFile(m); len(text) > 0 {
					cancel(errors.New("enough"))
					return
				}
			}
		}
	}()
	_, err := Fork(ctx, 0, nil, p)
	require.EqualError(t, err, "enough")
	_, err = Fork(ctx, 0, nil, p)
	require.EqualError(t, err, "enough")
	requireNoChild(t)
}

func requireNoChild(t *testing.T) {
	t.Helper()
	_, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
	require.ErrorIs(t, err, unix.ECHILD)
}

// A step may fail in ways that were foreseen; then what depends on it is left out.
func TestProgramSkips(t *testing.T) {
	out, err := os.OpenFile(filepath.Join(t.TempDir(), "out"), os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	defer out.Close()
	p := &Program{}
	defer p.Close()
	write := func(text string) { p.call("write", unix.SYS_WRITE, p.file(out), p.str(text), uintptr(len(text))) }
	open := p.result(p.call("open", unix.SYS_OPENAT, fdcwd, p.str("/does/not/exist"), unix.O_RDONLY).or(1, unix.ENOENT))
	write("skipped ")
	write("done ")
	p.call("unless", opSkipUnlessZero, uintptr(open)).skip = 1
	write("zero ")
	there := p.result(p.call("open", unix.SYS_OPENAT, fdcwd, p.str("/dev/null"), unix.O_RDONLY).or(1, unix.ENOENT))
	write("open ")
	p.call("unless", opSkipUnlessZero, uintptr(there)).skip = 1
	write("zero again ")
	p.Exec("exec", "/bin/true", []string{"true"}, nil)
	child, err := Fork(t.Context(), 0, nil, p)
	require.NoError(t, err)
	defer child.PidFD.Close()
	_, err = WaitPidFD(child.PidFD)
	require.NoError(t, err)
	text, err := os.ReadFile(out.Name())
	require.NoError(t, err)
	require.Equal(t, "done zero open ", string(text))
}

func TestForkIntoCgroup(t *testing.T) {
	testenv.RequireRoot(t)
	root, err := cgroup2(t)
	require.NoError(t, err)
	name := "tarn-test-fork-" + filepath.Base(t.TempDir())
	require.NoError(t, MakeDir(root, name, 0o755))
	t.Cleanup(func() { require.NoError(t, errors.Join(RemoveEntryDir(root, name), root.Close())) })
	cgroup, err := OpenEntry(root, name, OpenDirectory)
	require.NoError(t, err)
	defer cgroup.Close()
	out, err := os.OpenFile(filepath.Join(t.TempDir(), "out"), os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	defer out.Close()
	p := &Program{}
	defer p.Close()
	p.Dup(out, 1)
	p.Exec("exec", "/bin/cat", []string{"cat", "/proc/self/cgroup"}, nil)
	child, err := Fork(t.Context(), 0, cgroup, p)
	require.NoError(t, err)
	defer child.PidFD.Close()
	_, err = WaitPidFD(child.PidFD)
	require.NoError(t, err)
	text, err := os.ReadFile(out.Name())
	require.NoError(t, err)
	require.Contains(t, string(text), "/"+name+"\n")
}

// cgroup2 mounts that hierarchy for the test.
func cgroup2(t *testing.T) (*os.File, error) {
	t.Helper()
	fs, err := OpenFS("cgroup2")
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	if err := fs.Create(); err != nil {
		return nil, err
	}
	return fs.Mount(0)
}

func TestFeatures(t *testing.T) {
	for _, f := range Features() {
		require.True(t, f.Has(), "%s: or this kernel cannot run any other test", f.Name)
		require.NotEmpty(t, f.Since)
	}
}

func TestStreamOf(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	socket, other := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
	defer socket.Close()
	defer other.Close()
	file, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer file.Close()
	name := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(name, 0o600))
	fifo, err := os.OpenFile(name, os.O_RDWR, 0)
	require.NoError(t, err)
	defer fifo.Close()
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	zero, err := os.Open("/dev/zero")
	require.NoError(t, err)
	defer zero.Close()
	for f, want := range map[*os.File]Stream{r: StreamPipe, w: StreamPipe, socket: StreamPipe, file: StreamOther, fifo: StreamOther, null: StreamNull, zero: StreamOther} {
		got, err := StreamOf(f)
		require.NoError(t, err)
		require.Equal(t, want, got, f.Name())
	}
}
