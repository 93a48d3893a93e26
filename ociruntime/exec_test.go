package ociruntime_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/testenv"
)

// running is a container that does nothing, until it is ended.
func running(t *testing.T) *bundle {
	t.Helper()
	b := newBundle(t, "touch /ready; sleep 100000")
	b.must("run", "--detach", b.id)
	b.awaitFile("ready")
	return b
}

func TestExecIsInTheContainer(t *testing.T) {
	b := running(t)
	pid := b.state().Pid
	for _, ns := range []string{"mnt", "pid", "uts", "ipc", "net", "cgroup", "user", "time"} {
		want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		require.NoError(t, err)
		require.Equal(t, want+"\n", b.must("exec", b.id, "readlink", "/proc/self/ns/"+ns))
	}
	// cgroup, capabilities, filter and limits are the first process's.
	for _, file := range []string{"cgroup", "limits"} {
		require.Equal(t, b.must("exec", b.id, "cat", "/proc/1/"+file), b.must("exec", b.id, "cat", "/proc/self/"+file))
	}
	status := func(who string) (lines []string) {
		for line := range strings.Lines(b.must("exec", b.id, "cat", "/proc/"+who+"/status")) {
			for _, name := range []string{"Cap", "Seccomp", "NoNewPrivs", "Uid", "Gid", "Groups", "SigBlk", "Umask"} {
				if strings.HasPrefix(line, name) {
					lines = append(lines, line)
				}
			}
		}
		return lines
	}
	require.Equal(t, status("1"), status("self"))
	require.Equal(t, "0\n1\n2\n3\n", b.must("exec", b.id, "ls", "/proc/self/fd"), "3 is the listing itself")
}

// In namespaces of users and of time too, which only a process of one thread enters.
func TestExecInUserAndTimeNamespace(t *testing.T) {
	b := newBundle(t, "touch /ready; sleep 100000")
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.TimeNamespace})
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}}
	b.spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 1000}}
	b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 86400 * 1000}}
	require.NoError(t, os.Chown(b.path(""), 100000, 200000))
	b.must("run", "-d", b.id)
	b.awaitFile("ready")
	for _, ns := range []string{"mnt", "pid", "uts", "ipc", "net", "cgroup", "user", "time"} {
		want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", b.state().Pid, ns))
		require.NoError(t, err)
		require.Equal(t, want+"\n", b.must("exec", b.id, "readlink", "/proc/self/ns/"+ns))
	}
	require.Equal(t, "5\n6\n", b.must("exec", "--user", "5:6", b.id, "sh", "-c", "id -u; id -g"))
	require.Equal(t, b.must("exec", b.id, "cat", "/proc/1/limits"), b.must("exec", b.id, "cat", "/proc/self/limits"))
	_, errOut, err := b.try("exec", "--user", "5000", b.id, "true")
	require.Error(t, err)
	require.Contains(t, errOut, "setuid")
}

func TestExecStatusAndOutput(t *testing.T) {
	b := running(t)
	out, errOut, err := b.try("exec", b.id, "sh", "-c", "echo out; echo err >&2; exit 5")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 5, exit.ExitCode())
	require.Equal(t, "out\n", out)
	require.Equal(t, "err\n", errOut)
	_, errOut, err = b.try("exec", b.id, "nosuch")
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 255, exit.ExitCode())
	require.Contains(t, errOut, "executable file not found in $PATH")
}

func TestExecFlags(t *testing.T) {
	b := running(t)
	out := b.must("exec", "--cwd", "/bin", "--user", "7:8", "--additional-gids", "9", "--env", "X=y", "--no-new-privs",
		b.id, "sh", "-c", "pwd; echo $X; id -u; id -g; id -G; cat /proc/self/status")
	require.True(t, strings.HasPrefix(out, "/bin\ny\n7\n8\n8 9\n"), out)
	require.Contains(t, out, "NoNewPrivs:\t1")
	out = b.must("exec", "--cap", "CAP_SYS_PTRACE", b.id, "cat", "/proc/self/status")
	require.Contains(t, out, "CapEff:\t00000000a80c25fb")
	_, errOut, err := b.try("exec", "--user", "nobody", b.id, "true")
	require.Error(t, err)
	require.Contains(t, errOut, "want numbers")
}

