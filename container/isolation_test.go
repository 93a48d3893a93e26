package container_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
)

func namespaceLink(t testing.TB, kind string) string {
	t.Helper()
	link, err := os.Readlink("/proc/self/ns/" + kind)
	require.NoError(t, err)
	return link
}

func TestNamespaces(t *testing.T) {
	s := newBox(t).look("/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/ipv4/ping_group_range")
	for _, kind := range []string{"mnt", "pid", "uts", "ipc", "net", "cgroup"} {
		require.NotEmpty(t, s.NS[kind], kind)
		require.NotEqual(t, namespaceLink(t, kind), s.NS[kind], kind)
	}
	require.Equal(t, 1, s.Pid)
	require.Zero(t, s.Ppid, "a parent outside of the pid namespace has no number in it")
	require.Equal(t, 1, s.Sid)
	require.Equal(t, "box", s.Hostname)
	flags, err := strconv.ParseUint(strings.Fields(s.Lo)[1], 0, 32)
	require.NoError(t, err)
	require.NotZero(t, flags&unix.IFF_UP, "the loopback interface is down")
	require.Equal(t, "0", s.Files["/proc/sys/net/ipv4/ip_unprivileged_port_start"])
	require.Equal(t, "0\t2147483647", s.Files["/proc/sys/net/ipv4/ping_group_range"])
}

func TestLoopbackConnects(t *testing.T) {
	got := newBox(t).try("connect:127.0.0.1:0", "connect:[::1]:0", "listen:")
	require.Equal(t, map[string]string{"connect:127.0.0.1:0": "ok", "connect:[::1]:0": "ok", "listen:": "ok"}, got)
}

func TestSharedNamespaces(t *testing.T) {
	b := newBox(t)
	b.spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}
	b.spec.Hostname, b.spec.Linux.Sysctl = "", nil
	s := b.look()
	for _, kind := range []string{"uts", "ipc", "net", "cgroup", "user"} {
		require.Equal(t, namespaceLink(t, kind), s.NS[kind], kind)
	}
	for _, kind := range []string{"mnt", "pid"} {
		require.NotEqual(t, namespaceLink(t, kind), s.NS[kind], kind)
	}
}

func TestJoinedNamespaces(t *testing.T) {
	first := newBox(t, "hold")
	p := first.mustStart()
	path := func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", p.Pid(), kind) }
	want := make(map[string]string)
	for _, kind := range []string{"net", "ipc", "uts", "pid"} {
		var err error
		want[kind], err = os.Readlink(path(kind))
		require.NoError(t, err)
	}
	second := newBox(t)
	second.spec.Hostname, second.spec.Linux.Sysctl = "", nil
	second.spec.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.MountNamespace},
		{Type: specs.CgroupNamespace},
		{Type: specs.NetworkNamespace, Path: path("net")},
		{Type: specs.IPCNamespace, Path: path("ipc")},
		{Type: specs.UTSNamespace, Path: path("uts")},
		{Type: specs.PIDNamespace, Path: path("pid")},
	}
	s := second.look()
	for kind, link := range want {
		require.Equal(t, link, s.NS[kind], kind)
	}
	require.Equal(t, "box", s.Hostname)
	require.NotEqual(t, 1, s.Pid)

	third := newBox(t)
	third.spec.Linux.Namespaces[1].Path = path("uts")
	_, err := third.start()
	require.ErrorContains(t, err, "join network namespace", "a namespace of another kind was joined")

	require.NoError(t, p.Signal(syscall.SIGKILL))
	_, err = p.Wait()
	require.NoError(t, err)
}

// capabilities gives the set that the specification's names stand for, as /proc prints it.
func capabilities(t *testing.T, names []string) string {
	t.Helper()
	set, unknown := sys.ParseCaps(names)
	require.Empty(t, unknown)
	return fmt.Sprintf("%016x", uint64(set))
}

func TestPrivileges(t *testing.T) {
	b := newBox(t)
	s := b.look()
	docker := capabilities(t, dockerSpec(t).Process.Capabilities.Bounding)
	for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
		require.Equal(t, docker, s.Status[set], set)
	}
	require.Equal(t, strings.Repeat("0", 16), s.Status["CapInh"])
	require.Equal(t, strings.Repeat("0", 16), s.Status["CapAmb"])
	require.Equal(t, "0", s.Status["NoNewPrivs"])
	require.Equal(t, "2", s.Status["Seccomp"], "there is no filter")
	require.Equal(t, "1", s.Status["Seccomp_filters"])
	require.Equal(t, strings.Repeat("0", 16), s.Status["SigBlk"])
	require.Equal(t, 0o022, s.Umask)

	// Seccomp refuses what no capability would: unshare needs CAP_SYS_ADMIN, which is not there either.
	require.Equal(t, map[string]string{
		"mount:/proc": "operation not permitted", "hostname:x": "operation not permitted", "unshare:": "operation not permitted",
	}, b.try("mount:/proc", "hostname:x", "unshare:"))
}

