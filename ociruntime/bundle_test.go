package ociruntime_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/ociruntime"
)

// beRuntime has this test binary be the runtime: that is a program which ends, as create does.
const beRuntime = "TARN_TEST_BE_RUNTIME"

func TestMain(m *testing.M) {
	if os.Getenv(beReaper) != "" {
		os.Exit(reap())
	}
	if os.Getenv(beRuntime) != "" {
		os.Exit(ociruntime.Main(context.Background(), "test", os.Args[1:]))
	}
	if os.Getenv(beSealed) != "" {
		os.Exit(probeSealed())
	}
	os.Exit(m.Run())
}

// bundle is a bundle with a busybox in it, and a runtime with a root of its own.
type bundle struct {
	t      testing.TB
	id     string
	dir    string
	spec   *specs.Spec
	root   string
	errors string // the file of the log
	files  []*os.File

	program    string              // this test's, or a copy of it
	credential *syscall.Credential // who runs it; nil is root
	cgroup     string              // where it runs, in cgroup2; "" is the test's own
	beside     []string            // what runs it in other namespaces
	flags      []string            // more global ones
}

// newBundle has the container run a shell script.
func newBundle(t testing.TB, script string) *bundle {
	t.Helper()
	testenv.RequireRoot(t)
	dir := testenv.TempDir(t)
	b := &bundle{t: t, id: "t-" + filepath.Base(dir), dir: dir, spec: container.DefaultSpec(), root: filepath.Join(dir, "state")}
	b.errors = filepath.Join(dir, "log")
	var err error
	b.program, err = os.Executable()
	require.NoError(t, err)
	b.spec.Root.Path = "rootfs"
	b.spec.Process.Args = []string{"sh", "-c", script}
	b.spec.Process.Env = []string{"PATH=/bin"}
	b.spec.Annotations = map[string]string{"a": "b"}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "rootfs/bin"), 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	busybox, err := os.ReadFile(testenv.Busybox(t))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(b.path("bin/busybox"), busybox, 0o755))
	for _, name := range []string{"sh", "cat", "sleep", "id", "ls", "readlink", "stat", "tty", "env", "touch", "kill", "true"} {
		require.NoError(t, os.Symlink("busybox", b.path("bin/"+name)))
	}
	t.Cleanup(func() {
		_, _, err := b.try("delete", "--force", b.id)
		require.NoError(t, err)
		b.requireNothingLeft()
	})
	return b
}

// path is where the host has a file of the container.
func (b *bundle) path(name string) string { return filepath.Join(b.dir, "rootfs", name) }

func (b *bundle) command(args ...string) *exec.Cmd {
	b.t.Helper()
	text, err := json.Marshal(b.spec)
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(b.dir, "config.json"), text, 0o644))
	line := append(slices.Clip(b.beside), b.program, "--root", b.root, "--log", b.errors, "--log-format", "json")
	line = append(append(line, b.flags...), args...)
	cmd := exec.CommandContext(b.t.Context(), line[0], line[1:]...)
	cmd.Env = append(os.Environ(), beRuntime+"=1")
	cmd.Dir = b.dir
	cmd.ExtraFiles = b.files
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.credential}
	if b.cgroup != "" {
		dir, err := os.Open(b.cgroup)
		require.NoError(b.t, err)
		b.t.Cleanup(func() { _ = dir.Close() })
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	return cmd
}

// try runs the runtime. Its output goes to files: a container that goes on would keep a pipe open.
func (b *bundle) try(args ...string) (out, errOut string, err error) {
	b.t.Helper()
	cmd := b.command(args...)
	dir := b.t.TempDir()
	if b.t.Context().Err() != nil { // in a cleanup
		var both bytes.Buffer
		cmd = exec.CommandContext(context.Background(), cmd.Path, cmd.Args[1:]...)
		cmd.Env = append(os.Environ(), beRuntime+"=1")
		cmd.Stdout, cmd.Stderr = &both, &both
		err = cmd.Run()
		return "", both.String(), err
	}
	read := func(f *os.File) string {
		text, err := os.ReadFile(f.Name())
		require.NoError(b.t, err)
		return string(text)
	}
	stdout, err := os.OpenFile(filepath.Join(dir, "out"), os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(b.t, err)
	defer stdout.Close()
	stderr, err := os.OpenFile(filepath.Join(dir, "err"), os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(b.t, err)
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = cmd.Run()
	return read(stdout), read(stderr), err
}

func (b *bundle) must(args ...string) string {
	b.t.Helper()
	out, errOut, err := b.try(args...)
	require.NoError(b.t, err, errOut)
	return out
}

// refuse runs the runtime, which must say why it does not do it.
func (b *bundle) refuse(why string, args ...string) {
	b.t.Helper()
	_, errOut, err := b.try(args...)
	var exit *exec.ExitError
	require.ErrorAs(b.t, err, &exit)
	require.Equal(b.t, 1, exit.ExitCode(), errOut)
	require.Contains(b.t, errOut, why)
}

// state is what "state" prints.
func (b *bundle) state() specs.State {
	b.t.Helper()
	var s specs.State
	require.NoError(b.t, json.Unmarshal([]byte(b.must("state", b.id)), &s))
	return s
}

func (b *bundle) awaitEnd() {
	b.t.Helper()
	b.eventually(func() bool { return b.state().Status == specs.StateStopped })
}

// awaitFile waits until the container has made a file.
func (b *bundle) awaitFile(name string) {
	b.t.Helper()
	b.eventually(func() bool {
		_, err := os.Stat(b.path(name))
		return err == nil
	})
}

// eventually waits for something that must come to pass, however long that takes.
func (b *bundle) eventually(ok func() bool) {
	b.t.Helper()
	for !ok() {
		require.NoError(b.t, b.t.Context().Err())
		time.Sleep(time.Millisecond)
	}
}

func (b *bundle) requireNothingLeft() {
	b.t.Helper()
	entries, err := os.ReadDir(b.root)
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(b.t, err)
	}
	require.Empty(b.t, entries)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(b.t, err)
	require.NotContains(b.t, string(mounts), b.dir)
	require.NoError(b.t, filepath.WalkDir("/sys/fs/cgroup", func(path string, _ fs.DirEntry, err error) error {
		require.NotContains(b.t, path, b.id)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}))
}

// lastLog is the message of the last line of the log.
func (b *bundle) lastLog() string {
	b.t.Helper()
	text, err := os.ReadFile(b.errors)
	require.NoError(b.t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var entry struct{ Level, Msg, Time string }
	require.NoError(b.t, json.Unmarshal([]byte(lines[len(lines)-1]), &entry))
	require.Equal(b.t, "error", entry.Level)
	_, err = time.Parse(time.RFC3339, entry.Time)
	require.NoError(b.t, err)
	return entry.Msg
}
