package ociruntime_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

// program is a program that is the runtime: engines want a path.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(testenv.TempDir(t), "tarn-runtime")
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec %s \"$@\"\n", beRuntime, self)
	require.NoError(t, os.WriteFile(path, []byte(script), 0o755))
	return path
}

// look is a script that shows in what a program of a container finds itself.
const look = "cat /etc/debian_version; id -u; readlink /proc/1/exe; grep -c . /proc/mounts >/dev/null && echo mounts"

const seen = "12.15\n0\n/usr/bin/sleep\nmounts\n"

// printed compares what a template printed.
func printed(t *testing.T, want, out string) {
	t.Helper()
	require.Equal(t, want, strings.TrimSpace(out))
}

// requireUsage reads what stats printed: memory and processes. Nothing is what an engine prints that looks for a
// container's cgroup in vain, or for the machine's.
func requireUsage(t *testing.T, printed string) {
	t.Helper()
	fields := strings.Fields(printed) // "1.2MB / 25GB 1"
	require.Len(t, fields, 4, printed)
	number := regexp.MustCompile(`^[0-9.]+`).FindString(fields[0])
	used, err := strconv.ParseFloat(number, 64)
	require.NoError(t, err, printed)
	require.NotZero(t, used, printed)
	require.NotContains(t, fields[0], "G", "the machine's memory")
	require.Equal(t, "1", fields[3], "processes")
}

func TestPodman(t *testing.T) {
	podman := testenv.Podman(t)
	runtime := program(t)
	// The limits are what this user may have; the default ones are more on some machines.
	run := func(args ...string) string {
		t.Helper()
		first := []string{"--storage-driver", "overlay", "--runtime", runtime, "--cgroup-manager", "cgroupfs"}
		if args[0] == "run" {
			args = append([]string{"run", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, args[1:]...)
		}
		return podman(append(first, args...)...)
	}
	run("import", testenv.DebianTar(t), "debian")
	require.Equal(t, "hello\n", run("run", "--rm", "debian", "echo", "hello"))
	require.Equal(t, "/dev/pts/0\r\n", run("run", "--rm", "-t", "debian", "tty"))
	run("run", "-d", "--name", "work", "debian", "sleep", "100000")
	require.Equal(t, seen, run("exec", "work", "sh", "-c", look))
	require.Equal(t, "65534\n", run("exec", "--user", "nobody", "work", "id", "-u"))
	require.Equal(t, "/dev/pts/0\r\n", run("exec", "-t", "work", "tty"))
	requireUsage(t, run("stats", "--no-stream", "--no-reset", "--format", "{{.MemUsage}} {{.PIDs}}", "work"))
	run("pause", "work")
	require.Equal(t, "paused\n", run("inspect", "--format", "{{.State.Status}}", "work"))
	run("unpause", "work")
	run("stop", "--time", "0", "work")
	printed(t, "137", run("inspect", "--format", "{{.State.ExitCode}}", "work"))
	run("start", "work")
	require.Equal(t, seen, run("exec", "work", "sh", "-c", look))
	run("rm", "--force", "--time", "0", "work")
	require.Empty(t, run("ps", "-aq"))
}

func TestDocker(t *testing.T) {
	docker := testenv.Docker(t, "--storage-driver", "overlay2", "--add-runtime", "tarn="+program(t))
	docker("import", testenv.DebianTar(t), "debian")
	run := func(args ...string) string {
		t.Helper()
		return docker(append([]string{"run", "--runtime", "tarn", "--network", "none"}, args...)...)
	}
	require.Equal(t, "hello\n", run("--rm", "debian", "echo", "hello"))
	require.Equal(t, "/dev/pts/0\r\n", run("--rm", "-t", "debian", "tty"))
	run("-d", "--name", "work", "--memory", "64m", "--pids-limit", "100", "debian", "sleep", "100000")
	require.Equal(t, seen, docker("exec", "work", "sh", "-c", look))
	require.Equal(t, "65534\n", docker("exec", "--user", "nobody", "work", "id", "-u"))
	docker("pause", "work")
	printed(t, "paused", docker("inspect", "--format", "{{.State.Status}}", "work"))
	docker("unpause", "work")
	requireUsage(t, docker("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "work"))
	docker("update", "--pids-limit", "50", "--memory", "80m", "--memory-swap", "80m", "--cpus", "0.5", "--cpuset-cpus", "0", "work")
	limits := "cd /sys/fs/cgroup; cat pids.max pids/pids.max memory.max memory/memory.limit_in_bytes cpu.max cpu/cpu.cfs_quota_us 2>/dev/null"
	require.Regexp(t, `^50\n83886080\n50000`, docker("exec", "work", "sh", "-c", limits+" || true"))
	docker("stop", "--time", "0", "work")
	printed(t, "137", docker("inspect", "--format", "{{.State.ExitCode}}", "work"))
	docker("start", "work")
	require.Equal(t, seen, docker("exec", "work", "sh", "-c", look))
	docker("rm", "--force", "work")
	require.Empty(t, docker("ps", "-aq"))
}

func TestContainerd(t *testing.T) {
	ctr := testenv.Containerd(t)
	root := testenv.DebianDir(t)
	runtime := program(t)
	run := func(args ...string) string {
		t.Helper()
		return ctr(append([]string{"run", "--runc-binary", runtime, "--rootfs"}, args...)...)
	}
	require.Equal(t, "hello\n", run("--rm", root, "once", "echo", "hello"))
	run("--detach", root, "work", "sleep", "100000")
	require.Equal(t, seen, ctr("task", "exec", "--exec-id", "e", "work", "sh", "-c", look))
	metrics := ctr("task", "metrics", "--format", "json", "work")
	require.Contains(t, metrics, `"memory"`)
	ctr("task", "pause", "work")
	require.Contains(t, ctr("task", "ls"), "PAUSED")
	ctr("task", "resume", "work")
	ctr("task", "kill", "--signal", "SIGKILL", "work")
	for !strings.Contains(ctr("task", "ls"), "STOPPED") {
		time.Sleep(time.Millisecond)
	}
	ctr("task", "delete", "--force", "work")
	ctr("container", "delete", "work")
	require.NotContains(t, ctr("container", "ls", "-q"), "work")
}
