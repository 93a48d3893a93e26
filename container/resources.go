package container

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container/cgroups"
)

// controller is a cgroup controller: its name in version 2 ("" if that has none) and in version 1, and
// what of a specification it takes. fill tells whether there was anything.
type controller struct {
	name, legacy string
	fill         func(to *cgroups.Resources, from *specs.LinuxResources) bool
}

// controllers are all that a specification can set limits of, but devices.
func controllers() []controller {
	return []controller{
		{"memory", "memory", fillMemory},
		{"cpu", "cpu", fillCPU},
		{"cpuset", "cpuset", fillCpuset},
		{"pids", "pids", fillPids},
		{"io", "blkio", fillIO},
		{"hugetlb", "hugetlb", fillHugetlb},
		{"rdma", "rdma", fillRdma},
		{"", "net_cls", fillNetCls},
		{"", "net_prio", fillNetPrio},
	}
}

// limits are the limits of a specification, sorted by where the host has the controllers: on a
// hybrid host each is in the one version or the other.
type limits struct {
	unified     cgroups.Resources
	controllers []string // those of version 2 that are needed

	legacy     cgroups.Resources
	subsystems []string // those of version 1
	// tcp is a limit of the memory of TCP's buffers, which version 1 alone has.
	tcp *int64
}

const tcpFile = "/memory.kmem.tcp.limit_in_bytes"

func hasTCPLimit() bool {
	_, err := os.Stat(cgroupRoot + "/memory" + tcpFile)
	return err == nil
}

func (l *limits) empty() bool {
	return len(l.controllers)+len(l.subsystems)+len(l.unified.Unified) == 0
}

// sortLimits fails if the host has no controller for something.
func sortLimits(h hierarchies, r *specs.LinuxResources) (*limits, error) {
	l := &limits{}
	if r == nil {
		return l, nil
	}
	none := func(c controller) bool { return !c.fill(&cgroups.Resources{}, r) }
	needed := slices.DeleteFunc(controllers(), none)
	if len(needed)+len(r.Unified) == 0 {
		return l, nil
	}
	available, err := h.unifiedControllers()
	if err != nil {
		return nil, err
	}
	for _, c := range needed {
		switch {
		case slices.Contains(available, c.name):
			if c.name == "cpu" && hasRealtime(r.CPU) {
				return nil, fmt.Errorf("cpu limits for realtime: %w by cgroup v2", ErrUnsupported)
			}
			c.fill(&l.unified, r)
			l.controllers = append(l.controllers, c.name)
		case h.legacyOf(c.legacy) != nil:
			c.fill(&l.legacy, r)
			l.subsystems = append(l.subsystems, c.legacy)
		default:
			return nil, fmt.Errorf("%s limits: %w by this machine: it has no such cgroup controller", cmp.Or(c.name, c.legacy), ErrUnsupported)
		}
	}
	if m := r.Memory; m != nil && m.KernelTCP != nil && slices.Contains(l.subsystems, "memory") && hasTCPLimit() {
		l.tcp = m.KernelTCP
	}
	return l, l.addUnified(h, r.Unified, available)
}

// addUnified takes what is to be written to files of cgroup2 as it is.
func (l *limits) addUnified(h hierarchies, files map[string]string, available []string) error {
	if len(files) == 0 {
		return nil
	}
	if h.unified.mount == "" {
		return fmt.Errorf("unified resources: %w: this machine has no cgroup2 hierarchy", ErrUnsupported)
	}
	l.unified.Unified = maps.Clone(files)
	for name := range files {
		// A slash would lead to another cgroup, and these files move processes.
		prefix, _, ok := strings.Cut(name, ".")
		switch {
		case !ok || strings.Contains(name, "/") || name == "cgroup.procs" || name == "cgroup.threads":
			return fmt.Errorf("unified resource %q: %w", name, ErrSpec)
		case prefix == "cgroup":
		case slices.Contains(available, prefix):
			l.controllers = append(l.controllers, prefix)
		default:
			return fmt.Errorf("unified resource %q: %w by this machine: it has no such controller in cgroup v2", name, ErrUnsupported)
		}
	}
	return nil
}

