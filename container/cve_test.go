package container_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
)

// Each test here is about a way out of containers that was found in another runtime, by its number, and
// says what our guard is. scripts/guards.sh shows that each fails with its guard taken away. More of the same kind, which
// stands for no number, is in hostile_test.go and user_test.go.

// The container has this program executed, as /proc/self/exe, and then writes to it. What is executed was
// another file when it was looked for: somebody who shares the root, or a volume, has changed it since.
//
// Guard: sys.Program.RefuseMagicLinks, before the exec.
func TestCVE2019_5736(t *testing.T) {
	for _, program := range []string{"/good", "/script"} {
		b := newBox(t)
		b.copy(probe, "good")
		b.write("script", "#!/good\n", 0o755)
		b.spec.Process.Args = []string{program, "x"}
		b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{
			{Path: "/bin/ln", Args: []string{"ln", "-sfn", "/proc/self/exe", b.path("good")}},
		}}
		_, err := b.start()
		require.ErrorIs(t, err, syscall.ELOOP, "this program was executed in the container")
	}
}

// The image's /proc or /sys is a link: procfs is mounted elsewhere, and what is to be read-only or
// hidden below /proc is another file system.
//
// Guard: plainDirectory.
func TestCVE2019_19921(t *testing.T) {
	for _, point := range []string{"proc", "sys"} {
		b := newBox(t, "exit", "0")
		b.mkdir("elsewhere")
		b.symlink("/elsewhere", point)
		_, err := b.start()
		require.ErrorContains(t, err, "something else than a directory at /"+point)
	}
}

// swapping exchanges a directory below root and a link to the host again and again, until the function
// that it gives is called.
func swapping(t *testing.T, b *box, target string) (stop func()) {
	t.Helper()
	b.mkdir("vol/dir")
	b.symlink(target, "vol/link")
	vol, err := os.Open(b.path("vol"))
	require.NoError(t, err)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
			}
			if err := unix.Renameat2(int(vol.Fd()), "dir", int(vol.Fd()), "link", unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-done
		_ = vol.Close()
	}
}

const tries = 60

// While a container is made, another one that shares a volume with it exchanges a directory on the way
// to a mount point with a link: the mount lands on the host.
//
// Guard: mount points are opened by openat2 with RESOLVE_IN_ROOT (sys.OpenInRoot), and mounts attached
// to what was opened.
func TestCVE2021_30465(t *testing.T) {
	v := newVictim(t)
	b := newBox(t, "exit", "0")
	stop := swapping(t, b, v.dir)
	defer stop()
	source := testenv.TempDir(t)
	b.mount("/vol/dir/empty", source)
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/vol/dir", Type: "tmpfs", Source: "here"})
	for range tries {
		b.spec.Process.Args = []string{"/probe", "look"}
		r, err := b.run()
		if err != nil {
			continue // exchanged at the wrong moment, and found out
		}
		s := decode[sight](t, r.out)
		found := 0
		for _, m := range mountsOf(s.Mounts) {
			inside := m.point == v.dir || strings.HasPrefix(m.point, v.dir+"/") || strings.HasPrefix(m.point, "/vol/")
			if inside {
				found++
			}
		}
		require.Equal(t, 2, found, "a mount went elsewhere than into the container:\n%s", s.Mounts)
	}
	v.untouched("mount points")
}

