package engine_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

// onEachDriver runs a test with each of the ways that layers become directories.
func onEachDriver(t *testing.T, test func(t *testing.T, h *host)) {
	t.Helper()
	for _, driver := range []string{rootfs.Erofs, rootfs.Dirs} {
		t.Run(driver, func(t *testing.T) { test(t, newHost(t, driver)) })
	}
}

// debianWork is what people do in a Debian image.
const debianWork = `
apt-get --version | head -n 1
dpkg -V
mkdir -p /tmp/hello/DEBIAN /tmp/hello/usr/bin
printf 'Package: hello-tarn\nVersion: 1.0\nArchitecture: all\nMaintainer: tarn <tarn@example.org>\nDescription: says hello\n' > /tmp/hello/DEBIAN/control
printf '#!/bin/sh\necho hello from a package\n' > /tmp/hello/usr/bin/hello-tarn; chmod 755 /tmp/hello/usr/bin/hello-tarn
dpkg-deb --build --root-owner-group /tmp/hello /tmp/hello.deb > /dev/null
dpkg -i /tmp/hello.deb 2>&1 | tail -n 1
hello-tarn; dpkg -L hello-tarn | tail -n 1
dpkg -r hello-tarn > /dev/null; test ! -e /usr/bin/hello-tarn
cat > /tmp/work.py <<'PYTHON'
import multiprocessing, os, pty, socket, ssl, subprocess, tempfile, threading
def serve(server):
    peer, _ = server.accept()
    peer.sendall(peer.recv(100).upper())
with socket.create_server(("127.0.0.1", 0)) as server:
    thread = threading.Thread(target=serve, args=(server,)); thread.start()
    with socket.create_connection(server.getsockname()) as client:
        client.sendall(b"over the loopback"); print(client.recv(100).decode())
    thread.join()
with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, range(-100, 0))))
print(subprocess.run(["sh", "-c", "echo from a child; exit 3"], capture_output=True, text=True))
with tempfile.NamedTemporaryFile() as f: f.write(b"x" * 1000); f.flush(); print(os.stat(f.name).st_size)
master, slave = pty.openpty(); print(os.ttyname(slave))
PYTHON
python3 /tmp/work.py
cd /root; git init -q work 2>/dev/null; cd work; git config user.email a@example.org; git config user.name A
for n in 1 2 3; do seq 1 1000 > file$n; git add -A; git commit -qm "commit $n"; done
git log --format=%s; git fsck 2>&1 | grep -v '^Checking' || true; git gc -q; git status --short | wc -l
`

func TestDebianAtWork(t *testing.T) {
	debian := testenv.DebianTar(t)
	onEachDriver(t, func(t *testing.T, h *host) {
		h.importFile("debian", debian)
		out := h.run("debian", "", debianWork)
		require.Regexp(t, `^apt \d+\.\d+\.\d+ \(amd64\)
Setting up hello-tarn \(1\.0\) \.\.\.
hello from a package
/usr/bin/hello-tarn
OVER THE LOOPBACK
5050
CompletedProcess\(args=\['sh', '-c', 'echo from a child; exit 3'\], returncode=3, stdout='from a child\\n', stderr=''\)
1000
/dev/pts/0
commit 3
commit 2
commit 1
0
$`, out)
	})
}

