package container_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/testenv"
)

const mappedRoot = 200000

// inUserNamespace gives the container a user namespace, and its files to the root of that.
func (b *box) inUserNamespace() *box {
	b.t.Helper()
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, ns("user"))
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}
	b.spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot + 1, Size: 65536}}
	b.giveAway()
	return b
}

func (b *box) giveAway() {
	b.t.Helper()
	require.NoError(b.t, filepath.Walk(b.root, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, mappedRoot, mappedRoot+1)
	}))
}

// A container in a user namespace is root inside, and owns all its namespaces; outside it is nobody.
func TestUserNamespace(t *testing.T) {
	inPrivate(t, setting{}, func(t *testing.T) {
		b := newBox(t).inUserNamespace()
		b.spec.Hostname = "inner"
		before := host(t)
		s := b.look("/proc/self/uid_map", "/proc/self/gid_map", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/1/status")
		before.unchanged(t)
		for _, kind := range []string{"user", "mnt", "pid", "uts", "ipc", "net", "cgroup"} {
			require.NotEqual(t, namespaceLink(t, kind), s.NS[kind], kind)
		}
		require.Equal(t, []string{"0", "200000", "65536"}, strings.Fields(s.Files["/proc/self/uid_map"]))
		require.Equal(t, []string{"0", "200001", "65536"}, strings.Fields(s.Files["/proc/self/gid_map"]))
		require.Equal(t, []int{1, 0, 0, 0}, []int{s.Pid, s.Ppid, s.UID, s.GID})
		require.Equal(t, "inner", s.Hostname)
		require.Equal(t, capabilities(t, container.DefaultCapabilities()), s.Status["CapEff"])
		require.Empty(t, s.Groups)
		for name, info := range s.Dev {
			require.NotContains(t, info, "65534", "%s is nobody's", name)
		}
		for _, point := range []string{"/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup"} {
			findMount(t, s.Mounts, point)
		}
		// What it has in /proc belongs to it, and the host's settings do not.
		require.Equal(t, map[string]string{
			"create:/made": "ok", "open:/dev/ptmx": "ok", "write:/dev/null": "ok", "hostname:x": "operation not permitted",
			"write:/proc/sys/kernel/panic": "open /proc/sys/kernel/panic: permission denied",
			"null:/n":                      "mknod: operation not permitted", "read:/proc/interrupts": "empty", "list:/proc/acpi": "empty",
		}, tolerant(b.try("create:/made", "open:/dev/ptmx", "write:/dev/null", "hostname:x", "write:/proc/sys/kernel/panic", "null:/n", "read:/proc/interrupts", "list:/proc/acpi")))
		info, err := os.Stat(b.path("made"))
		require.NoError(t, err)
		st, ok := info.Sys().(*syscall.Stat_t)
		require.True(t, ok)
		require.Equal(t, []uint32{mappedRoot, mappedRoot + 1}, []uint32{st.Uid, st.Gid})
	})
}

// tolerant has the two errors of a read-only /proc/sys be one.
func tolerant(results map[string]string) map[string]string {
	for k, v := range results {
		results[k] = strings.ReplaceAll(v, "read-only file system", "permission denied")
	}
	return results
}

// With all capabilities of its user namespace, a container rules its own namespaces, and nothing else.
func TestUserNamespaceOwnsItsNamespaces(t *testing.T) {
	b := newBox(t).inUserNamespace()
	all := append(container.DefaultCapabilities(), "CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_RESOURCE")
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	b.cfg.Seccomp = nil
	b.spec.Linux.ReadonlyPaths, b.spec.Linux.MaskedPaths = nil, nil
	b.mkdir("mnt")
	b.giveAway()
	require.Equal(t, map[string]string{
		"hostname:x": "ok", "mount:/mnt": "ok", "unshare:": "ok", "write:/proc/sys/net/ipv4/ip_forward": "ok",
		"write:/proc/sys/kernel/panic": "open /proc/sys/kernel/panic: permission denied", "disk:/d": "mknod: operation not permitted",
	}, b.try("hostname:x", "mount:/mnt", "unshare:", "write:/proc/sys/net/ipv4/ip_forward", "write:/proc/sys/kernel/panic", "disk:/d"))
}

// Limits that only the host may give are given all the same, and users, terminals and devices are
// those of the user namespace.
func TestUserNamespaceAttributes(t *testing.T) {
	b := newBox(t).inUserNamespace()
	score, gid := 500, uint32(7)
	b.spec.Process.OOMScoreAdj = &score
	b.spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: -5, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}
	b.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 5, Hard: 1 << 40}}
	b.spec.Process.User = specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}}
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 1, Minor: 3, UID: &gid, GID: &gid}}
	b.spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	s := b.look("/proc/self/stat", "/proc/self/personality")
	require.Equal(t, "500", s.OOM)
	require.Contains(t, s.Limits, "1099511627776")
	require.Equal(t, []int{5, 6}, []int{s.UID, s.GID})
	require.Equal(t, []int{7}, s.Groups)
	require.Contains(t, s.Dev["/dev/mine"], "7:7")
	require.Equal(t, "00000008", s.Files["/proc/self/personality"])
	_, after, _ := strings.Cut(s.Files["/proc/self/stat"], ") ")
	require.Equal(t, "-5", strings.Fields(after)[19-3])
}