// A limit that this program raised for itself is not for others.
func TestLimits(t *testing.T) {
	var ours unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &ours))
	b := newBox(t).withShell("ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc")
	b.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 0, Hard: 4096}}
	require.Equal(t, fmt.Sprintf("1024\n%d\n0\n8\n", ours.Max), b.output())

	b.spec.Process.Rlimits[0].Type = "RLIMIT_FUN"
	_, err := b.start()
	require.ErrorContains(t, err, "RLIMIT_FUN")
}

func TestPrivilegesOfAnOrdinaryUser(t *testing.T) {
	b := newBox(t)
	umask := uint32(0o077)
	b.spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 2000}, Umask: &umask}
	b.spec.Process.NoNewPrivileges = true
	s := b.look()
	require.Equal(t, "1000\t1000\t1000\t1000", s.Status["Uid"])
	require.Equal(t, "1001\t1001\t1001\t1001", s.Status["Gid"])
	require.Equal(t, []int{5, 2000}, s.Groups)
	require.Equal(t, 0o077, s.Umask)
	none := strings.Repeat("0", 16)
	require.Equal(t, none, s.Status["CapEff"])
	require.Equal(t, none, s.Status["CapPrm"])
	require.Equal(t, capabilities(t, dockerSpec(t).Process.Capabilities.Bounding), s.Status["CapBnd"])
	require.Equal(t, "1", s.Status["NoNewPrivs"])
	require.Equal(t, "2", s.Status["Seccomp"])
}

func TestChosenCapabilities(t *testing.T) {
	b := newBox(t)
	few := []string{"CAP_KILL", "CAP_NET_BIND_SERVICE"}
	b.spec.Process.User = specs.User{UID: 7, GID: 7}
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: few, Effective: few, Permitted: few, Inheritable: few, Ambient: few}
	s := b.look()
	for _, set := range []string{"CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"} {
		require.Equal(t, capabilities(t, few), s.Status[set], set)
	}
	// What nobody knows cannot be had, and is told of.
	require.Empty(t, container.Warnings(b.spec))
	b.spec.Process.Capabilities.Bounding = append(few, "CAP_DANCE")
	require.Equal(t, capabilities(t, few), b.look().Status["CapBnd"])
	require.Len(t, container.Warnings(b.spec), 1)
	require.ErrorContains(t, container.Warnings(b.spec)[0], "CAP_DANCE")
}

// Descriptors that this program did not mark to be closed are its own business all the same.
func TestNoDescriptorLeaksIn(t *testing.T) {
	secret, err := syscall.Open("/etc/hostname", syscall.O_RDONLY, 0) // not close-on-exec
	require.NoError(t, err)
	defer syscall.Close(secret) //nolint:errcheck // was only read
	dir, err := syscall.Open("/", syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	require.NoError(t, err)
	defer syscall.Close(dir) //nolint:errcheck // was only read

	s := newBox(t).look()
	require.Len(t, s.FDs, 3, "%v", s.FDs)
	for i, fd := range s.FDs {
		require.True(t, strings.HasPrefix(fd, strconv.Itoa(i)+" "), fd)
	}

	b := newBox(t, "look")
	b.spec.Process.Terminal = true
	p := b.mustStart()
	defer p.Terminal().Close()
	line := readUntil(t, p.Terminal(), "{")
	require.Contains(t, line, `"fds":["0 /dev/pts/0","1 /dev/pts/0","2 /dev/pts/0"]`)
	status, err := p.Wait()
	require.NoError(t, err)
	require.Zero(t, status)
}

func TestNothingOfThisProgramIsSeen(t *testing.T) {
	b := newBox(t)
	b.cfg.Seccomp = nil // or the keyring could not be asked for
	s := b.look("/proc/1/environ")
	require.Equal(t, "/probe", s.Exe)
	require.Equal(t, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", strings.Trim(s.Files["/proc/1/environ"], "\x00"))

	ours, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err == nil {
		require.NotEqual(t, strconv.Itoa(ours), s.Key, "the container has our session keyring")
	}
	require.NotContains(t, s.Key, "error")
}

func TestSysctls(t *testing.T) {
	b := newBox(t)
	b.spec.Linux.Sysctl = map[string]string{
		"net.ipv4.ip_forward": "1", "net/ipv4/conf/lo/forwarding": "1", "kernel.msgmax": "9999", "kernel.domainname": "example",
		"fs.mqueue.queues_max": "77",
	}
	s := b.look("/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/msgmax", "/proc/sys/fs/mqueue/queues_max")
	require.Equal(t, map[string]string{
		"/proc/sys/net/ipv4/ip_forward": "1", "/proc/sys/kernel/msgmax": "9999", "/proc/sys/fs/mqueue/queues_max": "77",
	}, s.Files)
	require.Equal(t, "example", s.Domainname)

	forward, err := os.ReadFile("/proc/sys/kernel/msgmax")
	require.NoError(t, err)
	require.NotEqual(t, "9999\n", string(forward), "the host's was set")
}
