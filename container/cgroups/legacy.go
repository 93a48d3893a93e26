package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// SetLegacy sets limits of cgroups of version 1: dirs are their directories by controller.
func SetLegacy(dirs map[string]string, r *Resources) error {
	for _, set := range []struct {
		controller string
		limits     func(*writer, *Resources)
	}{
		{"cpuset", legacyCpuset},
		{"memory", legacyMemory},
		{"cpu", legacyCPU},
		{"pids", legacyPids},
		{"blkio", legacyIO},
		{"hugetlb", func(w *writer, r *Resources) { w.hugetlb(r.HugetlbLimit, ".limit_in_bytes") }},
		{"rdma", func(w *writer, r *Resources) { w.rdma(r.Rdma) }},
		{"net_cls", func(w *writer, r *Resources) { w.number("net_cls.classid", int64(r.NetClsClassid)) }},
		{"net_prio", legacyNetPrio},
	} {
		if dirs[set.controller] == "" {
			continue
		}
		w := &writer{dir: dirs[set.controller]}
		if set.limits(w, r); w.err != nil {
			return w.err
		}
	}
	return nil
}

func legacyPids(w *writer, r *Resources) {
	if r.PidsLimit != nil {
		w.write("pids.max", pidsMax(*r.PidsLimit))
	}
}

func legacyNetPrio(w *writer, r *Resources) {
	for _, p := range r.NetPrioIfpriomap {
		w.write("net_prio.ifpriomap", p.Name+" "+strconv.FormatUint(uint64(p.Priority), 10))
	}
}

const (
	memoryLimit = "memory.limit_in_bytes"
	bothLimit   = "memory.memsw.limit_in_bytes"
)

func legacyMemory(w *writer, r *Resources) {
	both := r.MemorySwap
	if r.Memory == -1 && both == 0 && w.has(bothLimit) {
		both = -1
	}
	// That of both is never less than that of memory, also between two writes.
	if r.Memory != 0 && both != 0 && w.raises(both) {
		w.number(bothLimit, both)
		w.legacyMemoryLimit(r.Memory)
	} else {
		w.legacyMemoryLimit(r.Memory)
		w.number(bothLimit, both)
	}
	w.number("memory.soft_limit_in_bytes", r.MemoryReservation)
	if r.OomKillDisable {
		w.write("memory.oom_control", "1")
	}
	if s := r.MemorySwappiness; s != nil && int64(*s) != -1 {
		if *s > 100 && w.err == nil {
			w.err = fmt.Errorf("memory swappiness %d is not from 0 to 100", *s)
		}
		w.write("memory.swappiness", strconv.FormatUint(*s, 10))
	}
}

// raises tells whether a limit of memory and swap is more than that of memory now.
func (w *writer) raises(both int64) bool {
	if both == -1 || w.err != nil {
		return true
	}
	now, err := readNumber(w.dir, memoryLimit)
	w.err = err
	return now < uint64(both)
}

func (w *writer) legacyMemoryLimit(limit int64) {
	w.number(memoryLimit, limit)
	if errors.Is(w.err, syscall.EBUSY) {
		used, _ := readNumber(w.dir, "memory.usage_in_bytes")
		w.err = fmt.Errorf("a memory limit of %d bytes is less than what is used: %d: %w", limit, used, w.err)
	}
}

func legacyCPU(w *writer, r *Resources) {
	if r.CpuShares != 0 {
		w.write("cpu.shares", strconv.FormatUint(r.CpuShares, 10))
		if w.err == nil {
			w.checkShares(r.CpuShares)
		}
	}
	var burst string
	if r.CpuBurst != nil && w.has("cpu.cfs_burst_us") { // since Linux 5.14
		burst = strconv.FormatUint(*r.CpuBurst, 10)
	}
	w.retry(setting{"cpu.cfs_quota_us", nonZero(r.CpuQuota)}, setting{"cpu.cfs_period_us", nonZero(r.CpuPeriod)}, setting{"cpu.cfs_burst_us", burst})
	if r.CPUIdle != nil {
		w.write("cpu.idle", strconv.FormatInt(*r.CPUIdle, 10))
	}
	w.retry(setting{"cpu.rt_runtime_us", nonZero(r.CpuRtRuntime)}, setting{"cpu.rt_period_us", nonZero(r.CpuRtPeriod)})
}

// checkShares refuses what the kernel has silently made something else of.
func (w *writer) checkShares(wanted uint64) {
	got, err := readNumber(w.dir, "cpu.shares")
	switch {
	case err != nil:
		w.err = err
	case wanted > got:
		w.err = fmt.Errorf("cpu shares: the most is %d", got)
	case wanted < got:
		w.err = fmt.Errorf("cpu shares: the least is %d", got)
	}
}

func legacyIO(w *writer, r *Resources) {
	weight := "blkio.weight"
	if !w.has(weight) {
		weight = "blkio.bfq.weight"
	}
	w.number(weight, int64(r.BlkioWeight))
	w.number("blkio.leaf_weight", int64(r.BlkioLeafWeight))
	for _, d := range r.BlkioWeightDevice {
		if d.Weight != nil && *d.Weight != 0 {
			w.write(weight+"_device", device(d.LinuxBlockIODevice)+strconv.FormatUint(uint64(*d.Weight), 10))
		}
		if d.LeafWeight != nil && *d.LeafWeight != 0 {
			w.write("blkio.leaf_weight_device", device(d.LinuxBlockIODevice)+strconv.FormatUint(uint64(*d.LeafWeight), 10))
		}
	}
	for _, t := range r.throttles() {
		for _, d := range t.devices {
			w.write("blkio.throttle."+t.legacy+"_device", device(d.LinuxBlockIODevice)+strconv.FormatUint(d.Rate, 10))
		}
	}
}

// legacyCpuset gives the cgroup processors and memory nodes, without which no process can be in it: those it
// is to have, or else its parent's, which need them as well.
func legacyCpuset(w *writer, r *Resources) {
	w.err = inheritCpuset(filepath.Dir(w.dir))
	for _, s := range [][2]string{{"cpuset.cpus", r.CpusetCpus}, {"cpuset.mems", r.CpusetMems}} {
		if s[1] != "" {
			w.write(s[0], s[1])
		}
	}
	if w.err == nil {
		w.err = inheritCpuset(w.dir)
	}
}

// inheritCpuset does so for a cgroup and those above it, but for the root, which has all.
func inheritCpuset(dir string) error {
	parent := filepath.Dir(dir)
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		above, err := os.ReadFile(filepath.Join(parent, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // dir is the root
		}
		if err != nil {
			return err
		}
		own, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(own)) != "" {
			continue
		}
		if strings.TrimSpace(string(above)) == "" {
			if err := inheritCpuset(parent); err != nil {
				return err
			}
			if above, err = os.ReadFile(filepath.Join(parent, name)); err != nil {
				return err
			}
		}
		if err := write(filepath.Join(dir, name), strings.TrimSpace(string(above))); err != nil {
			return err
		}
	}
	return nil
}
