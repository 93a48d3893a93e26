package container

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// DefaultPath is where programs are looked for when the environment has no PATH, as Docker sets it.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// DefaultCapabilities are the capabilities Docker gives a container: moby, daemon/pkg/oci/caps.
func DefaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// DefaultSpec is the container Docker makes when nothing is asked for, without a program: moby,
// daemon/pkg/oci/defaults.go; with the private cgroup namespace Docker has on cgroup v2 hosts. The
// caller owns it.
func DefaultSpec() *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{
				Bounding:  DefaultCapabilities(),
				Permitted: DefaultCapabilities(),
				Effective: DefaultCapabilities(),
			},
		},
		Root:   &specs.Root{},
		Mounts: DefaultMounts(),
		Linux: &specs.Linux{
			MaskedPaths:   DefaultMaskedPaths(),
			ReadonlyPaths: DefaultReadonlyPaths(),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.CgroupNamespace},
			},
			Resources: &specs.LinuxResources{Devices: DefaultDeviceRules()},
		},
	}
}

// DefaultMounts are the mounts every container of Docker has.
func DefaultMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{
			Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
		},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=67108864"}},
	}
}

// DefaultMaskedPaths are the paths Docker hides from containers, those of them per CPU that this
// machine has.
func DefaultMaskedPaths() []string {
	paths := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	for cpu := range possibleCPUs() {
		path := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/thermal_throttle", cpu)
		if _, err := os.Lstat(path); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

// possibleCPUs gives how many CPUs the machine can have: sysfs has their highest number last
// ("0-7").
func possibleCPUs() int {
	text, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if err != nil {
		return 0
	}
	list := strings.TrimSpace(string(text))
	last, err := strconv.ParseUint(list[strings.LastIndexAny(list, "-,")+1:], 10, 16)
	if err != nil {
		return 0
	}
	return int(last) + 1
}

// DefaultReadonlyPaths are the paths Docker makes read-only.
func DefaultReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// DefaultSysctls are what Docker sets in a container that has its own network namespace.
func DefaultSysctls() map[string]string {
	return map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "0",
		"net.ipv4.ping_group_range":           "0 " + strconv.FormatUint(uint64(lastGroup()), 10),
	}
}

// lastGroup is the last group of those that follow 0 without a gap: the kernel takes only groups that there are,
// and in a user namespace not all are.
func lastGroup() uint32 {
	const last = 1<<31 - 1
	if !sys.InUserNamespace() {
		return last
	}
	text, err := os.ReadFile("/proc/self/gid_map")
	if err != nil {
		return 0
	}
	groups, err := parseIDMap(string(text))
	if err != nil {
		return 0
	}
	slices.SortFunc(groups, func(a, b specs.LinuxIDMapping) int { return cmp.Compare(a.ContainerID, b.ContainerID) })
	next := uint32(0)
	for _, g := range groups {
		if g.ContainerID == next {
			next += g.Size
		}
	}
	return min(max(next, 1)-1, last)
}

// DefaultDeviceRules allow the devices every container has and making any node, and nothing else.
// Like runc, this runtime adds what it gives every container to whatever the rules are.
func DefaultDeviceRules() []specs.LinuxDeviceCgroup {
	return []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
}