// changedTar is the busybox root with changes made to it by hand.
func changedTar(t *testing.T, change func(dir string)) string {
	t.Helper()
	dir := testenv.TempDir(t)
	root := filepath.Join(dir, "root")
	require.NoError(t, os.Mkdir(root, 0o755))
	testenv.ExtractTar(t, testenv.BusyboxTar(t), root)
	change(root)
	path := filepath.Join(dir, "changed.tar")
	out, err := exec.CommandContext(t.Context(), "tar", "-C", root, "-c", "-f", path, "--numeric-owner", ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// A container's user, its volumes and its files in /etc come out of an image that may be anything.
// Whatever links it has, they mean something inside of it, or nothing.
func TestHostileImages(t *testing.T) {
	victim := testenv.TempDir(t)
	for name, content := range map[string]string{"secret": "the host's secret", "passwd": "host:x:0:0::/:\n", "data/file": "the host's secret"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(victim, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(victim, name), []byte(content), 0o644))
	}
	before := listTree(t, victim)
	for name, place := range map[string]string{
		"dev": "dev", "proc": "proc", "sys": "sys", "etc": "etc", "hostname": "etc/hostname", "hosts": "etc/hosts", "resolv": "etc/resolv.conf",
		"mtab": "etc/mtab", "passwd": "etc/passwd", "group": "etc/group", "pts": "dev/pts", "volume": "data", "workdir": "work", "shell": "bin/sh",
	} {
		for way, prefix := range map[string]string{"absolute": "", "dots": "../../../../../../../..", "proc": "/proc/self/root", "thread": "/proc/thread-self/cwd/../../../../.."} {
			target := prefix + victim
			switch place {
			case "etc/passwd":
				target += "/passwd"
			case "data":
				target += "/data"
			case "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab", "etc/group", "bin/sh":
				target += "/secret"
			}
			t.Run(name+" "+way, func(t *testing.T) {
				tar := changedTar(t, func(root string) {
					require.NoError(t, os.RemoveAll(filepath.Join(root, place)))
					require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, place)), 0o755))
					require.NoError(t, os.Symlink(target, filepath.Join(root, place)))
				})
				onEachDriver(t, func(t *testing.T, h *host) {
					h.importFile("evil", tar, "VOLUME /data", "WORKDIR /work")
					out := h.try("evil", "cat /etc/hostname /etc/resolv.conf /etc/passwd /data/*; ls -l /data /work; echo x > /data/new; mount")
					require.NotContains(t, out, "the host's secret")
					require.Equal(t, before, listTree(t, victim))
					if place != "bin/sh" && place != "data" && place != "work" && place != "etc/passwd" && place != "etc/group" {
						require.Contains(t, out, "devpts on /dev/pts type devpts", "what a container needs is there all the same")
					}
				})
			})
		}
	}
}

func TestHostileLoops(t *testing.T) {
	for _, place := range []string{"dev", "proc", "sys", "etc", "etc/hostname", "etc/passwd", "data", "work"} {
		t.Run(filepath.Base(place), func(t *testing.T) {
			tar := changedTar(t, func(root string) {
				require.NoError(t, os.RemoveAll(filepath.Join(root, place)))
				require.NoError(t, os.Symlink("/"+place+"/x", filepath.Join(root, place)))
			})
			h := newHost(t, rootfs.Erofs)
			h.importFile("loop", tar, "VOLUME /data", "WORKDIR /work")
			out := h.try("loop", "echo runs")
			// It runs where the init layer sets the loop right, and else fails in words.
			require.Regexp(t, "^(runs\n|.*(symbolic links|no such file).*)", out)
		})
	}
}

func listTree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		list = append(list, fmt.Sprint(path, info.Mode(), info.ModTime(), info.Size()))
		return err
	}))
	return list
}

// try runs a script in a container that is removed, and gives what it or tarn said.
func (h *host) try(image, script string, options ...func(*engine.RunOptions)) string {
	h.t.Helper()
	out, err := os.CreateTemp(h.t.TempDir(), "out")
	require.NoError(h.t, err)
	defer out.Close()
	opts := engine.RunOptions{
		CreateOptions: engine.CreateOptions{
			Image: image, Command: []string{"sh", "-c", script}, NetworkOptions: engine.NetworkOptions{Networks: []string{engine.NetworkNone}}, Remove: true,
		},
		Stdin: out, Stdout: out, Stderr: out,
	}
	for _, option := range options {
		option(&opts)
	}
	_, runErr := h.Run(h.t.Context(), opts)
	text, err := os.ReadFile(out.Name())
	require.NoError(h.t, err)
	if runErr != nil {
		return string(text) + runErr.Error()
	}
	return string(text)
}

