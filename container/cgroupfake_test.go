package container

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fakeUnified is a directory that looks like a cgroup2 hierarchy with all controllers: this machine
// may have them in version 1. The kernel's own rules are not tested with it.
func fakeUnified(t *testing.T, dirs ...string) hierarchies {
	t.Helper()
	root := t.TempDir()
	const files = "memory.max memory.low memory.high cpu.weight cpu.max cpu.max.burst cpu.idle cpuset.cpus cpuset.mems " +
		"pids.max io.max hugetlb.2MB.max rdma.max misc.max"
	for _, dir := range append([]string{"."}, dirs...) {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for name := range strings.FieldsSeq(files) {
			if err := os.WriteFile(filepath.Join(root, dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for name, text := range map[string]string{
			"cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n", "cgroup.subtree_control": "memory\n", "memory.swap.max": "max",
		} {
			if err := os.WriteFile(filepath.Join(root, dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return hierarchies{unified: hierarchy{mount: root, self: "/user/me"}}
}

// What is written to which file of cgroup2: Documentation/admin-guide/cgroup-v2.rst has their formats.
func TestUnifiedLimits(t *testing.T) {
	h := fakeUnified(t, "box")
	disk := specs.LinuxBlockIODevice{Major: 8, Minor: 16}
	rate := func(n uint64) []specs.LinuxThrottleDevice {
		return []specs.LinuxThrottleDevice{{LinuxBlockIODevice: disk, Rate: n}}
	}
	l, err := sortLimits(h, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(1 << 30)), Swap: new(int64(3 << 30)), Reservation: new(int64(1 << 20))},
		CPU: &specs.LinuxCPU{
			Shares: new(uint64(1024)), Quota: new(int64(20000)), Period: new(uint64(40000)), Burst: new(uint64(1000)), Idle: new(int64(0)),
			Cpus: "0-1", Mems: "0",
		},
		Pids:           &specs.LinuxPids{Limit: new(int64(-1))},
		BlockIO:        &specs.LinuxBlockIO{ThrottleWriteIOPSDevice: rate(7)},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 2 << 20}},
		Rdma:           map[string]specs.LinuxRdma{"mlx5_0": {HcaHandles: new(uint32(3)), HcaObjects: new(uint32(4))}},
		Unified:        map[string]string{"memory.high": "500000", "misc.max": "res_a 1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.enable(h.unified.mount, l.controllers); err != nil {
		t.Fatal(err)
	}
	c := &cgroup{dir: filepath.Join(h.unified.mount, "box")}
	if err := l.apply(c); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"memory.max": "1073741824", "memory.swap.max": "2147483648", "memory.low": "1048576", "memory.high": "500000",
		"cpu.weight": "100", "cpu.max": "20000 40000", "cpu.max.burst": "1000", "cpu.idle": "0", "cpuset.cpus": "0-1", "cpuset.mems": "0",
		"pids.max": "max", "io.max": "8:16 wiops=7", "hugetlb.2MB.max": "2097152", "rdma.max": "mlx5_0 hca_handle=3 hca_object=4", "misc.max": "res_a 1",
	} {
		if got, err := os.ReadFile(filepath.Join(c.dir, file)); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %q (%v), want %q", file, got, err, want)
		}
	}
	if _, err := sortLimits(h, &specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: new(int64(1))}}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("realtime limits, which cgroup2 has not: %v", err)
	}
}

// The controllers are turned on in every cgroup above.
func TestControllersAreEnabled(t *testing.T) {
	h := fakeUnified(t, "a", "a/b")
	for _, dir := range []string{"", "a", "a/b"} {
		// Each write stands for itself in the kernel, and replaces the others here: the last remains.
		if err := h.enable(filepath.Join(h.unified.mount, "a/b"), []string{"hugetlb"}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(h.unified.mount, dir, "cgroup.subtree_control"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(got), "+") {
			t.Errorf("%q: nothing was enabled: %q", dir, got)
		}
	}
}

// Who may not make cgroups at the root makes them where a service manager has given a subtree away.
func TestDelegatedCgroups(t *testing.T) {
	h := hierarchy{mount: "/m", self: "/user.slice/user-1000.slice/me.scope"}
	for name, want := range map[string]string{
		"/abs/x": "/m/abs/x",
		"rel":    "/m/rel /m/user.slice/user-1000.slice/rel",
	} {
		if got := strings.Join(h.directories(name), " "); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	for _, self := range []string{"/", "/me", "/../x"} {
		h.self = self
		if got := h.directories("rel"); len(got) != 1 {
			t.Errorf("in %s: %v", self, got)
		}
	}
}