func TestExecProcessFile(t *testing.T) {
	b := running(t)
	text, err := json.Marshal(specs.Process{
		Args: []string{"sh", "-c", "id -u; cat /proc/self/oom_score_adj; echo $0 $A", "zero"},
		Cwd:  "/", Env: []string{"PATH=/bin", "A=a"}, User: specs.User{UID: 12},
	})
	require.NoError(t, err)
	file := filepath.Join(b.dir, "process.json")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	require.Equal(t, "12\n0\nzero a\n", b.must("exec", "--process", file, b.id))
	_, errOut, err := b.try("exec", "--process", file, b.id, "true")
	require.Error(t, err)
	require.Contains(t, errOut, "wrong use")
}

// Who inherits the process of a detached exec gets its status: podman and containerd wait for it.
func TestExecDetachedLeavesStatus(t *testing.T) {
	b := running(t)
	cmd := b.command("exec", "--detach", "--pid-file", filepath.Join(b.dir, "pid"), b.id, "sh", "-c", "exit 6")
	cmd.Env = append(cmd.Env, beReaper+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "6", string(out))
}

const beReaper = "TARN_TEST_BE_REAPER"

// reap runs the runtime as containerd's shim does, and prints the status of the process that it
// inherits from it.
func reap() int {
	const prSetChildSubreaper = 36
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		return 1
	}
	cmd := exec.CommandContext(context.Background(), os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), beReaper+"=")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return 1
	}
	text, err := os.ReadFile(os.Args[slices.Index(os.Args, "--pid-file")+1])
	if err != nil {
		return 1
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return 1
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		fmt.Print(err)
		return 1
	}
	fmt.Print(status.ExitStatus())
	return 0
}

func TestExecTerminal(t *testing.T) {
	b := running(t)
	socket, receive := b.consoleSocket()
	b.must("exec", "--tty", "--detach", "--console-socket", socket, b.id, "sh", "-c", "tty; touch /printed; read line; echo got $line; touch /done")
	terminal := receive()
	defer terminal.Close()
	b.awaitFile("printed")
	_, err := terminal.WriteString("hello\n")
	require.NoError(t, err)
	b.awaitFile("done")
	require.Equal(t, "/dev/pts/0\r\nhello\r\ngot hello\r\n", readToEnd(t, terminal))
}

func TestExecNeedsRunning(t *testing.T) {
	b := newBundle(t, "exit 0")
	b.must("create", b.id)
	_, errOut, err := b.try("exec", b.id, "true")
	require.Error(t, err)
	require.Contains(t, errOut, "it is created")
	b.must("start", b.id)
	b.awaitEnd()
	_, errOut, err = b.try("exec", b.id, "true")
	require.Error(t, err)
	require.Contains(t, errOut, "it is stopped")
}

// The cgroup of a container that has made others in it takes no process any more.
func TestExecBesideNestedCgroups(t *testing.T) {
	b := newBundle(t, "")
	b.spec.Process.Args[2] = "mkdir /sys/fs/cgroup/unified/in 2>/dev/null; cd /sys/fs/cgroup/unified 2>/dev/null || cd /sys/fs/cgroup; " +
		"mkdir -p in; echo 0 >in/cgroup.procs; cat cgroup.controllers >/controllers; touch /ready; sleep 100000"
	require.NoError(t, os.Symlink("busybox", b.path("bin/mkdir")))
	for i, m := range b.spec.Mounts {
		if m.Type == "cgroup" {
			b.spec.Mounts[i].Options = []string{"rw"}
		}
	}
	b.must("run", "-d", b.id)
	b.awaitFile("ready")
	want := b.must("exec", b.id, "cat", "/proc/1/cgroup")
	require.Contains(t, want, "/in\n")
	b.must("exec", b.id, "true")
}

