package ociruntime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
)

// event is a line of "events"; what is in it is called as runc calls it (its types/events.go).
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

type usage struct {
	CPU     cpuUsage               `json:"cpu"`
	CPUSet  cgroups.CPUSetStats    `json:"cpuset"`
	Memory  memoryUsage            `json:"memory"`
	Pids    pidsUsage              `json:"pids"`
	Blkio   blkioUsage             `json:"blkio"`
	Hugetlb map[string]memoryEntry `json:"hugetlb"`
}

type cpuUsage struct {
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

type memoryEntry struct {
	Limit   uint64 `json:"limit,omitempty"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type memoryUsage struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     memoryEntry       `json:"usage"`
	Swap      memoryEntry       `json:"swap"`
	Kernel    memoryEntry       `json:"kernel"`
	KernelTCP memoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
}

type pidsUsage struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

type blkioUsage struct {
	ServiceBytes []cgroups.BlkioStatEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced     []cgroups.BlkioStatEntry `json:"ioServicedRecursive,omitempty"`
	Queued       []cgroups.BlkioStatEntry `json:"ioQueueRecursive,omitempty"`
	ServiceTime  []cgroups.BlkioStatEntry `json:"ioServiceTimeRecursive,omitempty"`
	WaitTime     []cgroups.BlkioStatEntry `json:"ioWaitTimeRecursive,omitempty"`
	Merged       []cgroups.BlkioStatEntry `json:"ioMergedRecursive,omitempty"`
	Time         []cgroups.BlkioStatEntry `json:"ioTimeRecursive,omitempty"`
	Sectors      []cgroups.BlkioStatEntry `json:"sectorsRecursive,omitempty"`
}

func usageOf(s *cgroups.Stats) usage {
	var u usage
	cpu, throttling := s.CpuStats.CpuUsage, s.CpuStats.ThrottlingData
	u.CPU.Usage.Total, u.CPU.Usage.Percpu = cpu.TotalUsage, cpu.PercpuUsage
	u.CPU.Usage.PercpuKernel, u.CPU.Usage.PercpuUser = cpu.PercpuUsageInKernelmode, cpu.PercpuUsageInUsermode
	u.CPU.Usage.Kernel, u.CPU.Usage.User = cpu.UsageInKernelmode, cpu.UsageInUsermode
	u.CPU.Throttling.Periods, u.CPU.Throttling.ThrottledPeriods = throttling.Periods, throttling.ThrottledPeriods
	u.CPU.Throttling.ThrottledTime = throttling.ThrottledTime
	u.CPUSet = s.CPUSetStats
	u.Memory = memoryUsage{
		Cache: s.MemoryStats.Cache, Usage: entryOf(s.MemoryStats.Usage), Swap: entryOf(s.MemoryStats.SwapUsage),
		Kernel: entryOf(s.MemoryStats.KernelUsage), KernelTCP: entryOf(s.MemoryStats.KernelTCPUsage), Raw: s.MemoryStats.Stats,
	}
	u.Pids = pidsUsage(s.PidsStats)
	io := s.BlkioStats
	u.Blkio = blkioUsage{
		ServiceBytes: io.IoServiceBytesRecursive, Serviced: io.IoServicedRecursive, Queued: io.IoQueuedRecursive,
		ServiceTime: io.IoServiceTimeRecursive, WaitTime: io.IoWaitTimeRecursive, Merged: io.IoMergedRecursive,
		Time: io.IoTimeRecursive, Sectors: io.SectorsRecursive,
	}
	u.Hugetlb = make(map[string]memoryEntry)
	for size, h := range s.HugetlbStats {
		u.Hugetlb[size] = memoryEntry{Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt}
	}
	return u
}

func entryOf(m cgroups.MemoryData) memoryEntry {
	return memoryEntry{Limit: m.Limit, Usage: m.Usage, Max: m.MaxUsage, Failcnt: m.Failcnt}
}

func events(ctx context.Context, r *runtime, args []string) (int, error) {
	var once bool
	var interval time.Duration
	flags := newFlags("events")
	flags.BoolVar(&once, "stats", false, "print what the container uses now, and end")
	flags.DurationVar(&interval, "interval", 5*time.Second, "print it every `duration`, until the container ends")
	rest, err := parse(flags, args, 1, 1)
	if err != nil {
		return 1, err
	}
	if interval <= 0 {
		return 1, fmt.Errorf("%w: the interval must be more than 0", errUsage)
	}
	rec, err := r.read(rest[0])
	if err != nil {
		return 1, err
	}
	if status, err := r.status(rec); err != nil {
		return 1, err
	} else if status == specs.StateStopped {
		return 1, errNotRunning(rec.ID)
	}
	if once {
		return 0, printUsage(rec)
	}
	return 0, r.watch(ctx, rec, interval)
}

func printUsage(rec record) error {
	stats, err := container.Stats(rec.Cgroup)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(event{"stats", rec.ID, usageOf(stats)})
}

// watch prints what the container uses again and again, and each time a process of it was killed for
// want of memory.
func (r *runtime) watch(ctx context.Context, rec record, interval time.Duration) error {
	killed, err := container.OOMKills(rec.Cgroup)
	if err != nil {
		return err
	}
	next := time.Now()
	for {
		if status, err := r.status(rec); err != nil || status == specs.StateStopped {
			return err
		}
		now, err := container.OOMKills(rec.Cgroup)
		if err != nil {
			return err
		}
		for ; killed < now; killed++ {
			if err := json.NewEncoder(os.Stdout).Encode(event{Type: "oom", ID: rec.ID}); err != nil {
				return err
			}
		}
		if !time.Now().Before(next) {
			if err := printUsage(rec); err != nil {
				return err
			}
			next = next.Add(interval)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(time.Second, time.Until(next))):
		}
	}
}
