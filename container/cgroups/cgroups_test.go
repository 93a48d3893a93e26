package cgroups

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	lib "github.com/opencontainers/cgroups"
	lib1 "github.com/opencontainers/cgroups/fs"
	lib2 "github.com/opencontainers/cgroups/fs2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

// fakeFiles are the files of a cgroup, with what a new one has in them.
const fakeFiles = `memory.max=max memory.low=0 memory.swap.max=max memory.current=0 cpu.weight=100 cpu.max=max cpu.max.burst=0 cpu.idle=0
cpuset.cpus= cpuset.mems= pids.max=max io.weight=100 io.max= hugetlb.2MB.max=max hugetlb.2MB.rsvd.max=max rdma.max= memory.high=max
memory.limit_in_bytes=9223372036854771712 memory.memsw.limit_in_bytes=9223372036854771712 memory.soft_limit_in_bytes=0 memory.oom_control=0
memory.swappiness=60 cpu.shares=1024 cpu.cfs_quota_us=-1 cpu.cfs_period_us=100000 cpu.cfs_burst_us=0 cpu.rt_period_us=0 cpu.rt_runtime_us=0
blkio.weight=500 blkio.weight_device= blkio.leaf_weight=0 blkio.leaf_weight_device= blkio.throttle.read_bps_device=
blkio.throttle.write_bps_device= blkio.throttle.read_iops_device= blkio.throttle.write_iops_device= hugetlb.2MB.limit_in_bytes=0
hugetlb.2MB.rsvd.limit_in_bytes=0 net_cls.classid=0 net_prio.ifpriomap= cgroup.controllers=cpuset`

func fake(t *testing.T) string {
	t.Helper()
	parent := t.TempDir()
	dir := filepath.Join(parent, "box")
	require.NoError(t, os.Mkdir(dir, 0o755))
	for name, text := range map[string]string{"cpuset.cpus": "0-3", "cpuset.mems": "0"} {
		require.NoError(t, os.WriteFile(filepath.Join(parent, name), []byte(text), 0o600))
	}
	for file := range strings.FieldsSeq(fakeFiles) {
		name, text, _ := strings.Cut(file, "=")
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		all[e.Name()] = strings.TrimSpace(string(text))
	}
	return all
}

// oneOf gives one of the values.
func oneOf[T any](values ...T) T { return values[rand.IntN(len(values))] } //nolint:gosec // a test

