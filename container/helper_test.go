package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/container/seccomp"
	"github.com/tarnfs/tarn/internal/testenv"
)

// probe is what the containers of these tests run: testdata/probe, built once.
var probe = os.Getenv(probeEnv)

const probeEnv = "TARN_TEST_PROBE"

func TestMain(m *testing.M) {
	if probe != "" {
		os.Exit(m.Run())
	}
	os.Exit(withProbe(m.Run))
}

func withProbe(run func() int) int {
	dir, err := os.MkdirTemp("", "tarn-probe-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a scratch directory
	probe = filepath.Join(dir, "probe")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", probe, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the probe:", err)
		return 1
	}
	return run()
}

// box is a container to be: its root file system is a directory of the test's own, with the probe
// in it, and nothing else.
type box struct {
	t    testing.TB
	root string
	spec *specs.Spec
	cfg  container.Config
}

func newBox(t testing.TB, args ...string) *box {
	t.Helper()
	testenv.RequireRoot(t)
	b := &box{t: t, root: testenv.TempDir(t), spec: container.DefaultSpec()}
	b.spec.Hostname = "box"
	b.spec.Process.Args = append([]string{"/probe"}, args...)
	b.spec.Process.Env = []string{"PATH=" + container.DefaultPath}
	b.spec.Linux.Sysctl = container.DefaultSysctls()
	b.spec.Linux.CgroupsPath = cgroupPrefix() + filepath.Base(b.root)
	b.cfg.Seccomp = seccomp.Default()
	require.NoError(t, os.Chmod(b.root, 0o755))
	b.copy(probe, "probe")
	return b
}

// withShell gives it a busybox, and has that run a script.
func (b *box) withShell(script string) *box {
	b.t.Helper()
	b.mkdir("bin")
	b.copy(testenv.Busybox(b.t), "bin/sh")
	b.spec.Process.Args = []string{"sh", "-c", script}
	return b
}

// path gives a path on the host of what the container has at name.
func (b *box) path(name string) string { return filepath.Join(b.root, name) }

func (b *box) copy(from, name string) {
	b.t.Helper()
	data, err := os.ReadFile(from)
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(b.path(name), data, 0o755))
}

func (b *box) write(name, content string, perm os.FileMode) {
	b.t.Helper()
	require.NoError(b.t, os.MkdirAll(filepath.Dir(b.path(name)), 0o755))
	require.NoError(b.t, os.WriteFile(b.path(name), []byte(content), perm))
	require.NoError(b.t, os.Chmod(b.path(name), perm))
}

func (b *box) mkdir(name string) {
	b.t.Helper()
	require.NoError(b.t, os.MkdirAll(b.path(name), 0o755))
}

func (b *box) symlink(target, name string) {
	b.t.Helper()
	require.NoError(b.t, os.MkdirAll(filepath.Dir(b.path(name)), 0o755))
	require.NoError(b.t, os.Symlink(target, b.path(name)))
}

func (b *box) mount(dest, source string, options ...string) {
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: dest, Type: "bind", Source: source, Options: append([]string{"rbind"}, options...)})
}

// start starts it; the caller waits for its end.
func (b *box) start() (*container.Process, error) {
	b.t.Helper()
	return b.startIn(b.t.Context(), b.openRoot())
}

func (b *box) openRoot() *os.File {
	b.t.Helper()
	root, err := container.OpenRoot(b.root)
	require.NoError(b.t, err)
	return root
}

// startIn starts it in a root that it closes.
func (b *box) startIn(ctx context.Context, root *os.File) (*container.Process, error) {
	c := container.New(b.spec)
	cfg := b.cfg
	cfg.Root = root
	p, err := c.Start(ctx, cfg)
	if closing := errors.Join(c.Close(), root.Close()); closing != nil {
		b.t.Error(closing)
	}
	return p, err
}

