package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Stats is what a container uses, called as "runc events" calls it.
type Stats struct {
	CPU     CPU                    `json:"cpu"`
	CPUSet  CPUSet                 `json:"cpuset"`
	Memory  Memory                 `json:"memory"`
	Pids    Pids                   `json:"pids"`
	Blkio   Blkio                  `json:"blkio"`
	Hugetlb map[string]MemoryEntry `json:"hugetlb"`
}

// CPU is the time of processors, in nanoseconds.
type CPU struct {
	Usage struct {
		Total        uint64   `json:"total,omitempty"`
		Percpu       []uint64 `json:"percpu,omitempty"`
		PercpuKernel []uint64 `json:"percpu_kernel,omitempty"`
		PercpuUser   []uint64 `json:"percpu_user,omitempty"`
		Kernel       uint64   `json:"kernel"`
		User         uint64   `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
}

// CPUSet is which processors and memory nodes may be used: version 1 alone tells.
type CPUSet struct {
	CPUs                  []uint16 `json:"cpus,omitempty"`
	CPUExclusive          uint64   `json:"cpu_exclusive"`
	Mems                  []uint16 `json:"mems,omitempty"`
	MemHardwall           uint64   `json:"mem_hardwall"`
	MemExclusive          uint64   `json:"mem_exclusive"`
	MemoryMigrate         uint64   `json:"memory_migrate"`
	MemorySpreadPage      uint64   `json:"memory_spread_page"`
	MemorySpreadSlab      uint64   `json:"memory_spread_slab"`
	MemoryPressure        uint64   `json:"memory_pressure"`
	SchedLoadBalance      uint64   `json:"sched_load_balance"`
	SchedRelaxDomainLevel int64    `json:"sched_relax_domain_level"`
}

// MemoryEntry is one kind of memory, in bytes; a limit of all there is stands for none.
type MemoryEntry struct {
	Limit   uint64 `json:"limit,omitempty"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// Memory is memory by kinds; Swap is memory and swap together.
type Memory struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     MemoryEntry       `json:"usage"`
	Swap      MemoryEntry       `json:"swap"`
	Kernel    MemoryEntry       `json:"kernel"`
	KernelTCP MemoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
}

// Pids is how many processes and threads there are; a limit of 0 is none.
type Pids struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

// BlkioEntry is a number of one device.
type BlkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

// Blkio is what was read and written.
type Blkio struct {
	ServiceBytes []BlkioEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced     []BlkioEntry `json:"ioServicedRecursive,omitempty"`
	Queued       []BlkioEntry `json:"ioQueueRecursive,omitempty"`
	ServiceTime  []BlkioEntry `json:"ioServiceTimeRecursive,omitempty"`
	WaitTime     []BlkioEntry `json:"ioWaitTimeRecursive,omitempty"`
	Merged       []BlkioEntry `json:"ioMergedRecursive,omitempty"`
	Time         []BlkioEntry `json:"ioTimeRecursive,omitempty"`
	Sectors      []BlkioEntry `json:"sectorsRecursive,omitempty"`
}

// reader reads files of a cgroup until one cannot be read. What is not there is 0: the controller may
// not be enabled, the kernel older.
type reader struct {
	dir string
	err error
}

func (r *reader) text(name string) string {
	if r.err != nil {
		return ""
	}
	text, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.err = err
	}
	return strings.TrimSpace(string(text))
}

func (r *reader) number(name string) uint64 { return r.parse(name, r.text(name)) }

// parse reads a number; "max" is the greatest there is. The kernel's counters may be negative for a moment.
func (r *reader) parse(name, text string) uint64 {
	switch {
	case text == "", strings.HasPrefix(text, "-"):
		return 0
	case text == "max":
		return math.MaxUint64
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", filepath.Join(r.dir, name), err)
	}
	return n
}

// keyed reads lines of a name and a number.
func (r *reader) keyed(name string) map[string]uint64 {
	values := make(map[string]uint64)
	for line := range strings.Lines(r.text(name)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			values[key] = r.parse(name, value)
		}
	}
	return values
}