// A container's /proc is not procfs, but something that a volume or the image put there, and what the
// runtime writes to it to confine the process has no effect.
//
// Guard: coverProc refuses mounts over /proc; labels and the like are written through the host's
// procfs (writeProc).
func TestCVE2023_28642(t *testing.T) {
	fake := testenv.TempDir(t)
	require.NoError(t, os.MkdirAll(filepath.Join(fake, "self/attr"), 0o755))
	for _, dest := range []string{"/proc", "/proc/self", "/proc/self/attr", "/proc/sys"} {
		for _, m := range []specs.Mount{
			{Destination: dest, Type: "bind", Source: fake, Options: []string{"rbind"}},
			{Destination: dest, Type: "tmpfs", Source: "tmpfs"},
		} {
			b := newBox(t, "exit", "0")
			b.spec.Mounts = append(b.spec.Mounts, m)
			_, err := b.start()
			require.ErrorContains(t, err, "inside /proc", "%s at %s", m.Type, dest)
		}
	}
	// Without any /proc mount, what the image has there is not taken for one.
	b := newBox(t, "hold")
	b.write("proc/self/oom_score_adj", "image's", 0o666)
	b.spec.Mounts = b.spec.Mounts[1:]
	score := 9
	b.spec.Process.OOMScoreAdj = &score
	b.cfg.DieWithParent = true // also where this fails, and does not come to its end
	p := b.mustStart()
	require.Equal(t, "9\n", readFile(t, "/proc/"+itoa(p.Pid())+"/oom_score_adj"))
	require.Equal(t, "image's", readFile(t, b.path("proc/self/oom_score_adj")))
	require.NoError(t, p.Signal(syscall.SIGKILL))
	_, err := p.Wait()
	require.NoError(t, err)
}

// A descriptor of the host is open while the working directory is entered, which is a path to it.
//
// Guards: RESOLVE_NO_MAGICLINKS in sys.Program.chdir; sys.Program.closeOthers.
func TestCVE2024_21626(t *testing.T) {
	host, err := os.Open("/")
	require.NoError(t, err)
	defer host.Close()
	for fd := range int(host.Fd()) + 8 {
		for _, cwd := range []string{"/proc/self/fd/" + itoa(fd), "/proc/self/fd/" + itoa(fd) + "/../..", "/proc/thread-self/fd/" + itoa(fd)} {
			b := newBox(t, "exit", "0")
			b.spec.Process.Cwd = cwd
			_, err := b.start()
			require.Error(t, err, "its working directory is the host's %s", cwd)
		}
	}
	require.Len(t, newBox(t).look().FDs, 3, "the container has files of the host")
}