// An exec may be put into a cgroup that the container has made, and into none outside.
func TestExecInSubCgroup(t *testing.T) {
	b := newBundle(t, "")
	b.spec.Process.Args[2] = "cd /sys/fs/cgroup/unified 2>/dev/null || cd /sys/fs/cgroup; mkdir -p in; touch /ready; sleep 100000"
	require.NoError(t, os.Symlink("busybox", b.path("bin/mkdir")))
	for i, m := range b.spec.Mounts {
		if m.Type == "cgroup" {
			b.spec.Mounts[i].Options = []string{"rw"}
		}
	}
	b.must("run", "-d", b.id)
	b.awaitFile("ready")
	require.Contains(t, b.must("exec", "--cgroup", "/in", b.id, "cat", "/proc/self/cgroup"), "0::/in\n")
	for _, bad := range []string{"nosuch", "../..", "memory:in2"} {
		_, errOut, err := b.try("exec", "--cgroup", bad, b.id, "true")
		require.Error(t, err, bad)
		require.Contains(t, errOut, "cgroup")
	}
}

// CVE-2019-5736: what a container can reach of the runtime is not the host's file, or cannot be
// written to.
func TestExecCannotReachTheRuntime(t *testing.T) {
	b := running(t)
	for name, target := range map[string]string{"link": "/proc/self/exe", "deep": "/proc/self/root/proc/self/exe"} {
		require.NoError(t, os.Symlink(target, b.path(name)))
		_, errOut, err := b.try("exec", b.id, "/"+name)
		require.Error(t, err, name)
		require.NotContains(t, errOut, "Usage", "the runtime itself ran")
	}
	require.NoError(t, os.WriteFile(b.path("script"), []byte("#!/proc/self/exe\n"), 0o755))
	_, _, err := b.try("exec", b.id, "/script")
	require.Error(t, err)
}

// The file that /proc/self/exe leads to in an exec is on a mount of its own that is read-only, whatever
// happens: also if the container wins a race.
func TestExecutableIsSealed(t *testing.T) {
	testenv.RequireRoot(t)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), beSealed+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "read-only file system", string(out))
}

// Everything that the container puts where exec looks is looked at, and not followed to the host.
func TestExecHostilePaths(t *testing.T) {
	b := running(t)
	// A terminal in anything but devpts would be opened through links of the container's.
	b.must("exec", "--cap", "CAP_SYS_ADMIN", b.id, "true")
	victim := filepath.Join(b.dir, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("intact"), 0o600))
	h := newBundle(t, "touch /ready; sleep 100000")
	h.spec.Mounts = append(h.spec.Mounts[:2:2], h.spec.Mounts[3:]...) // without devpts
	require.NoError(t, os.MkdirAll(h.path("dev/pts"), 0o755))
	h.must("run", "-d", h.id)
	h.awaitFile("ready")
	h.must("exec", h.id, "sh", "-c", "/bin/busybox mkdir -p /dev/pts; /bin/busybox ln -s "+victim+" /dev/pts/ptmx")
	_, errOut, err := h.try("exec", "--tty", h.id, "true")
	require.Error(t, err)
	require.Contains(t, errOut, "no devpts")
	// A working directory that leads out through a descriptor (CVE-2024-21626).
	_, errOut, err = b.try("exec", "--cwd", "/proc/self/fd/7", b.id, "true")
	require.Error(t, err)
	require.Contains(t, errOut, "chdir")
}

func TestPauseResume(t *testing.T) {
	b := running(t)
	b.must("pause", b.id)
	require.EqualValues(t, "paused", b.state().Status)
	_, errOut, err := b.try("exec", b.id, "true")
	require.Error(t, err)
	require.Contains(t, errOut, "it is paused")
	b.refuse("it is paused", "pause", b.id)
	b.must("resume", b.id)
	require.Equal(t, specs.StateRunning, b.state().Status)
	b.refuse("it is running", "resume", b.id)
	b.must("exec", b.id, "true")
	b.must("pause", b.id)
	b.must("kill", b.id, "KILL")
	b.awaitEnd()
}

func TestPs(t *testing.T) {
	b := running(t)
	pid := b.state().Pid
	var pids []int
	require.NoError(t, json.Unmarshal([]byte(b.must("ps", "--format", "json", b.id)), &pids))
	require.Contains(t, pids, pid)
	table := b.must("ps", b.id)
	require.Contains(t, table, "sleep 100000")
	require.Len(t, strings.Split(strings.TrimSpace(table), "\n"), len(pids)+1)
}