// Bind mounts of a container in a user namespace can have the owners that they have on the host.
func TestIDMapOfUserNamespace(t *testing.T) {
	dir := testenv.TempDir(t)
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	require.NoError(t, os.Chown(filepath.Join(dir, "file"), 3, 4))
	b := newBox(t)
	b.mkdir("bin")
	b.mount("/plain", dir)
	b.mount("/mapped", dir, "ridmap")
	b.copy(testenv.Busybox(t), "bin/busybox")
	b.inUserNamespace()
	b.spec.Process.Args = []string{"busybox", "stat", "-c", "%u:%g", "/plain/file", "/mapped/file"}
	require.Equal(t, "65534:65534 3:4", strings.Join(strings.Fields(b.output()), " "))
}

// A container can join the user namespace of another one, with what belongs to it.
func TestJoinedUserNamespace(t *testing.T) {
	first := newBox(t, "hold").inUserNamespace()
	p := first.mustStart()
	defer func() {
		require.NoError(t, p.Signal(syscall.SIGKILL))
		_, err := p.Wait()
		require.NoError(t, err)
	}()
	link := func(kind string) string {
		to, err := os.Readlink("/proc/" + itoa(p.Pid()) + "/ns/" + kind)
		require.NoError(t, err)
		return to
	}
	for _, joined := range [][]string{{"user"}, {"user", "net", "ipc", "uts", "pid"}} {
		b := newBox(t).inUserNamespace()
		b.spec.Hostname, b.spec.Linux.Sysctl = "", nil
		for _, kind := range joined {
			name := map[string]string{"net": "network"}[kind]
			if name == "" {
				name = kind
			}
			b.spec.Linux.Namespaces = append(remove(b, name), specs.LinuxNamespace{Type: specs.LinuxNamespaceType(name), Path: "/proc/" + itoa(p.Pid()) + "/ns/" + kind})
		}
		s := b.look()
		for _, kind := range joined {
			require.Equal(t, link(kind), s.NS[kind])
		}
		b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = nil, nil
		require.Equal(t, 0, b.look().UID, "the mappings are known without")
		b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 5, Size: 1}}
		b.spec.Linux.GIDMappings = b.spec.Linux.UIDMappings
		_, err := b.start()
		require.ErrorContains(t, err, "are not those of the user namespace")
	}
}

// A start in a user namespace that fails says why, and leaves nothing.
func TestUserNamespacesThatFail(t *testing.T) {
	inPrivate(t, setting{}, func(t *testing.T) {
		for message, spoil := range map[string]func(b *box){
			"not in linux.uidMappings": func(b *box) { b.spec.Linux.UIDMappings[0].ContainerID = 1 },
			"setuid":                   func(b *box) { b.spec.Process.User.UID = 70000 },
			"exec /nothing: no such":   func(b *box) { b.spec.Process.Args = []string{"/nothing"} },
			"exec /broken":             func(b *box) { b.write("broken", "rubbish", 0o755); b.spec.Process.Args = []string{"/broken"} },
			"option gid=70000":         func(b *box) { b.spec.Mounts[1].Options = append(b.spec.Mounts[1].Options, "gid=70000") },
			"need a user namespace":    func(b *box) { b.spec.Linux.Namespaces = remove(b, "user") },
			"setgroups":                func(b *box) { b.spec.Process.User.AdditionalGids = []uint32{70000} },
		} {
			b := newBox(t, "exit", "0").inUserNamespace()
			before := host(t)
			spoil(b)
			_, err := b.start()
			require.ErrorContains(t, err, message)
			before.unchanged(t)
		}
	})
}

