package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/testenv"
)

func TestMounts(t *testing.T) {
	b := newBox(t)
	s := b.look()
	want := map[string]string{
		"/proc": "rw,nosuid,nodev,noexec proc", "/dev": "rw,nosuid tmpfs", "/dev/pts": "rw,nosuid,noexec devpts",
		"/sys": "ro,nosuid,nodev,noexec sysfs", "/sys/fs/cgroup": "ro,nosuid,nodev,noexec ", "/dev/mqueue": "rw,nosuid,nodev,noexec mqueue",
		"/dev/shm": "rw,nosuid,nodev,noexec tmpfs",
	}
	for point, is := range want {
		m := findMount(t, s.Mounts, point)
		options := strings.TrimSuffix(m.options, ",relatime") + " " + m.fstype
		require.True(t, strings.HasPrefix(options, is), "%s is %s", point, options)
	}
	for _, m := range mountsOf(s.Mounts) {
		below := strings.HasPrefix(m.point, "/proc") || strings.HasPrefix(m.point, "/dev") || strings.HasPrefix(m.point, "/sys")
		require.True(t, below || m.point == "/", "something of the host's is mounted: %v", m)
	}
	require.Contains(t, s.Mounts, "size=65536k,mode=755")
}

func TestMaskedAndReadOnlyPaths(t *testing.T) {
	var attempts []string
	docker := dockerSpec(t)
	for _, path := range docker.Linux.MaskedPaths {
		attempts = append(attempts, "read:"+path, "list:"+path)
	}
	for _, path := range docker.Linux.ReadonlyPaths {
		attempts = append(attempts, "write:"+path, "chmod:"+path)
	}
	b := newBox(t)
	for attempt, outcome := range b.try(attempts...) {
		verb, path, _ := strings.Cut(attempt, ":")
		switch {
		case strings.Contains(outcome, "no such file"): // this kernel has none
			_, err := os.Lstat(path)
			require.Error(t, err, "%s: %s", attempt, outcome)
		case verb == "read" || verb == "list":
			require.NotEqual(t, "ok", outcome, "%s shows something", attempt)
		default:
			require.NotEqual(t, "ok", outcome, "%s succeeded", attempt)
		}
	}
	require.Equal(t, map[string]string{
		"write:/proc/sys/kernel/hostname": "open /proc/sys/kernel/hostname: read-only file system",
		"read:/proc/timer_list":           "empty", "read:/proc/interrupts": "empty", "list:/sys/firmware": "empty",
		"write:/sys/kernel/mm/transparent_hugepage/enabled": "open /sys/kernel/mm/transparent_hugepage/enabled: read-only file system",
		"mkdir:/sys/fs/cgroup/x":                            "mkdir /sys/fs/cgroup/x: read-only file system",
	}, b.try("write:/proc/sys/kernel/hostname", "read:/proc/timer_list", "read:/proc/interrupts", "list:/sys/firmware",
		"write:/sys/kernel/mm/transparent_hugepage/enabled", "mkdir:/sys/fs/cgroup/x"))
}

func TestBindMounts(t *testing.T) {
	dir := testenv.TempDir(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("content"), 0o644))
	require.NoError(t, os.Symlink("file", filepath.Join(dir, "link")))
	require.NoError(t, syscall.Mount("tmpfs", filepath.Join(dir, "sub"), "tmpfs", 0, ""))

	b := newBox(t)
	b.mount("/made/for/dir", dir)
	b.mount("/made/for/file", file, "ro")
	b.mount("/through/link", filepath.Join(dir, "link"))
	b.mount("/ro", dir, "ro", "rro")
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/flat", Source: dir, Options: []string{"bind", "noexec"}})
	require.Equal(t, map[string]string{
		"create:/made/for/dir/new": "ok", "create:/made/for/dir/sub/new": "ok", "read:/made/for/file": "ok", "read:/through/link": "ok",
		"create:/made/for/file": "open /made/for/file: read-only file system", "create:/ro/x": "open /ro/x: read-only file system",
		"create:/ro/sub/x": "open /ro/sub/x: read-only file system", "list:/made/for/dir/sub": "ok", "list:/flat/sub": "empty",
	}, b.try("create:/made/for/dir/new", "create:/made/for/dir/sub/new", "read:/made/for/file", "read:/through/link", "create:/made/for/file",
		"create:/ro/x", "create:/ro/sub/x", "list:/made/for/dir/sub", "list:/flat/sub"))
	require.FileExists(t, filepath.Join(dir, "new"))
	require.Contains(t, findMount(t, b.look().Mounts, "/flat").options, "noexec")

	for name, m := range map[string]specs.Mount{
		"no such file":      {Destination: "/x", Source: dir + "/missing", Options: []string{"bind"}},
		"not an absolute":   {Destination: "/x", Source: "relative", Options: []string{"bind"}},
		"is no directory":   {Destination: "/made/for/file", Source: dir, Options: []string{"bind"}},
		"the root is given": {Destination: "/..", Source: dir, Options: []string{"bind"}},
		"inside /proc":      {Destination: "/proc/sys", Source: dir, Options: []string{"bind"}},
		"idmap":             {Destination: "/x", Source: dir, Options: []string{"bind", "idmap"}},
	} {
		b.spec.Mounts = append(container.DefaultMounts(), m)
		_, err := b.start()
		require.ErrorContains(t, err, name)
	}
}