// While mount points are made, a directory on the way is exchanged with a link, and they are made
// on the host.
//
// Guard: makePath goes one name after the other, by descriptor, below the root (makeEntry).
func TestCVE2024_45310(t *testing.T) {
	v := newVictim(t)
	b := newBox(t, "exit", "0")
	stop := swapping(t, b, v.dir)
	defer stop()
	file := filepath.Join(testenv.TempDir(t), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	for i := range tries {
		b.spec.Mounts = container.DefaultMounts()
		b.mount("/vol/dir/new"+itoa(i)+"/deep/dir", filepath.Dir(file))
		b.mount("/vol/dir/file"+itoa(i), file)
		b.spec.Process.Cwd = "/vol/dir/cwd" + itoa(i) + "/deep"
		_, _ = b.run()
		v.untouched("mount points are made")
	}
}

// The /dev/null that masks are made of is something else, which then is mounted writable over what was
// to be hidden, or can be reached through it.
//
// Guard: openDevice verifies what it has opened, and that is what is mounted.
func TestCVE2025_31133(t *testing.T) {
	for name, put := range map[string]func(b *box){
		"a link to a setting": func(b *box) { b.symlink("/proc/sys/kernel/core_pattern", "dev/null") },
		"a link inside":       func(b *box) { b.write("data", "x", 0o666); b.symlink("/data", "dev/null") },
		"a file":              func(b *box) { b.write("dev/null", "x", 0o666) },
		"another device": func(b *box) {
			b.mkdir("dev")
			require.NoError(t, syscall.Mknod(b.path("dev/null"), syscall.S_IFCHR|0o666, 1<<8|5))
		},
		"a disk": func(b *box) {
			b.mkdir("dev")
			require.NoError(t, syscall.Mknod(b.path("dev/null"), syscall.S_IFBLK|0o666, 1<<8|3))
		},
		"a fifo": func(b *box) { b.mkdir("dev"); require.NoError(t, syscall.Mkfifo(b.path("dev/null"), 0o666)) },
	} {
		b := newBox(t, "exit", "0")
		b.spec.Mounts = slices.DeleteFunc(b.spec.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
		b.spec.Linux.MaskedPaths = []string{"/proc/interrupts", "/secret"}
		b.write("secret", "x", 0o644)
		put(b)
		_, err := b.start()
		require.Error(t, err, "%s serves as /dev/null", name)
	}
}

// The image's /dev/console is a link, and the terminal is mounted over any file, before that was
// protected.
//
// Guard: mountConsole opens the entry itself and wants a file or a device.
func TestCVE2025_52565(t *testing.T) {
	for _, target := range []string{"/proc/sys/kernel/core_pattern", "/etc/passwd", "/dev/null"} {
		b := newBox(t, "exit", "0")
		b.spec.Process.Terminal = true
		b.spec.Mounts = slices.DeleteFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev" })
		b.write("etc/passwd", "", 0o644)
		b.symlink(target, "dev/console")
		_, err := b.start()
		require.ErrorContains(t, err, "/dev/console: bad container specification: something else is there")
	}
}

// What the runtime writes to procfs is led elsewhere by a mount that somebody made there: a label or a
// sysctl that is not set, or another file that is written to.
//
// Guards: writeSysctl's sys.OpenBeneath (RESOLVE_NO_XDEV); the same in sys.Program.WriteFile; both only
// below what is procfs for certain.
func TestCVE2025_52881(t *testing.T) {
	mountOver := func(t *testing.T, target string) (file string) {
		t.Helper()
		file = filepath.Join(testenv.TempDir(t), "file")
		require.NoError(t, os.WriteFile(file, []byte("untouched"), 0o666))
		require.NoError(t, syscall.Mount(file, target, "", syscall.MS_BIND, ""))
		return file
	}
	t.Run("sysctl", func(t *testing.T) {
		inPrivate(t, setting{}, func(t *testing.T) {
			file := mountOver(t, "/proc/sys/kernel/domainname")
			b := newBox(t, "exit", "0")
			b.spec.Linux.Sysctl = map[string]string{"kernel.domainname": "x"}
			_, err := b.start()
			require.ErrorIs(t, err, syscall.EXDEV)
			require.Equal(t, "untouched", readFile(t, file))
		})
	})
	t.Run("no procfs", func(t *testing.T) {
		inPrivate(t, setting{}, func(t *testing.T) {
			b := newBox(t, "exit", "0")
			root := b.openRoot()
			file := fakeProc(t)
			b.spec.Linux.Sysctl = map[string]string{"kernel.msgmax": "9999"}
			_, err := b.startIn(t.Context(), root)
			require.ErrorContains(t, err, "/proc is not procfs")
			score := 9
			b.spec.Linux.Sysctl, b.spec.Process.OOMScoreAdj = nil, &score
			_, err = b.start()
			require.ErrorContains(t, err, "/proc of the host is not procfs")
			require.Equal(t, "untouched", readFile(t, file))
			require.Equal(t, "untouched", readFile(t, "/proc/sys/kernel/msgmax"))
		})
	})
}

// fakeProc covers /proc with files that look like what is needed of it, and gives one of them.
func fakeProc(t *testing.T) string {
	t.Helper()
	fake, real := testenv.TempDir(t), testenv.TempDir(t)
	require.NoError(t, syscall.Mount("proc", real, "proc", 0, ""))
	for _, name := range []string{"self/oom_score_adj", "sys/kernel/msgmax"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(fake, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(fake, name), []byte("untouched"), 0o666))
	}
	for _, name := range []string{"self/cgroup", "self/fd", "sys/kernel/cap_last_cap", "thread-self"} {
		require.NoError(t, os.Symlink(filepath.Join(real, name), filepath.Join(fake, name)))
	}
	require.NoError(t, syscall.Mount(fake, "/proc", "", syscall.MS_BIND, ""))
	t.Cleanup(func() {
		require.NoError(t, syscall.Unmount("/proc", syscall.MNT_DETACH))
		require.NoError(t, syscall.Unmount(real, syscall.MNT_DETACH))
	})
	return "/proc/self/oom_score_adj"
}

// The image's /dev is a link: devices are made, and others mounted over, where it leads.
//
// Guard: tree.place, and that all below is done by the descriptor of what was mounted there.
func TestCVE2026_41579(t *testing.T) {
	for name, spoil := range map[string]func(b *box){
		"tmpfs": func(*box) {},
		"bind": func(b *box) {
			b.spec.Mounts[1] = specs.Mount{Destination: "/dev", Source: testenv.TempDir(t), Options: []string{"bind"}}
		},
		"none": func(b *box) { b.spec.Mounts = append(b.spec.Mounts[:1], b.spec.Mounts[5:]...) },
	} {
		for _, target := range []string{"/etc", "/proc", "/sys/kernel", "../../../../../../etc"} {
			b := newBox(t, "exit", "0")
			b.mkdir("etc")
			b.mkdir("sys/kernel")
			b.symlink(target, "dev")
			spoil(b)
			b.spec.Mounts = slices.DeleteFunc(b.spec.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev/") })
			_, err := b.start()
			require.ErrorContains(t, err, "something else than a directory at /dev", "%s: %s", name, target)
			require.NoFileExists(t, b.path("etc/null"))
		}
	}
}

// While volumes are mounted into the root of a container that does not run, to copy files from it, another
// container that has one of them exchanges a directory on the way to a mount point with a link: the
// mount lands on the host. (The other class of "cp", CVE-2026-41567, is tested in engine.)
//
// Guard: as for CVE-2021-30465; View mounts only on what was opened in the root.
func TestCVE2026_41568(t *testing.T) {
	v := newVictim(t)
	b := newBox(t)
	b.mkdir("vol/dir/empty")
	stop := swapping(t, b, v.dir)
	defer stop()
	source := testenv.TempDir(t)
	require.NoError(t, os.WriteFile(filepath.Join(source, "marker"), nil, 0o600))
	for range tries {
		tree, err := b.view(map[string]string{"/vol/dir/empty": source})
		if err != nil {
			continue // exchanged at the wrong moment, and found out
		}
		require.Eventually(t, func() bool {
			// What was the directory may be called link by now; a link leads to a place in the root.
			return slices.ContainsFunc([]string{"/vol/dir", "/vol/link", v.dir}, func(dir string) bool {
				f, err := sys.OpenInRoot(tree, dir+"/empty/marker", sys.OpenAny)
				return err == nil && f.Close() == nil
			})
		}, time.Second, time.Millisecond, "the mount went elsewhere than into the container")
		require.NoError(t, tree.Close())
	}
	v.untouched("mount points")
}

// A user's number that is too large for the kernel becomes another one, such as root's.
//
// Guard: LookupUser's bound (maxID); validateProcess for what comes from elsewhere.
func TestCVE2024_40635(t *testing.T) {
	b := newBox(t, "exit", "0")
	root := b.openRoot()
	defer root.Close()
	for _, name := range []string{"4294967296", "4294967296:4294967296", "2147483648", "0:4294967296", "18446744073709551616", "99999999999999999999:0"} {
		u, _, err := container.LookupUser(root, name)
		require.Error(t, err, "%s is user %d", name, u.UID)
	}
	b.write("etc/passwd", "evil:x:4294967296:4294967296:::\n", 0o644)
	u, _, err := container.LookupUser(root, "evil")
	require.Error(t, err, "evil is user %d", u.UID)
	b.spec.Process.User.UID = ^uint32(0)
	_, err = b.start()
	require.Error(t, err)
}

// The image's /etc/passwd or working directory is a link to the host's: that is read, or made there.
//
// Guard: sys.OpenInRoot in readUserFile and mountPoint.
func TestCVE2024_9676(t *testing.T) {
	v := newVictim(t)
	for way, target := range ways(v.dir) {
		b := newBox(t, "exit", "0")
		b.symlink(target+"/passwd", "etc/passwd")
		root := b.openRoot()
		u, _, err := container.LookupUser(root, "host")
		require.Error(t, err, "%s: the host's user %d was found", way, u.UID)
		require.NoError(t, root.Close())
		b.symlink(target, "work")
		b.spec.Process.Cwd = "/work/made"
		_, _ = b.run()
		v.untouched(way)
	}
}