// randomResources gives the same limits to both.
func randomResources() (*Resources, *lib.Resources) {
	n := func() uint64 { return rand.Uint64N(1<<20) + 2 } //nolint:gosec // a test
	r := &Resources{
		Memory: oneOf(0, -1, int64(n())), MemorySwap: oneOf(0, -1, int64(n())), MemoryReservation: oneOf(0, -1, int64(n())),
		OomKillDisable: oneOf(true, false), MemoryCheckBeforeUpdate: oneOf(true, false), MemorySwappiness: oneOf(nil, new(uint64(10)), new(uint64(101))),
		CpuShares: oneOf(0, 2, n(), 1<<18, 1<<30), CpuQuota: oneOf(0, -1, int64(n())), CpuPeriod: oneOf(0, n()), CpuBurst: oneOf(nil, new(n())),
		CpuRtRuntime: oneOf(0, int64(n())), CpuRtPeriod: oneOf(0, n()), CPUIdle: oneOf(nil, new(int64(1))),
		CpusetCpus: oneOf("", "0-1"), CpusetMems: oneOf("", "0"), PidsLimit: oneOf(nil, new(int64(0)), new(int64(-1)), new(int64(n()))),
		BlkioWeight: oneOf(0, uint16(10+rand.IntN(990))), BlkioLeafWeight: oneOf(0, uint16(10)), //nolint:gosec // a test
		HugetlbLimit:  oneOf(nil, []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: n()}}),
		Rdma:          oneOf(nil, map[string]specs.LinuxRdma{"mlx": {HcaHandles: new(uint32(3)), HcaObjects: oneOf(nil, new(uint32(4)))}}),
		NetClsClassid: oneOf(0, uint32(n())), NetPrioIfpriomap: oneOf(nil, []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 5}}),
		Unified: oneOf(nil, map[string]string{"memory.high": "77"}),
	}
	l := &lib.Resources{
		Memory: r.Memory, MemorySwap: r.MemorySwap, MemoryReservation: r.MemoryReservation, OomKillDisable: r.OomKillDisable,
		MemoryCheckBeforeUpdate: r.MemoryCheckBeforeUpdate, MemorySwappiness: r.MemorySwappiness, CpuShares: r.CpuShares,
		CpuWeight: lib.ConvertCPUSharesToCgroupV2Value(r.CpuShares), CpuQuota: r.CpuQuota, CpuPeriod: r.CpuPeriod, CpuBurst: r.CpuBurst,
		CpuRtRuntime: r.CpuRtRuntime, CpuRtPeriod: r.CpuRtPeriod, CPUIdle: r.CPUIdle, CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems,
		PidsLimit: r.PidsLimit, BlkioWeight: r.BlkioWeight, BlkioLeafWeight: r.BlkioLeafWeight, NetClsClassid: r.NetClsClassid, Unified: r.Unified,
		Rdma: map[string]lib.LinuxRdma{},
	}
	for _, h := range r.HugetlbLimit {
		l.HugetlbLimit = append(l.HugetlbLimit, &lib.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
	for name, d := range r.Rdma {
		l.Rdma[name] = lib.LinuxRdma{HcaHandles: d.HcaHandles, HcaObjects: d.HcaObjects}
	}
	for _, p := range r.NetPrioIfpriomap {
		l.NetPrioIfpriomap = append(l.NetPrioIfpriomap, &lib.IfPrioMap{Interface: p.Name, Priority: int64(p.Priority)})
	}
	d := specs.LinuxBlockIODevice{Major: 8, Minor: 16}
	if oneOf(true, false) {
		rate := n()
		throttled := []specs.LinuxThrottleDevice{{LinuxBlockIODevice: d, Rate: rate}}
		library := []*lib.ThrottleDevice{lib.NewThrottleDevice(8, 16, rate)}
		switch rand.IntN(4) { //nolint:gosec // a test
		case 0:
			r.BlkioThrottleReadBpsDevice, l.BlkioThrottleReadBpsDevice = throttled, library
		case 1:
			r.BlkioThrottleWriteBpsDevice, l.BlkioThrottleWriteBpsDevice = throttled, library
		case 2:
			r.BlkioThrottleReadIOPSDevice, l.BlkioThrottleReadIOPSDevice = throttled, library
		default:
			r.BlkioThrottleWriteIOPSDevice, l.BlkioThrottleWriteIOPSDevice = throttled, library
		}
		r.BlkioWeightDevice = []specs.LinuxWeightDevice{{LinuxBlockIODevice: d, Weight: new(uint16(20)), LeafWeight: new(uint16(30))}}
		l.BlkioWeightDevice = []*lib.WeightDevice{lib.NewWeightDevice(8, 16, 20, 30)}
	}
	return r, l
}

// The files have in them what the library that runc uses would have written, and it fails where that fails.
func TestSetAsTheLibrary(t *testing.T) {
	lib.TestMode = true
	defer func() { lib.TestMode = false }()
	failed := 0
	for range 40 {
		r, l := randomResources()
		dir, want := fake(t), fake(t)
		err := Set(dir, r)
		m, wantErr := lib2.NewManager(&lib.Cgroup{Resources: &lib.Resources{}}, want)
		if wantErr == nil {
			wantErr = m.Set(l)
		}
		require.Equal(t, wantErr == nil, err == nil, "%v, the library: %v (%+v)", err, wantErr, r)
		require.Equal(t, contents(t, want), contents(t, dir), "%+v", r)
		if err != nil {
			failed++
		}
	}
	require.NotZero(t, failed)
}

func TestSetLegacyAsTheLibrary(t *testing.T) {
	lib.TestMode = true
	defer func() { lib.TestMode = false }()
	for range 40 {
		r, l := randomResources()
		l.Unified = nil // which version 1 has not
		dir, want := fake(t), fake(t)
		dirs, wantDirs := make(map[string]string), make(map[string]string)
		for _, c := range []string{"cpuset", "memory", "cpu", "pids", "blkio", "hugetlb", "rdma", "net_cls", "net_prio"} {
			dirs[c], wantDirs[c] = dir, want
		}
		err := SetLegacy(dirs, r)
		m, wantErr := lib1.NewManager(&lib.Cgroup{Resources: l}, wantDirs)
		if wantErr == nil {
			if wantErr = m.Apply(-1); wantErr == nil {
				wantErr = m.Set(l)
			}
		}
		require.Equal(t, wantErr == nil, err == nil, "%v, the library: %v (%+v)", err, wantErr, r)
		if err == nil {
			require.Equal(t, contents(t, want), contents(t, dir), "%+v", r)
		}
	}
}

// What the kernel tells of a cgroup of this machine reads as the library reads it.
func TestReadAsTheLibrary(t *testing.T) {
	testenv.RequireRoot(t)
	read := 0
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "blkio", "cpuset", "hugetlb"} {
		dir := child(t, "/sys/fs/cgroup/"+c)
		if dir == "" {
			continue
		}
		read++
		m, err := lib1.NewManager(&lib.Cgroup{Resources: &lib.Resources{}}, map[string]string{c: dir})
		require.NoError(t, err)
		if c == "cpuset" {
			require.NoError(t, SetLegacy(map[string]string{c: dir}, &Resources{}))
		}
		want, err := m.GetStats()
		require.NoError(t, err)
		s := &Stats{Hugetlb: make(map[string]MemoryEntry)}
		require.NoError(t, ReadLegacy(map[string]string{c: dir}, s))
		same(t, want, s)
	}
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		dir := child(t, root)
		if _, err := os.Stat(root + "/cgroup.controllers"); err != nil || dir == "" {
			continue
		}
		read++
		m, err := lib2.NewManager(&lib.Cgroup{Resources: &lib.Resources{}}, dir)
		require.NoError(t, err)
		want, err := m.GetStats()
		require.NoError(t, err)
		s, err := Read(dir)
		require.NoError(t, err)
		same(t, want, s)
	}
	require.NotZero(t, read, "this machine has no cgroups: nothing is tested")
}

