package main

import (
	"fmt"
	"os"
	"os/exec"
	osuser "os/user" // a test has a type of that name
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
)

// ordinary is a user of the machine without rights, made for one test, who has tarn. The network that the user has is a
// machine's of its own, which is connected with another one: the world.
type ordinary struct {
	t           *testing.T
	name, dir   string
	host, world *os.File // network namespaces
	cgroups     []string // where what the user runs is
}

func newOrdinary(t *testing.T) *ordinary {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.RequireTool(t, "useradd", "userdel", "su", "newuidmap", "pasta")
	u := &ordinary{t: t, name: "tarn-t" + strconv.Itoa(os.Getpid()%100000), dir: testenv.TempDir(t)}
	require.NoError(t, os.Chmod(u.dir, 0o755))
	home := filepath.Join(u.dir, "home")
	u.root("useradd", "--create-home", "--home-dir", home, "--shell", "/bin/sh", u.name)
	t.Cleanup(func() {
		u.end()
		u.root("userdel", u.name)
	})
	// Debian's useradd gives numbers to ordinary users, others' need not.
	for flag, file := range map[string]string{"--add-subuids": "/etc/subuid", "--add-subgids": "/etc/subgid"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if !strings.Contains("\n"+string(text), "\n"+u.name+":") {
			u.root("usermod", flag, "1100000-1165535", u.name)
		}
	}
	// This program is tarn, if it is called so.
	self, err := os.Executable()
	require.NoError(t, err)
	u.root("install", "-D", self, filepath.Join(u.dir, "bin/tarn"))
	u.root("install", "-m", "644", testenv.BusyboxTar(t), filepath.Join(u.dir, "busybox.tar"))
	u.connect()
	return u
}

// Addresses in the user's network.
const (
	hostAddress, worldAddress   = "192.0.2.2", "192.0.2.1"
	hostAddress6, worldAddress6 = "2001:db8::2", "2001:db8::1"
)

// connect makes the networks: two namespaces with a link between.
func (u *ordinary) connect() {
	u.t.Helper()
	testenv.RequireTool(u.t, "ip", "nsenter")
	for _, ns := range []**os.File{&u.host, &u.world} {
		made := make(chan *os.File, 1)
		sys.OnOwnThread(func() {
			var f *os.File
			if sys.Unshare(sys.NewNet) == nil && sys.LoopbackUp() == nil {
				f, _ = sys.ThreadNetworkNamespace()
			}
			made <- f
		})
		*ns = <-made
		require.NotNil(u.t, *ns)
		u.t.Cleanup(func() { _ = (*ns).Close() })
	}
	u.in(u.host, "sh", "-ec", `
		ip link add up0 type veth peer name down0 netns /proc/self/fd/4
		ip address add `+hostAddress+`/24 dev up0; ip address add `+hostAddress6+`/64 dev up0 nodad; ip link set up0 up`)
	u.in(u.world, "sh", "-ec", `
		ip address add `+worldAddress+`/24 dev down0; ip address add `+worldAddress6+`/64 dev down0 nodad; ip link set down0 up`)
	u.in(u.host, "sh", "-ec", `ip route add default via `+worldAddress+`; ip route add default via `+worldAddress6)
	require.NoError(u.t, os.WriteFile(filepath.Join(u.dir, "resolv.conf"), []byte("nameserver 127.0.0.1\nsearch example.test\n"), 0o644))
	// Where there is no udev, the device is root's. Any user may have it: it makes devices in namespaces of one's own.
	u.root("mknod", "--mode", "666", filepath.Join(u.dir, "tun"), "c", "10", "200")
}

// in runs a program as root in one of the networks; the other's namespace is descriptor 4.
func (u *ordinary) in(ns *os.File, args ...string) string {
	u.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=/proc/self/fd/3"}, args...)...) //nolint:noctx // also when the test is over
	cmd.ExtraFiles = []*os.File{ns, u.world}
	out, err := cmd.CombinedOutput()
	require.NoError(u.t, err, "%v: %s", args, out)
	return string(out)
}

func (u *ordinary) root(name string, args ...string) {
	u.t.Helper()
	out, err := exec.CommandContext(u.t.Context(), name, args...).CombinedOutput()
	if u.t.Context().Err() != nil {
		out, err = exec.Command(name, args...).CombinedOutput() //nolint:noctx // cleaning up
	}
	require.NoError(u.t, err, "%s: %s", name, out)
}

// end ends all processes of the user and of those whose numbers are the user's: the one that keeps the namespaces, and,
// after a failure, containers.
func (u *ordinary) end() {
	u.t.Helper()
	me, err := osuser.Lookup(u.name)
	require.NoError(u.t, err)
	require.Eventually(u.t, func() bool {
		left := 0
		statuses, err := filepath.Glob("/proc/[0-9]*/status")
		require.NoError(u.t, err)
		for _, path := range statuses {
			text, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(text), "\nUid:\t"+me.Uid+"\t") || strings.Contains(string(text), "\nState:\tZ") {
				continue
			}
			left++
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			require.NoError(u.t, err)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return left == 0
	}, time.Minute, 10*time.Millisecond)
}