// numbers reads a list of numbers.
func (r *reader) numbers(name string) []uint64 {
	var all []uint64
	for field := range strings.FieldsSeq(r.text(name)) {
		all = append(all, r.parse(name, field))
	}
	return all
}

func readNumber(dir, name string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, err
	}
	r := reader{dir: dir}
	return r.parse(name, strings.TrimSpace(string(text))), r.err
}

// Read gives what is used by a cgroup of version 2.
func Read(dir string) (*Stats, error) {
	r, s := &reader{dir: dir}, &Stats{Hugetlb: make(map[string]MemoryEntry)}
	cpu := r.keyed("cpu.stat")
	const usec = 1000
	s.CPU.Usage.Total, s.CPU.Usage.User, s.CPU.Usage.Kernel = cpu["usage_usec"]*usec, cpu["user_usec"]*usec, cpu["system_usec"]*usec
	s.CPU.Throttling.Periods, s.CPU.Throttling.ThrottledPeriods = cpu["nr_periods"], cpu["nr_throttled"]
	s.CPU.Throttling.ThrottledTime = cpu["throttled_usec"] * usec

	s.Memory.Raw = r.keyed("memory.stat")
	s.Memory.Cache = s.Memory.Raw["file"]
	s.Memory.Usage = MemoryEntry{Usage: r.number("memory.current"), Limit: r.number("memory.max"), Max: r.number("memory.peak")}
	if swap := r.text("memory.swap.max"); swap != "" {
		s.Memory.Swap = MemoryEntry{Usage: r.number("memory.swap.current") + s.Memory.Usage.Usage, Limit: r.parse("memory.swap.max", swap)}
		if s.Memory.Swap.Limit != math.MaxUint64 {
			s.Memory.Swap.Limit += s.Memory.Usage.Limit
		}
	}
	s.Pids = r.pids()
	if s.Pids.Current == 0 { // no controller
		s.Pids.Current = uint64(len(r.numbers("cgroup.procs")))
	}
	r.io(&s.Blkio)
	for _, size := range pageSizes() {
		prefix := "hugetlb." + size
		used := prefix + ".rsvd.current"
		if r.text(used) == "" {
			used = prefix + ".current"
		}
		if r.text(used) != "" {
			s.Hugetlb[size] = MemoryEntry{Usage: r.number(used), Failcnt: r.keyed(prefix + ".events")["max"]}
		}
	}
	return s, r.err
}

func (r *reader) pids() Pids {
	p := Pids{Current: r.number("pids.current"), Limit: r.number("pids.max")}
	if p.Limit == math.MaxUint64 {
		p.Limit = 0
	}
	return p
}

// io reads io.stat, whose numbers version 1 has in files of their own.
func (r *reader) io(b *Blkio) {
	for line := range strings.Lines(r.text("io.stat")) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		major, minor, ok := strings.Cut(fields[0], ":")
		if !ok {
			continue
		}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			e := BlkioEntry{Major: r.parse("io.stat", major), Minor: r.parse("io.stat", minor), Op: "Read"}
			if strings.HasPrefix(key, "w") {
				e.Op = "Write"
			}
			switch key {
			case "rbytes", "wbytes":
				e.Value = r.parse("io.stat", value)
				b.ServiceBytes = append(b.ServiceBytes, e)
			case "rios", "wios":
				e.Value = r.parse("io.stat", value)
				b.Serviced = append(b.Serviced, e)
			}
		}
	}
}

// pageSizes are those of huge pages, as the names of cgroups' files have them.
func pageSizes() []string {
	entries, _ := os.ReadDir("/sys/kernel/mm/hugepages")
	var sizes []string
	for _, e := range entries {
		kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"))
		switch {
		case err != nil:
		case kb >= 1<<20:
			sizes = append(sizes, strconv.Itoa(kb>>20)+"GB")
		case kb >= 1<<10:
			sizes = append(sizes, strconv.Itoa(kb>>10)+"MB")
		default:
			sizes = append(sizes, strconv.Itoa(kb)+"KB")
		}
	}
	slices.Sort(sizes)
	return sizes
}
