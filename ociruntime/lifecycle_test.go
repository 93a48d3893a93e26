package ociruntime_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

func TestLifecycle(t *testing.T) {
	b := newBundle(t, "trap 'exit 3' TERM; touch /ran; while :; do sleep 0.01; done")
	pidFile := filepath.Join(b.dir, "pid")
	b.must("create", "--bundle", b.dir, "--pid-file", pidFile, b.id)

	s := b.state()
	require.Equal(t, specs.StateCreated, s.Status)
	require.Equal(t, b.id, s.ID)
	require.Equal(t, b.dir, s.Bundle)
	require.Equal(t, map[string]string{"a": "b"}, s.Annotations)
	pid, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(s.Pid), string(pid))
	require.NoFileExists(t, b.path("ran"), "it runs before start")

	b.must("start", b.id)
	require.Equal(t, specs.StateRunning, b.state().Status)
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.Pid))
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(cmdline), "sh\x00-c\x00"), "start returns when the program runs")
	b.awaitFile("ran")
	b.refuse("it is running", "start", b.id)
	b.refuse("container with given ID already exists", "create", b.id)
	b.refuse("not stopped: running", "delete", b.id)

	b.must("kill", b.id) // TERM
	b.awaitEnd()
	require.Zero(t, b.state().Pid)
	b.refuse("container not running", "kill", b.id)
	b.refuse("it is stopped", "start", b.id)
	b.must("delete", b.id)
	b.refuse("container does not exist", "state", b.id)
	require.Contains(t, b.lastLog(), "container does not exist")
	b.refuse("container does not exist", "delete", b.id)
	b.must("delete", "--force", b.id)
}

func TestDeleteCreated(t *testing.T) {
	b := newBundle(t, "touch /ran")
	b.must("create", b.id)
	pid := b.state().Pid
	b.must("delete", b.id)
	require.NoDirExists(t, fmt.Sprintf("/proc/%d/root/bin", pid))
	require.NoFileExists(t, b.path("ran"))
}

func TestDeleteForce(t *testing.T) {
	b := newBundle(t, "trap '' TERM; while :; do sleep 1; done")
	b.must("run", "--detach", b.id)
	require.Equal(t, specs.StateRunning, b.state().Status)
	b.must("kill", b.id, "SIGTERM")
	b.must("kill", b.id, "0")
	b.must("delete", "-f", b.id)
}

func TestKillAll(t *testing.T) {
	b := newBundle(t, "sh -c 'trap \"touch /hup; exit\" HUP; touch /ready; while :; do sleep 0.01; done' & trap '' HUP; wait; sleep 1000")
	b.must("run", "-d", b.id)
	b.awaitFile("ready")
	b.must("kill", "--all", b.id, "HUP")
	b.awaitFile("hup")
	require.Equal(t, specs.StateRunning, b.state().Status)
}

func TestRunGivesStatus(t *testing.T) {
	b := newBundle(t, "echo out; echo err >&2; exit 7")
	out, errOut, err := b.try("run", b.id)
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 7, exit.ExitCode())
	require.Equal(t, "out\n", out)
	require.Equal(t, "err\n", errOut)
	b.requireNothingLeft()
}

func TestRunPassesSignals(t *testing.T) {
	b := newBundle(t, "trap 'exit 9' USR1; touch /ready; while :; do sleep 0.01; done")
	cmd := b.command("run", b.id)
	require.NoError(t, cmd.Start())
	b.awaitFile("ready")
	require.NoError(t, exec.CommandContext(t.Context(), "kill", "-USR1", strconv.Itoa(cmd.Process.Pid)).Run())
	require.Error(t, cmd.Wait())
	require.Equal(t, 9, cmd.ProcessState.ExitCode())
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*bundle)
		why   string
	}{
		"no program":      {func(b *bundle) { b.spec.Process.Args[0] = "nosuch" }, "executable file not found in $PATH"},
		"no such path":    {func(b *bundle) { b.spec.Process.Args[0] = "/nosuch" }, "no such file or directory"},
		"no program file": {func(b *bundle) { b.spec.Process.Args[0] = "/bin" }, "permission denied"},
		"no root":         {func(b *bundle) { b.spec.Root.Path = "nosuch" }, "root file system"},
		"no limit":        {func(b *bundle) { b.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "X"}} }, "unknown resource limit"},
		"terminal":        {func(b *bundle) { b.spec.Process.Terminal = true }, "--console-socket"},
		"no working directory": {func(b *bundle) {
			b.spec.Root.Readonly = true
			b.spec.Process.Cwd = "/bin/sh"
		}, "working directory"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t, "true")
			c.spoil(b)
			b.refuse(c.why, "create", b.id)
			require.Contains(t, b.lastLog(), c.why)
			b.requireNothingLeft()
		})
	}
}

// A program that nobody could execute is found out at the start, if it was not there to be seen before.
func TestStartSaysWhyNothingRuns(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		perm    os.FileMode
		why     string
	}{
		"no format":  {"garbage", 0o755, "exec format error"},
		"no program": {"", 0, "no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t, "")
			b.spec.Process.Args = []string{"/program"}
			// The page in which it says why has to be had in spite of this.
			b.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_AS", Soft: 1 << 30, Hard: 1 << 30}}
			b.command("list")
			require.NoError(t, os.WriteFile(b.path("program"), []byte("\x7fELF"), 0o755))
			b.must("create", b.id)
			require.NoError(t, os.Remove(b.path("program")))
			if c.perm != 0 {
				require.NoError(t, os.WriteFile(b.path("program"), []byte(c.content), c.perm))
			}
			b.refuse(c.why, "start", b.id)
			require.Contains(t, b.lastLog(), c.why)
			b.awaitEnd()
			b.must("delete", b.id)
		})
	}
}