// mustStart starts it; it ends with the test at the latest.
func (b *box) mustStart() *container.Process {
	b.t.Helper()
	p, err := b.start()
	require.NoError(b.t, err)
	b.t.Cleanup(func() {
		if err := p.Signal(syscall.SIGKILL); err == nil {
			_, _ = p.Wait()
		}
	})
	return p
}

// result is how a container ended and what it printed.
type result struct {
	status      int
	out, errOut string
}

// run runs it to its end, with no input.
func (b *box) run() (result, error) {
	b.t.Helper()
	out, errOut := tempFile(b.t), tempFile(b.t)
	b.cfg.Stdout, b.cfg.Stderr = out, errOut
	defer func() {
		b.cfg.Stdout, b.cfg.Stderr = nil, nil
		require.NoError(b.t, errors.Join(out.Close(), errOut.Close()))
	}()
	p, err := b.start()
	if err != nil {
		return result{}, err
	}
	status, err := p.Wait()
	require.NoError(b.t, err)
	return result{status, content(b.t, out), content(b.t, errOut)}, nil
}

func tempFile(t testing.TB) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func content(t testing.TB, f *os.File) string {
	t.Helper()
	_, err := f.Seek(0, io.SeekStart)
	require.NoError(t, err)
	text, err := io.ReadAll(f)
	require.NoError(t, err)
	return string(text)
}

// output runs it and gives what it printed; it must have ended well.
func (b *box) output() string {
	b.t.Helper()
	r, err := b.run()
	require.NoError(b.t, err)
	require.Zero(b.t, r.status, r.errOut)
	return r.out
}

// sight is what the probe finds itself with.
type sight struct {
	Pid, Ppid, Sid       int
	Status, NS, Dev      map[string]string
	Cwd, Hostname, Exe   string
	Domainname           string
	FDs, Env, Args       []string
	Limits, Mounts       string
	Cgroup, Lo, OOM, Key string
	UID, GID, Umask      int
	IOPrio               int
	Groups               []int
	Files                map[string]string
}

// look runs the probe to look around, and read files.
func (b *box) look(files ...string) sight {
	b.t.Helper()
	b.spec.Process.Args = append([]string{"/probe", "look"}, files...)
	return decode[sight](b.t, b.output())
}

// try has the probe attempt things that should mostly be refused, and gives what came of each.
func (b *box) try(attempts ...string) map[string]string {
	b.t.Helper()
	b.spec.Process.Args = append([]string{"/probe", "try"}, attempts...)
	results := make(map[string]string)
	for line := range strings.Lines(b.output()) {
		attempt, outcome, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		results[attempt] = outcome
	}
	return results
}

// mountLine is a line of a container's mountinfo.
type mountLine struct {
	point, options, fstype string
}

// mountsOf reads a mountinfo, see proc_pid_mountinfo(5).
func mountsOf(mountinfo string) []mountLine {
	var mounts []mountLine
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		fields, more := strings.Fields(before), strings.Fields(after)
		mounts = append(mounts, mountLine{fields[4], fields[5], more[0]})
	}
	return mounts
}

func findMount(t testing.TB, mountinfo, point string) mountLine {
	t.Helper()
	mounts := mountsOf(mountinfo)
	for _, m := range slices.Backward(mounts) {
		if m.point == point {
			return m
		}
	}
	t.Fatalf("nothing is mounted at %s:\n%s", point, mountinfo)
	return mountLine{}
}

// readUntil reads lines until one begins with prefix, and gives that.
func readUntil(t testing.TB, r io.Reader, prefix string) string {
	t.Helper()
	var line bytes.Buffer
	one := make([]byte, 1)
	for {
		_, err := r.Read(one)
		require.NoError(t, err, "waiting for %q, read %q", prefix, line.String())
		if one[0] != '\n' {
			line.WriteByte(one[0])
			continue
		}
		if text := strings.TrimSuffix(line.String(), "\r"); strings.HasPrefix(text, prefix) {
			return text
		}
		line.Reset()
	}
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = r.Close()
		_ = w.Close()
	})
	return r, w
}