// try runs a script as the user, and gives what it prints.
func (u *ordinary) try(script string) (string, error) {
	u.t.Helper()
	preamble := fmt.Sprintf("cd; mkdir -p -m 700 run; export PATH=%s/bin:$PATH XDG_RUNTIME_DIR=$HOME/run BUSYBOX=%s/busybox.tar; set -eu\n", u.dir, u.dir)
	const asUser = `mount --bind "$1/resolv.conf" /etc/resolv.conf; mount --bind "$1/tun" /dev/net/tun; user=$2 script=$3; shift 3
		for cgroup; do echo $$ > "$cgroup/cgroup.procs"; done; exec nsenter --net=/proc/self/fd/3 su --login "$user" -c "$script"`
	args := append([]string{"--mount", "sh", "-ec", asUser, "sh", u.dir, u.name, preamble + script}, u.cgroups...)
	cmd := exec.CommandContext(u.t.Context(), "unshare", args...)
	cmd.ExtraFiles = []*os.File{u.host}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (u *ordinary) run(script string) string {
	u.t.Helper()
	out, err := u.try(script)
	require.NoError(u.t, err, "%s\n%s", script, out)
	return out
}

// fails runs a script that fails, and gives what it says.
func (u *ordinary) fails(script string) string {
	u.t.Helper()
	out, err := u.try(script)
	require.Error(u.t, err, "%s\n%s", script, out)
	return out
}

// An ordinary user has images and containers, below the own home directory, with nobody's help but that of
// newuidmap(1).
func TestRootless(t *testing.T) {
	u := newOrdinary(t)
	u.run("tarn import --name box $BUSYBOX")
	require.Contains(t, u.run("tarn images"), "box")
	require.Equal(t, "0\n0 0\n1000\n", u.run(`tarn run --name work box sh -c 'id -u; stat -c "%u %g" /etc/passwd; stat -c %u /home/user;
		echo hi > /hello; chown 1000:1000 /hello; rm -r /home; mkdir /home; touch /home/new; echo x > /dev/null'`))
	require.Equal(t, "A /hello\nC /home\nA /home/new\nD /home/user\n", u.run("tarn diff work"))
	u.run("tarn commit work derived")
	require.Equal(t, "hi\n1000\nnew\n", u.run("tarn run --rm derived sh -c 'cat /hello; stat -c %u /hello; ls /home'"))

	// On the disk all is the user's, and those's who have numbers that are.
	require.Equal(t, u.name+"\n", u.run("stat -c %U .local/share/tarn/layers"))
	found, err := exec.CommandContext(t.Context(), "find", filepath.Join(u.dir, "home/.local/share/tarn"), "-uid", "-"+strconv.Itoa(1000)).CombinedOutput()
	require.NoError(t, err)
	require.Empty(t, string(found), "the machine's own users have something there")

	// The namespaces are the same for every command, so containers in the background are found.
	u.run("tarn run -d --name bg box sleep 1000")
	require.Contains(t, u.run("tarn ps"), "bg")
	require.Equal(t, "0\n", u.run("tarn exec bg id -u"))
	require.Contains(t, u.run("tarn exec bg sh -c 'echo in > /file'; tarn cp bg:/file f; cat f; stat -c %U f"), "in\n"+u.name)
	// Should the process that keeps them be killed, they are found by another that is in them.
	u.run("kill -9 $(cut -d ' ' -f 1 run/tarn/pause)")
	require.Equal(t, "0\n", u.run("tarn exec bg id -u"))
	u.run("tarn stop -t 0 bg; tarn start bg; tarn exec bg cat /file; tarn rm -f bg")
	require.Equal(t, "kept\n", u.run("tarn run --rm -v data:/data box sh -c 'echo kept > /data/x'; tarn run --rm -v data:/data box cat /data/x"))
	require.Contains(t, u.run("tarn run --rm --network host box ls /sys/class/net"), "lo")
	require.Equal(t, "3\n", u.run("tarn run --rm box sh -c 'exit 3' || echo $?"))

	// What is mounted is to be seen where it is.
	require.Contains(t, u.fails("tarn mount box"), "tarn unshare")
	require.Equal(t, "0\nroot:x:0:0:root:/root:/bin/sh\n", u.run(`tarn unshare sh -c 'id -u; head -n 1 "$(tarn mount box)/etc/passwd"; tarn umount box >/dev/null'`))
	require.Contains(t, u.run("tarn unshare cat /proc/self/uid_map"), " 0 ")

	// What only root can do is refused.
	require.Contains(t, u.fails("tarn run --rm --userns auto box true"), "users of a container's own are for root")
	require.Contains(t, u.fails("tarn run --rm -m 64m box true"), "limits")

	u.run("tarn rm work; tarn rmi derived box; tarn volume rm data; tarn check")
	require.Empty(t, u.run("tarn ps -aq; tarn images -q"))
}

// A user without numbers for others is told how to get some.
func TestRootlessWithoutNumbers(t *testing.T) {
	u := newOrdinary(t)
	for _, kind := range []string{"uid", "gid"} {
		text, err := os.ReadFile("/etc/sub" + kind)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			fields := strings.Split(strings.TrimSpace(line), ":")
			if len(fields) != 3 || fields[0] != u.name {
				continue
			}
			first, err := strconv.Atoi(fields[1])
			require.NoError(t, err)
			size, err := strconv.Atoi(fields[2])
			require.NoError(t, err)
			u.root("usermod", "--del-sub"+kind+"s", fmt.Sprintf("%d-%d", first, first+size-1), u.name)
		}
	}
	require.Contains(t, u.fails("tarn images"), "usermod --add-subuids")
}