// child makes a cgroup below a root, "" if that is none.
func child(t *testing.T, root string) string {
	t.Helper()
	if _, err := os.Stat(root + "/cgroup.procs"); err != nil {
		return ""
	}
	dir := filepath.Join(root, "tarn-test-stats-"+filepath.Base(t.TempDir())+fmt.Sprint(os.Getpid()))
	require.NoError(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.Remove(dir)) })
	return dir
}

// same compares what does not change from one moment to the next.
func same(t *testing.T, want *lib.Stats, s *Stats) {
	t.Helper()
	require.Len(t, s.CPU.Usage.Percpu, len(want.CpuStats.CpuUsage.PercpuUsage))
	require.Len(t, s.CPU.Usage.PercpuUser, len(want.CpuStats.CpuUsage.PercpuUsageInUsermode))
	near(t, want.CpuStats.CpuUsage.TotalUsage, s.CPU.Usage.Total)
	near(t, want.CpuStats.CpuUsage.UsageInUsermode, s.CPU.Usage.User)
	near(t, want.CpuStats.CpuUsage.UsageInKernelmode, s.CPU.Usage.Kernel)
	require.Equal(t, want.CPUSetStats, lib.CPUSetStats(s.CPUSet))
	near(t, want.MemoryStats.Usage.Usage, s.Memory.Usage.Usage)
	near(t, want.MemoryStats.SwapUsage.Usage, s.Memory.Swap.Usage)
	require.Equal(t, want.MemoryStats.Usage.Limit, s.Memory.Usage.Limit)
	require.Equal(t, want.MemoryStats.SwapUsage.Limit, s.Memory.Swap.Limit)
	require.Len(t, s.Memory.Raw, len(want.MemoryStats.Stats))
	near(t, want.PidsStats.Current, s.Pids.Current)
	require.Equal(t, want.PidsStats.Limit, s.Pids.Limit)
	require.Len(t, s.Blkio.ServiceBytes, len(want.BlkioStats.IoServiceBytesRecursive))
	require.Len(t, s.Blkio.Serviced, len(want.BlkioStats.IoServicedRecursive))
	require.Len(t, s.Hugetlb, len(want.HugetlbStats))
}

func near(t *testing.T, want, got uint64) {
	t.Helper()
	require.InEpsilon(t, float64(want)+1000, float64(got)+1000, 0.1, fmt.Sprint(want, " and ", got))
}