func TestProcFilesCanBeCovered(t *testing.T) {
	fake := filepath.Join(testenv.TempDir(t), "meminfo")
	require.NoError(t, os.WriteFile(fake, []byte("MemTotal: 1 kB\n"), 0o644))
	b := newBox(t)
	b.mount("/proc/meminfo", fake, "ro")
	require.Equal(t, "MemTotal: 1 kB", b.look("/proc/meminfo").Files["/proc/meminfo"])
}

// Of what the host mounts later, a container sees what it asked for.
func TestPropagation(t *testing.T) {
	dir := testenv.TempDir(t)
	require.NoError(t, syscall.Mount("shared", dir, "tmpfs", 0, ""))
	require.NoError(t, syscall.Mount("", dir, "", syscall.MS_SHARED, ""))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "later"), 0o755))
	b := newBox(t, "hold")
	for _, how := range []string{"rprivate", "rslave", "slave", "rshared"} {
		b.mount("/"+how, dir, how)
	}
	b.mount("/default", dir)
	p := b.mustStart()
	require.NoError(t, syscall.Mount("later", filepath.Join(dir, "later"), "tmpfs", 0, ""))
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", p.Pid()))
	require.NoError(t, err)
	require.NoError(t, p.Signal(syscall.SIGKILL))
	_, err = p.Wait()
	require.NoError(t, err)
	seen := make(map[string]bool)
	for _, m := range mountsOf(string(info)) {
		seen[m.point] = true
	}
	for _, how := range []string{"rslave", "slave", "rshared"} {
		require.True(t, seen["/"+how+"/later"], "%s:\n%s", how, info)
	}
	for _, how := range []string{"rprivate", "default"} {
		require.False(t, seen["/"+how+"/later"], "%s:\n%s", how, info)
	}
	// The end of the container, which shared the mount, takes nothing away from the host.
	require.Contains(t, hostMounts(t), filepath.Join(dir, "later"))
}

func hostMounts(t testing.TB) string {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	return string(info)
}

func TestTmpfs(t *testing.T) {
	b := newBox(t)
	b.mkdir("there")
	require.NoError(t, os.Chmod(b.path("there"), 0o750))
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/there", Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "nosuid", "nodev"}},
		specs.Mount{Destination: "/new", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}},
		specs.Mount{Destination: "/own", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=711", "uid=7", "ro"}},
	)
	s := b.look()
	require.Contains(t, s.Mounts, " /there rw,nosuid,nodev,noexec")
	require.Regexp(t, `/there .* mode=750|/there .*mode=750`, s.Mounts)
	require.Regexp(t, `/new rw,.* rw,size=1024k`, s.Mounts)
	require.Regexp(t, `/own ro,.*mode=711,uid=7`, s.Mounts)
	require.NotRegexp(t, `/new .*mode=`, s.Mounts, "without a directory below, the kernel's default is 1777, as in Docker")
	b.spec.Mounts[len(b.spec.Mounts)-1].Options = []string{"fun=1"}
	_, err := b.start()
	require.ErrorContains(t, err, "mount /own: tmpfs: fun=1")
}