// requireNothingLeft makes sure that of containers with --rm nothing is left.
func (h *host) requireNothingLeft() {
	h.t.Helper()
	for _, dir := range []string{"containers", "names", "tmp", "volumes"} {
		entries, err := os.ReadDir(filepath.Join(h.Store.Root(), dir))
		if !errors.Is(err, fs.ErrNotExist) {
			require.NoError(h.t, err)
		}
		require.Empty(h.t, entries, dir)
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(h.t, err)
	for line := range strings.Lines(string(info)) {
		point := strings.Fields(line)[4]
		if strings.HasPrefix(point, h.Store.Root()) || strings.HasPrefix(point, h.Store.Run()) {
			require.Equal(h.t, filepath.Join(h.Store.Run(), "layers"), filepath.Dir(point))
		}
	}
}

// cgroups lists the cgroups of containers.
func cgroups(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, pattern := range []string{"/sys/fs/cgroup/tarn-*", "/sys/fs/cgroup/unified/tarn-*"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		list = append(list, found...)
	}
	return list
}

func TestManyRunsAtOnce(t *testing.T) {
	onEachDriver(t, func(t *testing.T, h *host) {
		h.importFile("box", testenv.BusyboxTar(t), "VOLUME /data")
		const runs = 20
		var all sync.WaitGroup
		outs, ids := make([]string, runs), make([]string, runs)
		for i := range runs {
			all.Go(func() {
				outs[i] = h.try("box", "hostname; echo "+strconv.Itoa(i)+" > /data/x; cat /data/x; exit 3")
			})
		}
		all.Wait()
		for i, out := range outs {
			var number string
			ids[i], number, _ = strings.Cut(strings.TrimSpace(out), "\n")
			require.Equal(t, strconv.Itoa(i), number, out)
			require.Len(t, ids[i], 12)
		}
		slices.Sort(ids)
		require.Len(t, slices.Compact(ids), runs, "two have the same ID")
		h.requireNothingLeft()
		for _, cgroup := range cgroups(t) {
			for _, id := range ids {
				require.NotContains(t, cgroup, id)
			}
		}
	})
}

func TestRunsThatFailLeaveNothing(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t), "VOLUME /data")
	notJSON := filepath.Join(t.TempDir(), "profile")
	require.NoError(t, os.WriteFile(notJSON, []byte("{"), 0o600))
	for message, spoil := range map[string]func(o *engine.RunOptions){
		"unable to find user nobody": func(o *engine.RunOptions) { o.User = "nobody" },
		"no such file in PATH":       func(o *engine.RunOptions) { o.Command = []string{"nothing"} },
		"cannot be executed":         func(o *engine.RunOptions) { o.Command = []string{"/etc/passwd"} },
		"seccomp profile":            func(o *engine.RunOptions) { o.SecurityOpt = []string{"seccomp=" + notJSON} },
		"is no directory":            func(o *engine.RunOptions) { o.WorkDir = "/etc/passwd" },
		"not a directory":            func(o *engine.RunOptions) { o.Volumes = []string{"/etc/hostname/x:/x"} },
		"no place for a file":        func(o *engine.RunOptions) { o.Volumes = []string{"/etc/hostname:/etc"} },
		"not on a shared mount":      func(o *engine.RunOptions) { o.Volumes = []string{h.Store.Root() + ":/x:rshared"} },
		"tmpfs: size":                func(o *engine.RunOptions) { o.Tmpfs = []string{"/x:size=much"} },
		"inside /proc":               func(o *engine.RunOptions) { o.Volumes = []string{"/etc:/proc/sys"} },
		"leave out -t, or -i":        func(o *engine.RunOptions) { o.Terminal, o.Interactive = true, true },
	} {
		out := h.try("box", "true", spoil)
		require.Contains(t, out, message)
		h.requireNothingLeft()
	}
}

