package cgroups

import (
	"strings"
)

// ReadLegacy adds to s what controllers of version 1 count; dirs are the directories by controller.
func ReadLegacy(dirs map[string]string, s *Stats) error {
	for controller, dir := range dirs {
		r := &reader{dir: dir}
		switch controller {
		case "cpu":
			cpu := r.keyed("cpu.stat")
			s.CPU.Throttling.Periods, s.CPU.Throttling.ThrottledPeriods = cpu["nr_periods"], cpu["nr_throttled"]
			s.CPU.Throttling.ThrottledTime = cpu["throttled_time"]
		case "cpuacct":
			r.cpuacct(s)
		case "memory":
			r.legacyMemory(&s.Memory)
		case "pids":
			s.Pids = r.pids()
		case "blkio":
			s.Blkio = r.blkio()
		case "cpuset":
			s.CPUSet = r.cpuset()
		case "hugetlb":
			for _, size := range pageSizes() {
				prefix := "hugetlb." + size + ".rsvd"
				if r.text(prefix+".usage_in_bytes") == "" {
					prefix = "hugetlb." + size
				}
				s.Hugetlb[size] = MemoryEntry{
					Usage: r.number(prefix + ".usage_in_bytes"), Max: r.number(prefix + ".max_usage_in_bytes"), Failcnt: r.number(prefix + ".failcnt"),
				}
			}
		}
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

func (r *reader) cpuacct(s *Stats) {
	u := &s.CPU.Usage
	u.Total, u.Percpu = r.number("cpuacct.usage"), r.numbers("cpuacct.usage_percpu")
	const tick = 1e9 / 100 // USER_HZ is 100 on all machines that Go knows
	stat := r.keyed("cpuacct.stat")
	u.User, u.Kernel = stat["user"]*tick, stat["system"]*tick
	for line := range strings.Lines(r.text("cpuacct.usage_all")) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] == "cpu" {
			continue
		}
		u.PercpuUser = append(u.PercpuUser, r.parse("cpuacct.usage_all", fields[1]))
		u.PercpuKernel = append(u.PercpuKernel, r.parse("cpuacct.usage_all", fields[2]))
	}
}

func (r *reader) legacyMemory(m *Memory) {
	entry := func(name string) MemoryEntry {
		return MemoryEntry{
			Usage: r.number(name + ".usage_in_bytes"), Max: r.number(name + ".max_usage_in_bytes"),
			Failcnt: r.number(name + ".failcnt"), Limit: r.number(name + ".limit_in_bytes"),
		}
	}
	m.Raw = r.keyed("memory.stat")
	m.Cache = m.Raw["cache"]
	m.Usage, m.Swap, m.Kernel, m.KernelTCP = entry("memory"), entry("memory.memsw"), entry("memory.kmem"), entry("memory.kmem.tcp")
}

// blkio reads the files of the first kind that there is: those of the BFQ scheduler, of CFQ (before Linux
// 5.0), or of the throttler.
func (r *reader) blkio() Blkio {
	var b Blkio
	for _, prefix := range []string{"blkio.bfq.", "blkio."} {
		if b.Serviced = r.entries(prefix + "io_serviced_recursive"); b.Serviced == nil {
			continue
		}
		b.ServiceBytes, b.Queued = r.entries(prefix+"io_service_bytes_recursive"), r.entries(prefix+"io_queued_recursive")
		b.ServiceTime, b.WaitTime = r.entries(prefix+"io_service_time_recursive"), r.entries(prefix+"io_wait_time_recursive")
		b.Merged, b.Time = r.entries(prefix+"io_merged_recursive"), r.entries(prefix+"time_recursive")
		b.Sectors = r.entries(prefix + "sectors_recursive")
		return b
	}
	for _, suffix := range []string{"_recursive", ""} {
		if b.Serviced = r.entries("blkio.throttle.io_serviced" + suffix); b.Serviced != nil {
			b.ServiceBytes = r.entries("blkio.throttle.io_service_bytes" + suffix)
			return b
		}
	}
	return b
}

// entries reads lines of a device, an operation (which some have not) and a number; the total is left out.
func (r *reader) entries(name string) []BlkioEntry {
	var all []BlkioEntry
	for line := range strings.Lines(r.text(name)) {
		f := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == ':' || c == '\n' })
		if len(f) < 3 {
			continue
		}
		e := BlkioEntry{Major: r.parse(name, f[0]), Minor: r.parse(name, f[1]), Value: r.parse(name, f[len(f)-1])}
		if len(f) > 3 {
			e.Op = f[2]
		}
		all = append(all, e)
	}
	return all
}

func (r *reader) cpuset() CPUSet {
	number := func(name string) uint64 { return r.number("cpuset." + name) }
	c := CPUSet{
		CPUs: r.ranges("cpuset.cpus"), Mems: r.ranges("cpuset.mems"),
		CPUExclusive: number("cpu_exclusive"), MemHardwall: number("mem_hardwall"), MemExclusive: number("mem_exclusive"),
		MemoryMigrate: number("memory_migrate"), MemorySpreadPage: number("memory_spread_page"),
		MemorySpreadSlab: number("memory_spread_slab"), MemoryPressure: number("memory_pressure"),
		SchedLoadBalance: number("sched_load_balance"),
	}
	if r.text("cpuset.sched_relax_domain_level") == "-1" {
		c.SchedRelaxDomainLevel = -1
	} else {
		c.SchedRelaxDomainLevel = int64(number("sched_relax_domain_level"))
	}
	return c
}

// ranges reads a list such as "0-2,7".
func (r *reader) ranges(name string) []uint16 {
	var all []uint16
	for part := range strings.SplitSeq(r.text(name), ",") {
		if part == "" {
			continue
		}
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		for n, end := r.parse(name, first), r.parse(name, last); n <= end && n <= 1<<16-1; n++ {
			all = append(all, uint16(n))
		}
	}
	return all
}