func TestReadOnlyRoot(t *testing.T) {
	b := newBox(t)
	b.spec.Root.Readonly = true
	b.spec.Process.Cwd = "/made/first"
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})
	require.Equal(t, map[string]string{"create:/x": "open /x: read-only file system", "create:/tmp/x": "ok", "create:/dev/shm/x": "ok"},
		b.try("create:/x", "create:/tmp/x", "create:/dev/shm/x"))
	require.Equal(t, "/made/first", b.look().Cwd)
}

func TestWorkingDirectory(t *testing.T) {
	b := newBox(t)
	b.spec.Process.Cwd = "/a/b/c"
	require.Equal(t, "/a/b/c", b.look().Cwd)
	info, err := os.Stat(b.path("a/b"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm())

	dir := testenv.TempDir(t)
	b.mount("/volume", dir)
	b.spec.Process.Cwd = "/volume/new"
	require.Equal(t, "/volume/new", b.look().Cwd)
	require.DirExists(t, filepath.Join(dir, "new"))

	b.spec.Process.Cwd = "/probe"
	_, err = b.start()
	require.ErrorContains(t, err, "working directory: bad container specification: /probe is no directory")

	b = newBox(t)
	b.mkdir("private")
	require.NoError(t, os.Chown(b.path("private"), 1000, 1000))
	require.NoError(t, os.Chmod(b.path("private"), 0o700))
	b.spec.Process.User, b.spec.Process.Cwd = specs.User{UID: 1000, GID: 1000}, "/private"
	require.Equal(t, "/private", b.look().Cwd)
}

// A source that is a symbolic link is copied as one, if it is to be.
func TestCopySymlink(t *testing.T) {
	b := newBox(t).withShell("/bin/sh -c 'readlink /etc/localtime; cat /etc/plain'")
	source := testenv.TempDir(t)
	require.NoError(t, os.Chmod(source, 0o755))
	require.NoError(t, os.WriteFile(source+"/file", []byte("content"), 0o644))
	require.NoError(t, os.Symlink("../zone/file", source+"/link"))
	b.mount("/etc/localtime", source+"/link", "copy-symlink")
	b.mount("/etc/plain", source+"/file", "copy-symlink")
	for range 2 { // the second time it is there
		require.Equal(t, "../zone/file content", b.shell("readlink /etc/localtime; cat /etc/plain"))
	}
	require.NoError(t, os.Remove(b.path("etc/localtime")))
	b.symlink("elsewhere", "etc/localtime")
	_, err := b.start()
	require.ErrorContains(t, err, "file exists")
}

// A container in the host's mount namespace has its mounts to itself all the same.
func TestNoMountNamespace(t *testing.T) {
	inPrivate(t, setting{}, func(t *testing.T) {
		for _, pid := range []string{"pid", "none"} {
			b := newBox(t)
			b.spec.Linux.Namespaces = remove(b, "mount")
			if pid == "none" {
				b.spec.Linux.Namespaces = remove(b, "pid")
			}
			b.spec.Root.Readonly = true
			b.mkdir("tmp")
			before := host(t)
			b.spec.Process.Args = []string{"/probe", "look", "/proc/sys/kernel/ostype", "/probe"}
			s := b.look("/proc/sys/kernel/ostype", "/sys/kernel/notes")
			require.Equal(t, namespaceLink(t, "mnt"), s.NS["mnt"])
			require.NotEqual(t, namespaceLink(t, "uts"), s.NS["uts"])
			require.Equal(t, "Linux", s.Files["/proc/sys/kernel/ostype"])
			require.Equal(t, map[string]string{
				"create:/x": "open /x: read-only file system", "write:/proc/sys/kernel/panic": "open /proc/sys/kernel/panic: read-only file system",
				"write:/dev/null": "ok", "create:/../../../x": "open /../../../x: read-only file system",
			}, b.try("create:/x", "write:/proc/sys/kernel/panic", "write:/dev/null", "create:/../../../x"))
			before.unchanged(t)
		}
	})
	b := newBox(t)
	b.spec.Linux.Namespaces = append(remove(b, "mount"), ns("user"))
	_, err := b.start()
	require.ErrorIs(t, err, container.ErrSpec)
	require.ErrorContains(t, err, "without a mount namespace")
}
