package container_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
)

// Whatever hierarchies a host has mounted, a container runs and leaves nothing, and sees of them its
// own part alone.
func TestCgroupHierarchies(t *testing.T) {
	for _, layout := range []string{"", "v2", "v1", "named", "none"} {
		t.Run("layout "+layout, func(t *testing.T) {
			inPrivate(t, setting{Cgroups: layout}, func(t *testing.T) {
				b := newBox(t)
				before := host(t)
				s := b.look("/proc/self/cgroup", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/unified/cgroup.procs")
				before.unchanged(t)
				for line := range strings.Lines(s.Files["/proc/self/cgroup"]) {
					require.True(t, strings.HasSuffix(strings.TrimSpace(line), ":/"), "a host's cgroup is seen: %s", line)
				}
				require.NotContains(t, s.Mounts, b.spec.Linux.CgroupsPath)
				switch root := cgroupRoot(t); root {
				case "/sys/fs/cgroup":
					require.Equal(t, "1", s.Files["/sys/fs/cgroup/cgroup.procs"], "it is alone in its cgroup")
					require.Equal(t, "cgroup2", findMount(t, s.Mounts, "/sys/fs/cgroup").fstype)
				case "/sys/fs/cgroup/unified":
					require.Equal(t, "1", s.Files["/sys/fs/cgroup/unified/cgroup.procs"], "it is alone in its cgroup")
					require.Equal(t, "cgroup2", findMount(t, s.Mounts, "/sys/fs/cgroup/unified").fstype)
					fallthrough
				default:
					require.Equal(t, "tmpfs", findMount(t, s.Mounts, "/sys/fs/cgroup").fstype)
				}
				require.Contains(t, findMount(t, s.Mounts, "/sys/fs/cgroup").options, "ro,nosuid,nodev,noexec")
				legacy, err := filepath.Glob("/sys/fs/cgroup/*/tasks")
				require.NoError(t, err)
				for _, dir := range legacy {
					m := findMount(t, s.Mounts, filepath.Dir(dir))
					require.Equal(t, "cgroup", m.fstype)
					require.Contains(t, m.options, "ro,")
				}
				require.Equal(t, map[string]string{
					"null:/other": "ok", "disk:/disk": "open: open /disk: operation not permitted", "open:/dev/ptmx": "ok",
				}, b.try("null:/other", "disk:/disk", "open:/dev/ptmx"), "devices")
				require.Equal(t, layout == "v1" || layout == "named", len(legacy) > 0 && cgroupRoot(t) == "", "the layout is not what was asked for")
			})
		})
	}
}

// Without a cgroup there is nothing to put a filter for devices on. Then no mount has devices but those
// of the container's own, and nobody can make nodes of others there.
func TestDevicesWithoutACgroup(t *testing.T) {
	b := newBox(t)
	b.spec.Linux.CgroupsPath = ""
	b.mount("/host", "/dev")
	b.mount("/dev/fuse", "/dev/null")
	s := b.look()
	rest := slices.DeleteFunc(container.DefaultCapabilities(), func(name string) bool { return name == "CAP_MKNOD" })
	require.Equal(t, capabilities(t, rest), s.Status["CapEff"])
	require.Equal(t, capabilities(t, rest), s.Status["CapBnd"])
	for _, m := range mountsOf(s.Mounts) {
		mask := m.fstype == "tmpfs" && strings.HasPrefix(m.options, "ro") && m.point != "/sys/fs/cgroup"
		own := m.point == "/dev" || m.point == "/dev/pts" || mask
		require.Equal(t, !own, strings.Contains(m.options, "nodev"), "%v", m)
	}
	require.Equal(t, map[string]string{
		"open:/dev/null": "ok", "open:/dev/ptmx": "ok", "write:/dev/zero": "ok",
		"open:/host/null": "open /host/null: permission denied", "open:/dev/fuse": "open /dev/fuse: permission denied",
		"null:/dev/other": "mknod: operation not permitted",
	}, b.try("open:/dev/null", "open:/dev/ptmx", "write:/dev/zero", "open:/host/null", "open:/dev/fuse", "null:/dev/other"))
}

// What a runtime that was killed has left is not in the way of the next one.
func TestCgroupOfAKilledRuntime(t *testing.T) {
	inPrivate(t, setting{Cgroups: "v2"}, func(t *testing.T) {
		b := newBox(t, "exit", "3")
		dir := cgroupDir(t, b)
		require.NoError(t, os.Mkdir(dir, 0o755))
		r, err := b.run()
		require.NoError(t, err, "a cgroup that nobody is in is in the way")
		require.Equal(t, 3, r.status)

		// One that is used is not taken.
		p := newBox(t, "hold")
		p.spec.Linux.CgroupsPath = b.spec.Linux.CgroupsPath
		process := p.mustStart()
		_, err = b.run()
		require.ErrorContains(t, err, "make cgroup")
		require.NoError(t, container.RemoveCgroup(b.spec.Linux.CgroupsPath), "it was to end what is in it")
		status, err := process.Wait()
		require.NoError(t, err)
		require.Equal(t, 137, status)
		require.NoDirExists(t, dir)

		b.spec.Linux.CgroupsPath = "/" + b.spec.Linux.CgroupsPath + "/deep/er"
		r, err = b.run()
		require.NoError(t, err)
		require.Equal(t, 3, r.status)
		require.NoError(t, os.Remove(filepath.Join(dir, "deep")))
		require.NoError(t, os.Remove(dir))
	})
}
