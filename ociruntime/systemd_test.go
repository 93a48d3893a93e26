package ociruntime_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

// bootSystemd starts a systemd of the test's own, in namespaces and a part of the cgroup2 hierarchy of its own, with no
// units but a target. It gives what runs a program beside it.
func bootSystemd(t *testing.T) (beside []string) {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.RequireTool(t, "unshare", "nsenter", "systemctl")
	const program = "/lib/systemd/systemd"
	if _, err := os.Stat(program); err != nil {
		testenv.Unmet(t, "needs systemd: scripts/setup.sh installs it")
	}
	dir := testenv.TempDir(t)
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "test.target"), []byte("[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n"), 0o644))
	group := filepath.Base(dir)
	inside := fmt.Sprintf(`set -e
umount -l -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/%[1]s
echo $$ >/sys/fs/cgroup/%[1]s/cgroup.procs
exec unshare --cgroup sh -c '
	umount /sys/fs/cgroup
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	for dir in /run /lib/systemd/system-generators /etc/systemd/system; do mount -t tmpfs tmpfs $dir; done
	mount --bind /proc/sys /proc/sys
	mount -o remount,bind,ro /proc/sys
	exec env -i container=tarn PATH="$PATH" SYSTEMD_UNIT_PATH=%[2]s %[3]s --system --unit=test.target --log-target=console --show-status=no'`,
		group, dir, program)
	// It has to last until the cleanup of those that use it.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", inside)
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	pid := ""
	t.Cleanup(func() {
		if n, err := strconv.Atoi(pid); err == nil {
			_ = syscall.Kill(n, syscall.SIGKILL) // whom unshare waits for
		} else {
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
		removeCgroups(t, group)
	})
	(&bundle{t: t}).eventually(func() bool {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		require.NoError(t, err, "it has ended")
		pid = strings.TrimSpace(string(children))
		_, err = os.Stat("/proc/" + pid + "/root/run/systemd/private")
		return pid != "" && err == nil
	})
	return []string{"nsenter", "--target", pid, "--mount", "--uts", "--ipc", "--pid", "--cgroup"}
}

// removeCgroups removes a cgroup of version 2 with all below it, when the kernel has ended what was in it.
func removeCgroups(t *testing.T, name string) {
	t.Helper()
	root := "/sys/fs/cgroup/unified/" + name
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup/" + name
	}
	var dirs []string
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		for err := syscall.Rmdir(dir); err == syscall.EBUSY; err = syscall.Rmdir(dir) {
			continue
		}
	}
}

// systemd makes the unit that the container is in, with the container's own cgroup below; it ends with the container.
func TestSystemdCgroup(t *testing.T) {
	beside := bootSystemd(t)
	b := newBundle(t, "touch /ready; sleep 100000")
	b.beside, b.flags = beside, []string{"--systemd-cgroup"}
	systemctl := func(args ...string) string {
		t.Helper()
		out, _ := exec.CommandContext(t.Context(), beside[0], append(append(slices.Clip(beside[1:]), "systemctl"), args...)...).CombinedOutput()
		return string(out)
	}
	b.spec.Linux.CgroupsPath = "machine.slice:tarn:" + b.id
	unit := "tarn-" + b.id + ".scope"
	b.must("create", "--bundle", b.dir, b.id)
	require.Equal(t, "active\n", systemctl("is-active", unit))
	b.must("start", b.id)
	b.awaitFile("ready")
	require.Equal(t, "ControlGroup=/machine.slice/"+unit+"\n", systemctl("show", "--property=ControlGroup", unit))
	pid := strconv.Itoa(b.state().Pid)
	cgroup, err := exec.CommandContext(t.Context(), beside[0], append(slices.Clip(beside[1:]), "cat", "/proc/"+pid+"/cgroup")...).Output()
	require.NoError(t, err)
	require.Contains(t, string(cgroup), "0::/machine.slice/"+unit+"/container\n")
	require.Contains(t, b.must("exec", b.id, "cat", "/proc/self/cgroup"), "0::/\n")
	b.must("pause", b.id)
	require.EqualValues(t, "paused", b.state().Status)
	b.must("resume", b.id)
	require.Contains(t, b.must("ps", b.id), "sleep 100000")
	b.must("delete", "--force", b.id)
	b.eventually(func() bool { return systemctl("is-active", unit) == "inactive\n" })

	// Without a name it is called as its ID; what fails leaves no unit.
	b.spec.Linux.CgroupsPath = ""
	b.spec.Process.Args = []string{"true"}
	b.must("run", "--bundle", b.dir, b.id)
	b.spec.Process.Args = []string{"nosuch"}
	b.refuse("executable file not found", "run", "--bundle", b.dir, b.id)
	b.eventually(func() bool { return !strings.Contains(systemctl("list-units", "--no-legend"), b.id) })
	b.spec.Linux.CgroupsPath = "/some/path"
	b.refuse("slice:prefix:name", "create", "--bundle", b.dir, b.id)
}