// A container's clocks can be other than the host's, in a user namespace or not, its own or joined.
func TestTimeNamespace(t *testing.T) {
	inPrivate(t, setting{}, func(t *testing.T) {
		for _, user := range []bool{false, true} {
			b := newBox(t)
			if user {
				b.inUserNamespace()
			}
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, ns("time"))
			b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 400000000, Nanosecs: 5}, "monotonic": {Secs: 7}}
			before := host(t)
			s := b.look("/proc/uptime", "/proc/self/timens_offsets")
			before.unchanged(t)
			require.NotEqual(t, namespaceLink(t, "time"), s.NS["time"])
			require.Greater(t, len(strings.Split(s.Files["/proc/uptime"], ".")[0]), len("99999999"), "the uptime is not the container's")
			require.Equal(t, []string{"monotonic", "7", "0", "boottime", "400000000", "5"}, strings.Fields(s.Files["/proc/self/timens_offsets"]))

			b.spec.Process.Args = []string{"/probe", "hold"}
			p := b.mustStart()
			joins := newBox(t)
			joins.spec.Linux.Namespaces = append(joins.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: "/proc/" + itoa(p.Pid()) + "/ns/time"})
			require.Equal(t, s.Files["/proc/self/timens_offsets"], joins.look("/proc/self/timens_offsets").Files["/proc/self/timens_offsets"])
			require.NoError(t, p.Signal(syscall.SIGKILL))
			_, err := p.Wait()
			require.NoError(t, err)

			b.spec.Linux.Namespaces = remove(b, "time")
			_, err = b.start()
			require.ErrorContains(t, err, "need a new time namespace")
		}
	})
}

// A mount namespace that is joined becomes the container's: who was in it sees the container's root.
func TestJoinedMountNamespace(t *testing.T) {
	holder := exec.CommandContext(t.Context(), probe, "hold")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	require.NoError(t, holder.Start())
	defer func() { _, _ = holder.Process.Kill(), holder.Wait() }()
	path := "/proc/" + itoa(holder.Process.Pid) + "/ns/mnt"
	require.Eventually(t, func() bool {
		to, err := os.Readlink(path)
		return err == nil && to != namespaceLink(t, "mnt")
	}, 1<<40, 1<<20)
	b := newBox(t)
	b.spec.Linux.Namespaces = append(remove(b, "mount"), specs.LinuxNamespace{Type: specs.MountNamespace, Path: path})
	s := b.look()
	to, err := os.Readlink(path)
	require.NoError(t, err)
	require.Equal(t, to, s.NS["mnt"])
	require.FileExists(t, "/proc/"+itoa(holder.Process.Pid)+"/root/probe")
	require.NotContains(t, hostMounts(t), b.root)
}

// The root of a user namespace manages its cgroup, if that is mounted for writing, but not its limits.
func TestCgroupDelegation(t *testing.T) {
	inPrivate(t, setting{Cgroups: "v2"}, func(t *testing.T) {
		for _, option := range []string{"rw", "ro"} {
			b := newBox(t).inUserNamespace()
			i := slices.IndexFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
			b.spec.Mounts[i].Options = []string{"nosuid", option}
			before := host(t)
			want := map[string]string{
				"mkdir:/sys/fs/cgroup/inner": "ok", "write:/sys/fs/cgroup/cgroup.procs": "ok", "write:/sys/fs/cgroup/inner/cgroup.freeze": "ok",
				"write:/sys/fs/cgroup/cgroup.freeze": "open /sys/fs/cgroup/cgroup.freeze: permission denied",
			}
			if option == "ro" {
				want = map[string]string{
					"mkdir:/sys/fs/cgroup/inner": "mkdir /sys/fs/cgroup/inner: read-only file system",
				}
			}
			require.Equal(t, want, b.try(slices.Sorted(maps.Keys(want))...))
			before.unchanged(t)
		}
	})
}
