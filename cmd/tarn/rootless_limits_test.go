package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// giveCgroups gives the user cgroups, as a service manager does (systemd's Delegate=): what the user runs is in one, and
// the user may make others beside it. It gives the directories by the names of controllers.
func (u *ordinary) giveCgroups() map[string]string {
	u.t.Helper()
	const root = "/sys/fs/cgroup"
	dirs := make(map[string]string)
	own := func(dir string, files ...string) {
		session := filepath.Join(dir, "session")
		require.NoError(u.t, os.MkdirAll(session, 0o755))
		u.t.Cleanup(func() {
			u.end()
			require.NoError(u.t, os.Remove(session))
			if left, _ := filepath.Glob(dir + "/tarn-*"); u.t.Failed() {
				for _, dir := range left {
					_ = os.Remove(dir)
				}
			}
			require.NoError(u.t, os.Remove(dir), "a container's cgroup is left")
		})
		u.root("chown", append([]string{u.name, dir}, files...)...)
		u.cgroups = append(u.cgroups, session)
	}
	_, err := os.Stat(root + "/cgroup.controllers")
	for _, controller := range []string{"memory", "pids", "cpu"} {
		dirs[controller] = filepath.Join(root, controller, u.name)
		if err == nil { // version 2 is all there is
			dirs[controller] = filepath.Join(root, u.name)
			require.NoError(u.t, os.WriteFile(root+"/cgroup.subtree_control", []byte("+"+controller), 0o644))
		} else {
			own(dirs[controller])
		}
	}
	if dir := filepath.Join(root, u.name); err == nil {
		own(dir)
		u.root("chown", u.name, dir+"/cgroup.procs", dir+"/cgroup.subtree_control", dir+"/session", dir+"/session/cgroup.procs")
	}
	return dirs
}

// Limits take cgroups that somebody has given away. Without, they are refused, and with them the kernel enforces them.
func TestRootlessLimits(t *testing.T) {
	u := newOrdinary(t)
	u.run("tarn import --name box $BUSYBOX")
	for _, flag := range []string{"--memory 64m", "--cpus 0.5", "--pids-limit 20", "--cpu-shares 100"} {
		said := u.fails("tarn run --rm --network none " + flag + " box true")
		require.Contains(t, said, "limits need a cgroup of one's own")
		require.Contains(t, said, "systemd-run --user --scope")
		require.Equal(t, 1, strings.Count(said, "\n"), said)
	}
	require.Empty(t, u.run("tarn ps -aq"))

	dirs := u.giveCgroups()
	id := strings.TrimSpace(u.run("tarn run -d --network none --name small --memory 64m --memory-swap 64m --cpus 0.5 --pids-limit 20 box sleep 1000"))
	limit := func(controller string, files ...string) string {
		t.Helper()
		for _, file := range files {
			if text, err := os.ReadFile(filepath.Join(dirs[controller], "tarn-"+id, file)); err == nil {
				return strings.TrimSpace(string(text))
			}
		}
		t.Fatalf("the container has no cgroup of %s in %s", controller, dirs[controller])
		return ""
	}
	require.Equal(t, "67108864", limit("memory", "memory.limit_in_bytes", "memory.max"))
	require.Equal(t, "20", limit("pids", "pids.max"))
	require.Contains(t, []string{"50000", "50000 100000"}, limit("cpu", "cpu.cfs_quota_us", "cpu.max"))
	require.Contains(t, u.fails("tarn exec small sh -c 'for i in $(seq 30); do sleep 5 & done'"), "can't fork")
	require.Contains(t, u.run("tarn stats --no-stream small"), "64MiB")
	u.run("tarn update --memory 32m --memory-swap 32m small")
	require.Equal(t, "33554432", limit("memory", "memory.limit_in_bytes", "memory.max"))
	u.run("tarn rm -f small")

	// Who uses more memory is killed, and one that starts again has its limits again.
	require.Equal(t, "137\n", u.run("tarn run --rm --network none -m 32m --memory-swap 32m box sh -c 'exec dd if=/dev/zero of=/dev/null bs=100M count=1' || echo $?"))
	id = strings.TrimSpace(u.run("tarn run -d --network none --name again -m 16m box sleep 1000"))
	u.run("tarn restart -t 0 again")
	require.Equal(t, "16777216", limit("memory", "memory.limit_in_bytes", "memory.max"))
	u.run("tarn rm -f again")
}