// apply sets the limits of a cgroup that has the controllers.
func (l *limits) apply(c *cgroup) error {
	var err error
	if len(l.controllers)+len(l.unified.Unified) > 0 {
		err = cgroups.Set(c.dir, &l.unified)
	}
	if err == nil && len(l.subsystems) > 0 {
		dirs := make(map[string]string)
		for _, name := range l.subsystems {
			dirs[name] = c.legacyDir(name)
		}
		err = cgroups.SetLegacy(dirs, &l.legacy)
	}
	if err == nil && l.tcp != nil {
		err = writeCgroup(c.legacyDir("memory")+tcpFile, strconv.FormatInt(*l.tcp, 10))
	}
	if err != nil {
		return fmt.Errorf("set limits: %w", err)
	}
	return nil
}

// fillMemory leaves out Kernel, which kernels have no more (see Warnings), and KernelTCP (see limits).
func fillMemory(to *cgroups.Resources, from *specs.LinuxResources) bool {
	m := from.Memory
	if m == nil {
		return false
	}
	set(&to.Memory, m.Limit)
	set(&to.MemoryReservation, m.Reservation)
	set(&to.MemorySwap, m.Swap)
	set(&to.OomKillDisable, m.DisableOOMKiller)
	set(&to.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	to.MemorySwappiness = m.Swappiness
	return to.Memory != 0 || to.MemoryReservation != 0 || to.MemorySwap != 0 || to.OomKillDisable || m.Swappiness != nil ||
		m.KernelTCP != nil
}

func fillCPU(to *cgroups.Resources, from *specs.LinuxResources) bool {
	c := from.CPU
	if c == nil {
		return false
	}
	set(&to.CpuShares, c.Shares)
	set(&to.CpuQuota, c.Quota)
	set(&to.CpuPeriod, c.Period)
	set(&to.CpuRtRuntime, c.RealtimeRuntime)
	set(&to.CpuRtPeriod, c.RealtimePeriod)
	to.CpuBurst, to.CPUIdle = c.Burst, c.Idle
	return to.CpuShares != 0 || to.CpuQuota != 0 || to.CpuPeriod != 0 || hasRealtime(c) || c.Burst != nil || c.Idle != nil
}

func hasRealtime(c *specs.LinuxCPU) bool {
	return c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 || c.RealtimePeriod != nil && *c.RealtimePeriod != 0
}

func fillCpuset(to *cgroups.Resources, from *specs.LinuxResources) bool {
	if from.CPU == nil {
		return false
	}
	to.CpusetCpus, to.CpusetMems = from.CPU.Cpus, from.CPU.Mems
	return to.CpusetCpus != "" || to.CpusetMems != ""
}

// fillPids takes 0 for no limit, as Docker and runc do, whose specifications have it in them.
func fillPids(to *cgroups.Resources, from *specs.LinuxResources) bool {
	if from.Pids == nil || from.Pids.Limit == nil || *from.Pids.Limit == 0 {
		return false
	}
	to.PidsLimit = from.Pids.Limit
	return true
}

func fillIO(to *cgroups.Resources, from *specs.LinuxResources) bool {
	b := from.BlockIO
	if b == nil {
		return false
	}
	set(&to.BlkioWeight, b.Weight)
	set(&to.BlkioLeafWeight, b.LeafWeight)
	to.BlkioWeightDevice = b.WeightDevice
	to.BlkioThrottleReadBpsDevice, to.BlkioThrottleWriteBpsDevice = b.ThrottleReadBpsDevice, b.ThrottleWriteBpsDevice
	to.BlkioThrottleReadIOPSDevice, to.BlkioThrottleWriteIOPSDevice = b.ThrottleReadIOPSDevice, b.ThrottleWriteIOPSDevice
	return to.BlkioWeight != 0 || to.BlkioLeafWeight != 0 || len(b.WeightDevice) > 0 ||
		len(b.ThrottleReadBpsDevice)+len(b.ThrottleWriteBpsDevice)+len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice) > 0
}

func fillHugetlb(to *cgroups.Resources, from *specs.LinuxResources) bool {
	to.HugetlbLimit = from.HugepageLimits
	return len(from.HugepageLimits) > 0
}

func fillRdma(to *cgroups.Resources, from *specs.LinuxResources) bool {
	to.Rdma = from.Rdma
	return len(from.Rdma) > 0
}

func fillNetCls(to *cgroups.Resources, from *specs.LinuxResources) bool {
	if from.Network == nil {
		return false
	}
	set(&to.NetClsClassid, from.Network.ClassID)
	return to.NetClsClassid != 0
}

func fillNetPrio(to *cgroups.Resources, from *specs.LinuxResources) bool {
	if from.Network == nil {
		return false
	}
	to.NetPrioIfpriomap = from.Network.Priorities
	return len(from.Network.Priorities) > 0
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