// A file that is redirected to or from a container is not the container's to change.
func TestFilesOfTheHostStayThemselves(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	dir := t.TempDir()
	input := filepath.Join(dir, "input")
	require.NoError(t, os.WriteFile(input, []byte("as it was\n"), 0o444))
	in, err := os.Open(input)
	require.NoError(t, err)
	defer in.Close()
	const attack = `cat; for fd in 0 1 2; do echo changed > /proc/self/fd/$fd; chmod 4777 /proc/self/fd/$fd; chown 1:1 /proc/self/fd/$fd; done 2>/dev/null
		echo one; echo two >&2; echo three; truncate -s 0 /proc/self/fd/1`
	out := h.try("box", attack, func(o *engine.RunOptions) { o.Interactive, o.Stdin = true, in })
	require.Contains(t, out, "as it was\n")
	require.Contains(t, out, "one\ntwo\nthree\n", "what goes to one file has lost its order")
	text, err := os.ReadFile(input)
	require.NoError(t, err)
	require.Equal(t, "as it was\n", string(text))
	info, err := os.Stat(input)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o444), info.Mode())
	owner, ok := info.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	require.Zero(t, owner.Uid)

	out = h.try("box", "ls -l /proc/self/fd", func(o *engine.RunOptions) { o.Interactive, o.Stdin = true, in })
	require.NotContains(t, out, dir)
}

// Image contents get into new volumes with their owners, and links of the image do not lead out.
func TestVolumesBeginWithTheImage(t *testing.T) {
	tar := changedTar(t, func(root string) {
		data := filepath.Join(root, "data")
		require.NoError(t, os.MkdirAll(filepath.Join(data, "sub"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(data, "sub/file"), []byte("content\n"), 0o640))
		require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(data, "link")))
		for path, owner := range map[string]int{"": 1000, "sub": 7, "sub/file": 4242} {
			require.NoError(t, os.Chown(filepath.Join(data, path), owner, owner+1))
		}
		require.NoError(t, os.Chmod(data, 0o770|os.ModeSetgid))
	})
	onEachDriver(t, func(t *testing.T, h *host) {
		h.importFile("box", tar, "VOLUME /data")
		const look = "stat -c '%n %a %u:%g %F' /data /data/sub /data/sub/file /data/link; cat /data/sub/file"
		const want = "/data 2770 1000:1001 directory\n/data/sub 755 7:8 directory\n/data/sub/file 640 4242:4243 regular file\n" +
			"/data/link 777 0:0 symbolic link\ncontent\n"
		require.Equal(t, want, h.try("box", look))
		require.Equal(t, want, h.try("box", look, func(o *engine.RunOptions) { o.Volumes = []string{"named:/data"} }))
		// A volume that is there is not filled again.
		h.try("box", "rm -r /data/sub; echo mine > /data/mine", func(o *engine.RunOptions) { o.Volumes = []string{"named:/data"} })
		require.Equal(t, "link\nmine\n", h.try("box", "ls /data", func(o *engine.RunOptions) { o.Volumes = []string{"named:/data"} }))
		require.Empty(t, h.try("box", "ls /data", func(o *engine.RunOptions) { o.Volumes = []string{"other:/data:nocopy"} }))
	})
}

