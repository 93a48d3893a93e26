package container_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/testenv"
)

// victim is a directory of the host that hostile images point to. Whatever they do, it stays as it is.
type victim struct {
	t   *testing.T
	dir string
	was []string
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	v := &victim{t: t, dir: testenv.TempDir(t)}
	require.NoError(t, os.WriteFile(filepath.Join(v.dir, "secret"), []byte("the host's secret\n"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(v.dir, "empty"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(v.dir, "passwd"), []byte("host:x:4242:4242::/:\n"), 0o644))
	v.was = v.list()
	return v
}

// list is all there is to see, with modes, owners, devices and times.
func (v *victim) list() []string {
	v.t.Helper()
	var list []string
	require.NoError(v.t, filepath.WalkDir(v.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		require.True(v.t, ok)
		list = append(list, info.Mode().String()+" "+info.ModTime().String()+" "+path, filepath.Base(path)+string(rune('0'+st.Uid%10)))
		return nil
	}))
	return list
}

// untouched also tells that nothing is mounted there in this mount namespace.
func (v *victim) untouched(why string) {
	v.t.Helper()
	require.Equal(v.t, v.was, v.list(), why)
	require.NotContains(v.t, hostMounts(v.t), v.dir, why)
}

// ways are symbolic links that lead to a path of the host, if they are followed there.
func ways(path string) map[string]string {
	return map[string]string{
		"absolute":  path,
		"dots":      "../../../../../../../../../../.." + path,
		"this root": "/proc/self/root" + path,
		"init's":    "/proc/1/root" + path,
		"cwd":       "/proc/self/cwd/../../../../../../.." + path,
	}
}

// What a container mounts by itself lands inside of its root, or nowhere.
func TestMountPointsThatAreLinks(t *testing.T) {
	v := newVictim(t)
	for _, point := range []string{"dev", "proc", "sys", "dev/pts", "sys/fs/cgroup", "dev/shm"} {
		for way, target := range ways(v.dir) {
			b := newBox(t)
			b.symlink(target, point)
			r, err := b.run()
			v.untouched(point + " " + way)
			if point == "proc" || point == "sys" || point == "dev" {
				require.ErrorContains(t, err, "something else than a directory at /"+point, way)
			} else if err == nil {
				require.Zero(t, r.status, r.errOut)
			}
		}
	}
}

// What a user mounts, too, wherever the image has links.
func TestDestinationsThatAreLinks(t *testing.T) {
	v := newVictim(t)
	file := filepath.Join(testenv.TempDir(t), "file")
	require.NoError(t, os.WriteFile(file, []byte("mine\n"), 0o644))
	for way, target := range ways(v.dir) {
		b := newBox(t)
		b.symlink(target+"/secret", "etc/resolv.conf")
		b.symlink(target, "data")
		b.symlink(target+"/new", "missing")
		b.mount("/etc/resolv.conf", file)
		b.mount("/data/empty", filepath.Dir(file))
		b.mount("/missing", file)
		b.symlink(target+"/empty", "scratch")
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs"})
		_, err := b.run()
		v.untouched(way)
		if way == "absolute" || way == "dots" {
			// A link that stays inside is followed, and what is missing made there.
			require.NoError(t, err)
			require.FileExists(t, b.path(v.dir+"/secret"))
			require.Equal(t, "mine", b.look("/etc/resolv.conf").Files["/etc/resolv.conf"])
		}
	}
}

func TestLinksWithoutEnd(t *testing.T) {
	for _, point := range []string{"dev", "proc", "sys", "etc", "work"} {
		b := newBox(t)
		b.symlink("/"+point+"2/x", point)
		b.symlink("/"+point+"/y", point+"2")
		b.mount("/etc/hosts", "/etc/hosts")
		b.spec.Process.Cwd = "/work"
		_, err := b.run()
		require.Error(t, err, point)
	}
}

func TestWorkingDirectoryThatIsALink(t *testing.T) {
	v := newVictim(t)
	for way, target := range ways(v.dir) {
		b := newBox(t)
		b.symlink(target, "work")
		b.spec.Process.Cwd = "/work/made"
		_, err := b.run()
		v.untouched(way)
		if way == "absolute" || way == "dots" {
			require.NoError(t, err)
			require.DirExists(t, b.path(v.dir+"/made"))
		}
	}
	// Descriptors of the host's files that are open while the container is made (CVE-2024-21626).
	for fd := range 20 {
		b := newBox(t)
		b.spec.Process.Cwd = "/proc/self/fd/" + strconv.Itoa(fd)
		_, err := b.run()
		require.Error(t, err)
	}
}

// This very program is /proc/self/exe until the exec: a container that had it executed could write to
// it (CVE-2019-5736).
func TestProgramsThatAreLinks(t *testing.T) {
	for name, prepare := range map[string]func(b *box){
		"the program": func(b *box) { b.spec.Process.Args = []string{"/proc/self/exe"} },
		// A file of the image that is hidden by procfs.
		"hidden by procfs": func(b *box) {
			b.mkdir("proc/self")
			b.copy(probe, "proc/self/exe")
			b.spec.Process.Args = []string{"/proc/self/exe"}
		},
		"as an interpreter": func(b *box) {
			b.mkdir("proc/self")
			b.copy(probe, "proc/self/exe")
			b.write("evil", "#!/proc/self/exe\n", 0o755)
			b.spec.Process.Args = []string{"/evil"}
		},
		"a link to it":   func(b *box) { b.symlink("/proc/self/exe", "evil"); b.spec.Process.Args = []string{"/evil"} },
		"by PATH":        func(b *box) { b.symlink("/proc/self/exe", "bin/evil"); b.spec.Process.Args = []string{"evil"} },
		"an interpreter": func(b *box) { b.write("evil", "#!/proc/self/exe\n", 0o755); b.spec.Process.Args = []string{"/evil"} },
		"a link as one": func(b *box) {
			b.symlink("/proc/self/exe", "x")
			b.write("evil", "#!/x\n", 0o755)
			b.spec.Process.Args = []string{"/evil"}
		},
		"one's interpreter": func(b *box) {
			b.write("x", "#!/proc/self/exe\n", 0o755)
			b.write("evil", "#! /x\n", 0o755)
			b.spec.Process.Args = []string{"/evil"}
		},
		"of a thread":        func(b *box) { b.spec.Process.Args = []string{"/proc/thread-self/exe"} },
		"a descriptor":       func(b *box) { b.spec.Process.Args = []string{"/proc/self/fd/3"} },
		"relative to /proc":  func(b *box) { b.spec.Process.Cwd = "/proc/self"; b.spec.Process.Args = []string{"./exe"} },
		"a directory's link": func(b *box) { b.symlink("/proc/self/root", "up"); b.spec.Process.Args = []string{"/up/probe"} },
	} {
		b := newBox(t)
		prepare(b)
		_, err := b.start()
		require.Error(t, err, name)
		require.Contains(t, []int{126, 127}, container.ExitCode(err), "%s: %v", name, err)
	}
}

// The terminal is mounted on /dev/console, which must be a file of the container's own
// (CVE-2025-52565), and so must be what hides others: /dev/null (CVE-2025-31133).
func TestConsoleThatIsALink(t *testing.T) {
	v := newVictim(t)
	for way, target := range ways(v.dir + "/secret") {
		b := newBox(t)
		b.spec.Process.Terminal = true
		b.spec.Mounts = slices.DeleteFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev" })
		b.symlink(target, "dev/console")
		_, err := b.start()
		require.ErrorContains(t, err, "/dev/console", way)
		v.untouched(way)

		b = newBox(t)
		b.spec.Mounts = slices.DeleteFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev" })
		b.symlink(target, "dev/null")
		_, err = b.start()
		require.ErrorContains(t, err, "null", way)
		v.untouched(way)
	}
}

// A path to be hidden may lead elsewhere by the image's will: what is hidden then is inside, too.
func TestMaskedPathsThatAreLinks(t *testing.T) {
	v := newVictim(t)
	for way, target := range ways(v.dir) {
		b := newBox(t)
		b.symlink(target, "hide")
		b.symlink(target, "keep")
		b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/hide/secret", "/hide")
		b.spec.Linux.ReadonlyPaths = append(b.spec.Linux.ReadonlyPaths, "/keep")
		_, _ = b.run()
		v.untouched(way)
	}
}
