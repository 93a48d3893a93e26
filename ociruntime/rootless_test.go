package ociruntime_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

// ordinary is a user of the machine without rights, with IDs of its own besides the one.
type ordinary struct {
	name          string
	uid, gid      uint32
	subUID, count uint32
}

// makeUser makes a user, and removes it with the test.
func makeUser(t *testing.T) ordinary {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.RequireTool(t, "useradd", "userdel", "newuidmap", "newgidmap")
	u := ordinary{name: fmt.Sprintf("tarn-test-%d", os.Getpid())}
	run := func(name string, args ...string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		require.NoError(t, err, "%s: %s", name, out)
	}
	run("useradd", "--no-create-home", u.name)
	t.Cleanup(func() {
		cmd := exec.Command("userdel", "--force", u.name) //nolint:noctx // the test's context has ended
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
	})
	known, err := user.Lookup(u.name)
	require.NoError(t, err)
	u.uid, u.gid = number(t, known.Uid), number(t, known.Gid)
	text, err := os.ReadFile("/etc/subuid")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if fields := strings.Split(strings.TrimSpace(line), ":"); fields[0] == u.name {
			u.subUID, u.count = number(t, fields[1]), number(t, fields[2])
		}
	}
	require.NotZero(t, u.count, "useradd gave no subordinate IDs")
	return u
}

func number(t *testing.T, text string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	require.NoError(t, err)
	return uint32(n)
}

// newRootless gives an ordinary user a bundle, and a runtime that the user may execute.
func newRootless(t *testing.T, script string) (*bundle, ordinary) {
	t.Helper()
	u := makeUser(t)
	b := newBundle(t, script)
	self, err := os.Executable()
	require.NoError(t, err)
	program, err := os.ReadFile(self)
	require.NoError(t, err)
	b.program = filepath.Join(b.dir, "runtime")
	require.NoError(t, os.WriteFile(b.program, program, 0o755))
	b.credential = &syscall.Credential{Uid: u.uid, Gid: u.gid}
	require.NoError(t, filepath.WalkDir(b.dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, int(u.uid), int(u.gid)))
	}))
	// What "spec --rootless" writes.
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.spec.Linux.Resources = nil
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: u.uid, Size: 1}, {ContainerID: 1, HostID: u.subUID, Size: 1000}}
	b.spec.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: u.gid, Size: 1}, {ContainerID: 1, HostID: u.subUID, Size: 1000}}
	return b, u
}

// A user who is not root has containers, with users in them that are not that user.
func TestRootless(t *testing.T) {
	b, u := newRootless(t, "touch /ready; while :; do sleep 0.1; done")
	b.spec.Process.User = specs.User{UID: 33, GID: 34}
	require.NoError(t, os.Chmod(b.path(""), 0o777))
	b.must("create", b.id)
	require.Equal(t, specs.StateCreated, b.state().Status)
	b.must("start", b.id)
	b.awaitFile("ready")
	info, err := os.Stat(b.path("ready"))
	require.NoError(t, err)
	owner, ok := info.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	require.Equal(t, []uint32{u.subUID + 32, u.subUID + 33}, []uint32{owner.Uid, owner.Gid}, "who the container's user is on the host")

	require.Equal(t, "33\n", b.must("exec", b.id, "id", "-u"))
	require.Equal(t, "5\n6\n", b.must("exec", "--user", "5:6", b.id, "sh", "-c", "id -u; id -g"))
	require.Equal(t, "1,3\n", b.must("exec", b.id, "stat", "-c", "%t,%T", "/dev/null"))
	for _, ns := range []string{"mnt", "pid", "uts", "ipc", "net", "user"} {
		want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", b.state().Pid, ns))
		require.NoError(t, err)
		require.Equal(t, want+"\n", b.must("exec", b.id, "readlink", "/proc/self/ns/"+ns))
	}
	_, errOut, err := b.try("exec", b.id, "sh", "-c", "exit 7")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, errOut)
	require.Equal(t, 7, exit.ExitCode())
	require.Contains(t, b.must("list"), u.name)
	b.refuse("not stopped: running", "delete", b.id)
	b.must("kill", b.id, "KILL")
	b.awaitEnd()
	b.must("delete", b.id)
}

// One ID is enough: what "spec --rootless" writes runs as it is.
func TestRootlessSpec(t *testing.T) {
	b, u := newRootless(t, "")
	dir := filepath.Join(b.dir, "example")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.Chown(dir, int(u.uid), int(u.gid)))
	b.must("spec", "--rootless", "--bundle", dir)
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	b.spec = &specs.Spec{}
	require.NoError(t, json.Unmarshal(text, b.spec))
	b.spec.Process.Args = []string{"/bin/sh", "-c", "id -u; ls /sys >/dev/null && echo works; exit 5"}
	b.spec.Process.Terminal = false
	for _, name := range []string{"proc", "dev", "sys"} {
		require.NoError(t, os.Mkdir(b.path(name), 0o755))
	}
	out, errOut, err := b.try("run", b.id)
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, errOut)
	require.Equal(t, 5, exit.ExitCode())
	require.Equal(t, "0\nworks\n", out)
	b.requireNothingLeft()
}

