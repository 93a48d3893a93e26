package container_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/testenv"
)

func itoa(n int) string { return strconv.Itoa(n) }

// A tmpfs may begin with what it covers, with owners, modes and links; the image stays as it is.
func TestTmpfsCopiesUp(t *testing.T) {
	b := newBox(t)
	b.write("data/sub/file", "hello", 0o640)
	b.symlink("sub/file", "data/link")
	require.NoError(t, os.Chown(b.path("data/sub/file"), 7, 8))
	require.NoError(t, os.Chmod(b.path("data"), 0o751))
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}},
		specs.Mount{Destination: "/ro", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup", "ro", "mode=700"}},
		specs.Mount{Destination: "/fresh", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
	b.write("ro/x", "x", 0o600)
	s := b.withShell("busybox").look("/data/sub/file", "/data/link", "/ro/x")
	require.Equal(t, map[string]string{"/data/sub/file": "hello", "/data/link": "hello", "/ro/x": "x"}, s.Files)
	require.Contains(t, findMount(t, s.Mounts, "/ro").options, "ro")
	require.Equal(t, map[string]string{
		"create:/data/new": "ok", "create:/ro/new": "open /ro/new: read-only file system", "chmod:/data/sub/file": "ok", "create:/fresh/x": "ok",
	}, b.try("create:/data/new", "create:/ro/new", "chmod:/data/sub/file", "create:/fresh/x"))
	require.NoFileExists(t, b.path("data/new"))
	info, err := os.Stat(b.path("data/sub/file"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
	require.Equal(t, "7:8 640 751", b.shell("stat -c %u:%g' '%a /data/sub/file; stat -c %a /data"))
}

// shell runs a script with busybox's tools, and gives the words it prints.
func (b *box) shell(script string) string {
	b.t.Helper()
	b.mkdir("bin")
	b.copy(testenv.Busybox(b.t), "bin/busybox")
	b.spec.Process.Args = []string{"busybox", "sh", "-c", "busybox --install -s /bin 2>/dev/null; " + script}
	return strings.Join(strings.Fields(b.output()), " ")
}

// A bind mount may have other owners than its source, by its own mappings.
func TestIDMappedMounts(t *testing.T) {
	dir := testenv.TempDir(t)
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600))
	require.NoError(t, os.Chown(filepath.Join(dir, "file"), 5, 6))
	mapping := func(from, to uint32) []specs.LinuxIDMapping {
		return []specs.LinuxIDMapping{{ContainerID: from, HostID: to, Size: 1}}
	}
	b := newBox(t)
	b.mkdir("bin")
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{
		Destination: "/mapped", Source: dir, Options: []string{"bind"}, UIDMappings: append(mapping(5, 1005), mapping(0, 0)...), GIDMappings: append(mapping(6, 1006), mapping(0, 0)...),
	})
	require.Equal(t, "1005:1006", b.shell("stat -c %u:%g /mapped/file"))
	// And the other way round: who is 1005 in the container makes files of 5.
	b.spec.Process.User = specs.User{UID: 1005, GID: 1006}
	require.NoError(t, os.Chmod(dir, 0o777))
	b.shell("echo > /mapped/new")
	info, err := os.Stat(filepath.Join(dir, "new"))
	require.NoError(t, err)
	st, ok := info.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	require.Equal(t, []uint32{5, 6}, []uint32{st.Uid, st.Gid})

	for message, m := range map[string]specs.Mount{
		"gidMappings: bad container specification: 0 mappings": {UIDMappings: mapping(0, 1), Options: []string{"bind"}},
		"4294967295 IDs from 1 on":                             {UIDMappings: []specs.LinuxIDMapping{{ContainerID: 1, Size: ^uint32(0), HostID: 1}}, GIDMappings: mapping(0, 1), Options: []string{"bind"}},
		"needs a user namespace":                               {Options: []string{"rbind", "ridmap"}},
		"is no bind mount":                                     {Type: "tmpfs", UIDMappings: mapping(0, 1)},
	} {
		b := newBox(t)
		m.Destination, m.Source = "/mapped", dir
		b.spec.Mounts = append(b.spec.Mounts, m)
		_, err := b.start()
		require.ErrorContains(t, err, message)
	}
}

// What is mounted can be changed by a later mount of the specification.
func TestRemount(t *testing.T) {
	dir := testenv.TempDir(t)
	b := newBox(t)
	b.mount("/volume", dir)
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/volume", Options: []string{"bind", "remount", "ro", "nosuid", "sync"}},
		specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Options: []string{"remount", "noatime", "size=1m"}})
	s := b.look()
	require.Contains(t, findMount(t, s.Mounts, "/volume").options, "ro,nosuid")
	require.Contains(t, findMount(t, s.Mounts, "/dev/shm").options, "noatime")
	require.Contains(t, s.Mounts, "size=1024k")
	b.spec.Mounts = append(container.DefaultMounts(), specs.Mount{Destination: "/etc", Options: []string{"remount", "ro"}})
	b.mkdir("etc")
	_, err := b.start()
	require.ErrorContains(t, err, "nothing is mounted there")
}

// Options about a file system as a whole are the file system's, and nothing a bind mount could have.
func TestOptionsOfSuperblocks(t *testing.T) {
	b := newBox(t)
	b.mount("/volume", testenv.TempDir(t), "sync", "lazytime", "silent", "dirsync", "acl", "iversion", "mand")
	require.Empty(t, container.Warnings(b.spec))
	b.mount("/other", testenv.TempDir(t), "mode=700", "ro")
	require.ErrorContains(t, errors.Join(container.Warnings(b.spec)...), "mount /other: no options of a bind mount: mode")
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{
		Destination: "/t", Type: "tmpfs", Source: "tmpfs", Options: []string{"sync", "dirsync", "lazytime", "loud", "nomand", "async", "nolazytime"},
	})
	s := b.look()
	require.Contains(t, s.Mounts, " /volume ")
	require.Contains(t, findMount(t, s.Mounts, "/other").options, "ro,")
	require.Contains(t, s.Mounts, " /t ")
}