// A program that gains privileges at its start outlives tarn, for the kernel forgets its parent-death
// signal then. The next look at containers ends it.
func TestOrphansAreEnded(t *testing.T) {
	const env = "TARN_TEST_ORPHAN"
	if dir := os.Getenv(env); dir != "" {
		runOrphan(dir)
	}
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", changedTar(t, func(root string) {
		require.NoError(t, os.Mkdir(filepath.Join(root, "suid"), 0o755))
		require.NoError(t, os.Rename(filepath.Join(root, "bin/busybox"), filepath.Join(root, "suid/sleep")))
		require.NoError(t, os.Chmod(filepath.Join(root, "suid/sleep"), 0o755|os.ModeSetuid))
	}))
	tarn := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOrphansAreEnded$")
	tarn.Env = append(os.Environ(), env+"="+filepath.Dir(h.Store.Root()))
	stdin, err := tarn.StdinPipe() // which keeps the container's input open
	require.NoError(t, err)
	defer stdin.Close()
	require.NoError(t, tarn.Start())
	var orphan *engine.Container
	for orphan == nil {
		list, err := h.Containers(t.Context(), engine.ContainerFilter{})
		require.NoError(t, err)
		if len(list) > 0 {
			orphan = list[0]
		}
	}
	pid := orphan.State.Process.PID
	require.NoError(t, tarn.Process.Kill())
	require.Error(t, tarn.Wait())
	require.True(t, lives(pid), "it ended with tarn: there is nothing to test")
	list, err := h.Containers(t.Context(), engine.ContainerFilter{All: true})
	require.NoError(t, err)
	require.Empty(t, list)
	require.False(t, lives(pid))
	h.requireNothingLeft()
}

// lives tells whether a process has not ended, also if nobody has waited for it, and is not about to.
func lives(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	const killed = "SigPnd:\t0000000000000100"
	return err == nil && !strings.Contains(string(status), "State:\tZ") && !strings.Contains(string(status), killed)
}

// runOrphan is a tarn of its own, to be killed.
func runOrphan(dir string) {
	e, err := engine.Open(engine.Options{Root: filepath.Join(dir, "root"), Run: filepath.Join(dir, "run"), Driver: rootfs.Erofs})
	if err == nil {
		null, _ := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		_, err = e.Run(context.Background(), engine.RunOptions{
			CreateOptions: engine.CreateOptions{
				Image: "box", Command: []string{"/suid/sleep", "1000"}, User: "1000", NetworkOptions: engine.NetworkOptions{Networks: []string{engine.NetworkNone}}, Remove: true,
			},
			Stdin: null, Stdout: null, Stderr: null,
		})
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// Who is told by a container that it runs finds it running, and how it ended as soon as it has.
func TestStatesAreSeenAtOnce(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	for range 10 {
		r := h.startBox("echo up; read -r x || exit 5")
		report, err := h.InspectContainer(t.Context(), "c")
		require.NoError(t, err)
		require.True(t, report.State.Running)
		require.NotZero(t, report.State.Pid)
		process, err := os.FindProcess(report.State.Pid)
		require.NoError(t, err)
		require.NoError(t, r.stdin.Close())
		for process.Signal(syscall.Signal(0)) == nil {
			time.Sleep(time.Millisecond)
		}
		report, err = h.InspectContainer(t.Context(), "c")
		require.NoError(t, err)
		require.Equal(t, 5, report.State.ExitCode)
		require.NoError(t, <-r.ended)
		require.NoError(t, h.RemoveContainer(t.Context(), "c", engine.RemoveOptions{}))
	}
}

func TestManyBytesBothWays(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	in, stdin, err := os.Pipe()
	require.NoError(t, err)
	stdout, out, err := os.Pipe()
	require.NoError(t, err)
	const size = 20 << 20
	go func() {
		_, _ = io.CopyN(stdin, zeros{}, size)
		_ = stdin.Close()
	}()
	ended := make(chan error, 1)
	go func() {
		_, err := h.Run(t.Context(), engine.RunOptions{
			CreateOptions: engine.CreateOptions{
				Image: "box", Command: []string{"sh", "-c", "tr '\\000' x"}, NetworkOptions: engine.NetworkOptions{Networks: []string{engine.NetworkNone}}, Remove: true, Interactive: true,
			},
			Stdin: in, Stdout: out, Stderr: out,
		})
		_, _ = in.Close(), out.Close()
		ended <- err
	}()
	n, err := io.Copy(io.Discard, bufio.NewReader(stdout))
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	require.NoError(t, <-ended)
	require.NoError(t, stdout.Close())
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