func TestRootlessHooksAndSignals(t *testing.T) {
	b, _ := newRootless(t, "trap 'exit 9' USR1; touch /running; while :; do sleep 0.01; done")
	outside := filepath.Join(b.dir, "outside")
	b.spec.Hooks = &specs.Hooks{
		CreateRuntime: hook("createRuntime", outside), StartContainer: hook("startContainer", "/inside"), Poststart: hook("poststart", outside),
	}
	b.must("create", b.id)
	b.must("start", b.id)
	b.awaitFile("running")
	text, err := os.ReadFile(b.path("inside"))
	require.NoError(t, err)
	require.Contains(t, string(text), b.id)
	text, err = os.ReadFile(outside)
	require.NoError(t, err)
	require.Contains(t, string(text), "poststart")
	b.must("delete", "--force", b.id)
	require.NoError(t, os.Remove(b.path("running")))

	b.spec.Hooks = nil
	cmd := b.command("run", b.id)
	require.NoError(t, cmd.Start())
	b.awaitFile("running")
	require.NoError(t, cmd.Process.Signal(syscall.SIGUSR1))
	require.Error(t, cmd.Wait())
	require.Equal(t, 9, cmd.ProcessState.ExitCode())
}

func TestRootlessRefusals(t *testing.T) {
	b, _ := newRootless(t, "true")
	b.spec.Linux.UIDMappings[1].HostID = 7
	b.refuse("maps ID 7 of the host", "run", b.id)
	b.spec.Linux.UIDMappings = b.spec.Linux.UIDMappings[:1]
	b.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(5))}}
	b.refuse("ermission denied", "run", b.id)
	b.spec.Linux.Namespaces = b.spec.Linux.Namespaces[:len(b.spec.Linux.Namespaces)-1]
	b.refuse("needs a user namespace", "run", b.id)
	b.requireNothingLeft()
}

// Where a service manager has given a user a part of the hierarchy, the containers' cgroups are in that.
func TestRootlessDelegation(t *testing.T) {
	b, u := newRootless(t, "touch /ready; while :; do sleep 0.1; done")
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root + "/cgroup.procs"); err != nil {
		root = "/sys/fs/cgroup"
	}
	part := filepath.Join(root, "tarn-test-"+u.name)
	own := filepath.Join(part, "session")
	require.NoError(t, os.MkdirAll(own, 0o755))
	t.Cleanup(func() {
		b.cgroup = ""
		require.NoError(t, errors.Join(os.Remove(own), os.Remove(part)))
	})
	for _, dir := range []string{part, own} {
		for _, file := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
			require.NoError(t, os.Chown(filepath.Join(dir, file), int(u.uid), int(u.gid)))
		}
	}
	b.cgroup = own
	b.must("run", "--detach", b.id)
	b.awaitFile("ready")
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", b.state().Pid))
	require.NoError(t, err)
	require.Contains(t, string(cgroup), "0::/"+filepath.Base(part)+"/tarn-"+b.id+"\n")
	b.must("pause", b.id)
	require.EqualValues(t, "paused", b.state().Status)
	b.must("resume", b.id)
	require.Contains(t, b.must("ps", b.id), "sh -c")
	require.Contains(t, b.must("events", "--stats", b.id), `"cpu"`)
	b.must("delete", "--force", b.id)
	require.NoDirExists(t, filepath.Join(part, "tarn-"+b.id))
}

// podman without root has the runtime be root of a user namespace that podman made.
func TestRootlessPodman(t *testing.T) {
	testenv.RequireTool(t, "podman")
	b, u := newRootless(t, "true")
	script := filepath.Join(b.dir, "tarn-runtime")
	require.NoError(t, os.WriteFile(script, []byte(fmt.Sprintf("#!/bin/sh\n%s=1 exec %s \"$@\"\n", beRuntime, b.program)), 0o755))
	image, err := os.ReadFile(testenv.BusyboxTar(t))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "image.tar"), image, 0o644))
	run := filepath.Join(b.dir, "run")
	require.NoError(t, os.Mkdir(run, 0o700))
	require.NoError(t, os.Chown(run, int(u.uid), int(u.gid)))
	podman := func(args ...string) string {
		t.Helper()
		first := []string{"--runtime", script, "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"}
		cmd := exec.CommandContext(t.Context(), "podman", append(first, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_RUNTIME_DIR="+run, "TMPDIR="+b.dir)
		cmd.Dir = b.dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.credential}
		var errOut strings.Builder
		cmd.Stderr = &errOut
		out, err := cmd.Output()
		require.NoError(t, err, errOut.String())
		return string(out)
	}
	podman("import", "image.tar", "box")
	options := []string{"run", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}
	require.Equal(t, "0\n", podman(append(options, "--rm", "box", "id", "-u")...))
	podman(append(options, "-d", "--name", "work", "box", "sleep", "100000")...)
	require.Equal(t, "7\n", podman("exec", "--user", "7", "work", "id", "-u"))
	podman("rm", "--force", "--time", "0", "work")
	podman("system", "migrate") // ends the process that keeps podman's user namespace
}