func TestUpdateAndEvents(t *testing.T) {
	b := running(t)
	b.must("update", "--pids-limit", "77", b.id)
	stats := func() (limit uint64) {
		var e struct {
			Type, ID string
			Data     struct {
				Pids struct{ Current, Limit uint64 }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(b.must("events", "--stats", b.id)), &e))
		require.Equal(t, "stats", e.Type)
		require.Equal(t, b.id, e.ID)
		require.NotZero(t, e.Data.Pids.Current)
		return e.Data.Pids.Limit
	}
	require.EqualValues(t, 77, stats())
	file := filepath.Join(b.dir, "resources")
	require.NoError(t, os.WriteFile(file, []byte(`{"pids":{"limit":88}}`), 0o600))
	b.must("update", "--resources", file, b.id)
	require.EqualValues(t, 88, stats())
	b.refuse("wrong use", "update", "--pids-limit", "x", b.id)
}

// Each limit of update is found where the container sees it: the file of version 1 and of version 2, with what is in it.
// Who is idle has no shares any more: that comes last.
func TestUpdateOfEachLimit(t *testing.T) {
	b := newBundle(t, "touch /ready; sleep 100000")
	b.spec.Linux.Resources.CPU = &specs.LinuxCPU{Shares: new(uint64(1024)), Cpus: "0"}
	b.must("run", "--detach", b.id)
	b.awaitFile("ready")
	for _, want := range [][5]string{
		{"--memory 67108864", "memory/memory.limit_in_bytes", "67108864", "memory.max", "67108864"},
		{"--memory-reservation 33554432", "memory/memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432"},
		{"--cpu-share 512", "cpu/cpu.shares", "512", "cpu.weight", "59"},
		{"--cpu-period 50000 --cpu-quota 20000", "cpu/cpu.cfs_quota_us", "20000", "cpu.max", "20000 50000"},
		{"--cpuset-cpus 0 --cpuset-mems 0", "cpuset/cpuset.mems", "0", "cpuset.mems", "0"},
		{"--pids-limit 66", "pids/pids.max", "66", "pids.max", "66"},
		{"--memory-swap -1 --memory 134217728", "memory/memory.limit_in_bytes", "134217728", "memory.max", "134217728"},
		{"--cpu-burst 1000 --cpu-quota 20000", "cpu/cpu.cfs_burst_us", "1000", "cpu.max.burst", "1000"},
		{"--cpu-idle 1", "cpu/cpu.idle", "1", "cpu.idle", "1"},
	} {
		file, content := "/sys/fs/cgroup/"+want[1], want[2]
		if _, err := os.Stat(filepath.Dir(file) + "/tasks"); err != nil {
			file, content = "/sys/fs/cgroup/"+want[3], want[4]
		}
		b.must(append(append([]string{"update"}, strings.Fields(want[0])...), b.id)...)
		require.Equal(t, content+"\n", b.must("exec", b.id, "cat", file), want[0])
	}
}

// A container that stays in the host's mount namespace has its own files all the same, and leaves no mounts.
func TestNoMountNamespace(t *testing.T) {
	b := newBundle(t, "touch /ready; sleep 100000")
	b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace })
	b.must("create", b.id)
	b.must("start", b.id)
	b.awaitFile("ready")
	require.Equal(t, "bin\ndev\nproc\nready\nsys\n", b.must("exec", b.id, "ls", "/../.."))
	host, err := os.Readlink("/proc/self/ns/mnt")
	require.NoError(t, err)
	require.Equal(t, host+"\n", b.must("exec", b.id, "readlink", "/proc/self/ns/mnt"))
	require.Equal(t, "1\n", b.must("exec", b.id, "sh", "-c", "cd /proc; echo 1"))
	b.must("delete", "--force", b.id)
	b.requireNothingLeft()
}

func TestFeatures(t *testing.T) {
	b := newBundle(t, "true")
	var f map[string]any
	require.NoError(t, json.Unmarshal([]byte(b.must("features")), &f))
	require.Contains(t, f, "linux")
}

const beSealed = "TARN_TEST_BE_SEALED"

// probeSealed prints what comes of opening this program's own file for writing.
func probeSealed() int {
	if err := container.SealExecutable(); err != nil {
		fmt.Print(err)
		return 1
	}
	// With O_TRUNC the kernel asks whether the mount can be written to before it sees that we run.
	_, err := os.OpenFile("/proc/self/exe", os.O_WRONLY|os.O_TRUNC, 0)
	fmt.Print(errors.Unwrap(err))
	return 0
}