// What a create that was killed leaves is no container, and can be removed.
func TestRuins(t *testing.T) {
	b := newBundle(t, "true")
	require.NoError(t, os.MkdirAll(filepath.Join(b.root, b.id), 0o700))
	b.refuse("container does not exist", "state", b.id)
	require.Empty(t, b.must("list", "-q"))
	b.must("delete", "--force", b.id)
	b.must("run", b.id)
}

func TestOnlyOneStarts(t *testing.T) {
	b := newBundle(t, "sleep 1000")
	b.must("create", b.id)
	var group sync.WaitGroup
	var mu sync.Mutex
	started := 0
	for range 4 {
		cmd := b.command("start", b.id)
		group.Go(func() {
			if cmd.Run() == nil {
				mu.Lock()
				started++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	require.Equal(t, 1, started)
}

func TestList(t *testing.T) {
	b := newBundle(t, "sleep 1000")
	require.JSONEq(t, "[]", b.must("list", "--format", "json"))
	b.must("create", b.id)
	require.Equal(t, b.id+"\n", b.must("list", "--quiet"))
	var all []specs.State
	require.NoError(t, json.Unmarshal([]byte(b.must("list", "-f", "json")), &all))
	require.Len(t, all, 1)
	require.Equal(t, specs.StateCreated, all[0].Status)
	table := strings.Split(b.must("list"), "\n")
	require.Equal(t, []string{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}, strings.Fields(table[0]))
	require.Equal(t, b.id, strings.Fields(table[1])[0])
}

func TestBadUse(t *testing.T) {
	b := newBundle(t, "true")
	b.refuse("invalid container ID", "create", "../x")
	b.refuse("invalid container ID", "delete", "--force", "..")
	b.refuse("unknown command", "freeze", b.id)
	b.refuse("wrong use", "start")
	b.refuse("wrong use", "create", "--nosuch", b.id)
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		b.refuse("systemd does not run here", "--systemd-cgroup", "create", b.id)
	}
	b.refuse("unknown log format", "--log-format", "xml", "list")
	b.refuse("cannot be saved", "checkpoint", b.id)
	b.refuse("not supported: Intel RDT", "update", "--mem-bw-schema", "x", b.id)
	require.Contains(t, b.must("--version"), "spec: ")
	require.Contains(t, b.must("--help"), "--log-format")
}

// Where the host's root cannot be pivoted away from, no path leads to it all the same.
func TestNoPivot(t *testing.T) {
	b := newBundle(t, "ls /; ls /../..; ls /proc/1/root; grep -c . /proc/self/mountinfo >/dev/null && touch /ran; sleep 100000")
	b.spec.Linux.RootfsPropagation = "slave"
	b.must("run", "--detach", "--no-pivot", b.id)
	b.awaitFile("ran")
	require.Equal(t, "bin\ndev\nproc\nran\nsys\n", b.must("exec", b.id, "ls", "/../../.."))
	require.Contains(t, b.must("exec", b.id, "cat", "/proc/self/mountinfo"), "/rootfs / rw")
}

// Of this program's descriptors, those that are to be preserved are passed on, and no other one is.
func TestPreserveFDs(t *testing.T) {
	b := newBundle(t, "cat <&4; ls /proc/self/fd | cat >/list")
	for range 3 {
		f, err := os.Open(filepath.Join(b.dir, "rootfs"))
		require.NoError(t, err)
		defer f.Close()
		b.files = append(b.files, f)
	}
	text := filepath.Join(b.dir, "text")
	require.NoError(t, os.WriteFile(text, []byte("passed"), 0o600))
	f, err := os.Open(text)
	require.NoError(t, err)
	defer f.Close()
	b.files[1] = f
	require.Equal(t, "passed", b.must("run", "--preserve-fds", "2", b.id))
	list, err := os.ReadFile(b.path("list"))
	require.NoError(t, err)
	require.Equal(t, "0\n1\n2\n3\n4\n5\n", string(list), "5 is the listing itself")
	b.refuse("no descriptor 6", "run", "--preserve-fds", "4", b.id)
}

func TestSpecRuns(t *testing.T) {
	b := newBundle(t, "")
	b.command("list") // the bundle's files are there
	dir := t.TempDir()
	b.must("spec", "--bundle", dir)
	b.refuse("file exists", "spec", "--bundle", dir)
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	b.spec = &specs.Spec{}
	require.NoError(t, json.Unmarshal(text, b.spec))
	b.spec.Process.Args = []string{"/bin/sh", "-c", "echo works"}
	b.spec.Process.Terminal = false
	for _, name := range []string{"proc", "dev", "sys"} {
		require.NoError(t, os.Mkdir(b.path(name), 0o755))
	}
	require.Equal(t, "works\n", b.must("run", b.id))
}

// What the runtime itself needs is not the container's to pay for.
func TestStartsWithLittleMemory(t *testing.T) {
	b := newBundle(t, "cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes")
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(4 << 20))}
	require.Equal(t, "4194304\n", b.must("run", b.id))
	b.must("create", b.id)
	b.must("start", b.id)
	b.awaitEnd()
}
