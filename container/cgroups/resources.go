// Package cgroups writes the limits of cgroups, of either version, to their files, and reads what is used.
//
// What is written where, and in which order, is what github.com/opencontainers/cgroups does, which is
// years of runc's bug reports; the tests compare the two. That library brings package net, D-Bus and a logger
// to a program that starts for every container: docs/adr/cgroups.md.
//
// Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1 of the kernel.
package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Resources are limits, as a runtime specification has them. What is 0, nil or "" is left as it is, and
// -1 takes a limit away.
type Resources struct {
	Memory, MemoryReservation, MemorySwap int64 // in bytes; swap is memory and swap together
	OomKillDisable                        bool
	MemoryCheckBeforeUpdate               bool // refuse limits below what is used
	MemorySwappiness                      *uint64

	CpuShares    uint64
	CpuQuota     int64
	CpuPeriod    uint64
	CpuBurst     *uint64
	CpuRtRuntime int64
	CpuRtPeriod  uint64
	CPUIdle      *int64

	CpusetCpus, CpusetMems string

	PidsLimit *int64

	BlkioWeight, BlkioLeafWeight uint16
	BlkioWeightDevice            []specs.LinuxWeightDevice
	BlkioThrottleReadBpsDevice   []specs.LinuxThrottleDevice
	BlkioThrottleWriteBpsDevice  []specs.LinuxThrottleDevice
	BlkioThrottleReadIOPSDevice  []specs.LinuxThrottleDevice
	BlkioThrottleWriteIOPSDevice []specs.LinuxThrottleDevice

	HugetlbLimit     []specs.LinuxHugepageLimit
	Rdma             map[string]specs.LinuxRdma
	NetClsClassid    uint32
	NetPrioIfpriomap []specs.LinuxInterfacePriority
	Unified          map[string]string // files of version 2, as they are to be
}

// writer writes files of a cgroup one after the other, until one fails.
type writer struct {
	dir string
	err error
}

// write writes a file that exists.
func (w *writer) write(name, value string) {
	if w.err == nil {
		w.err = write(filepath.Join(w.dir, name), value)
	}
}

// number writes a number other than 0.
func (w *writer) number(name string, value int64) {
	if value != 0 {
		w.write(name, strconv.FormatInt(value, 10))
	}
}

// unless forgives an error, and tells whether it has.
func (w *writer) unless(forgiven ...error) bool {
	for _, err := range forgiven {
		if errors.Is(w.err, err) {
			w.err = nil
			return true
		}
	}
	return false
}

func (w *writer) has(name string) bool {
	_, err := os.Lstat(filepath.Join(w.dir, name))
	return err == nil
}

func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0) //nolint:gosec // a cgroup of ours
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// setting is a value for a file; "" is not written.
type setting struct{ file, value string }

// retry writes settings, and last of all one on which they depend. What the kernel refuses for what that
// is until then, is written again after it.
func (w *writer) retry(last setting, settings ...setting) {
	var refused []setting
	for _, s := range append(settings, last) {
		if s.value == "" {
			continue
		}
		w.write(s.file, s.value)
		if s != last && last.value != "" && w.unless(syscall.EINVAL) {
			refused = append(refused, s)
		}
	}
	for _, s := range refused {
		w.write(s.file, s.value)
	}
}

func nonZero[T int64 | uint64](n T) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func pidsMax(limit int64) string {
	switch {
	case limit > 0:
		return strconv.FormatInt(limit, 10)
	case limit == 0:
		return "1" // systemd's smallest
	default:
		return "max"
	}
}

func (w *writer) hugetlb(limits []specs.LinuxHugepageLimit, suffix string) {
	for _, l := range limits {
		value := strconv.FormatUint(l.Limit, 10)
		w.write("hugetlb."+l.Pagesize+suffix, value)
		if w.err == nil {
			w.write("hugetlb."+l.Pagesize+".rsvd"+suffix, value)
			w.unless(fs.ErrNotExist) // before Linux 5.7
		}
	}
}

func (w *writer) rdma(limits map[string]specs.LinuxRdma) {
	for device, l := range limits {
		line := device
		if l.HcaHandles != nil {
			line += " hca_handle=" + strconv.FormatUint(uint64(*l.HcaHandles), 10)
		}
		if l.HcaObjects != nil {
			line += " hca_object=" + strconv.FormatUint(uint64(*l.HcaObjects), 10)
		}
		w.write("rdma.max", line)
	}
}

func device(d specs.LinuxBlockIODevice) string {
	return strconv.FormatInt(d.Major, 10) + ":" + strconv.FormatInt(d.Minor, 10) + " "
}

// Set sets limits of a cgroup of version 2, whose controllers are enabled.
func Set(dir string, r *Resources) error {
	w := &writer{dir: dir}
	if r.PidsLimit != nil {
		w.write("pids.max", pidsMax(*r.PidsLimit))
	}
	w.memory(r)
	w.io(r)
	w.cpu(r)
	if r.CpusetCpus != "" {
		w.write("cpuset.cpus", r.CpusetCpus)
	}
	if r.CpusetMems != "" {
		w.write("cpuset.mems", r.CpusetMems)
	}
	w.hugetlb(r.HugetlbLimit, ".max")
	w.rdma(r.Rdma)
	for name, value := range r.Unified {
		for line := range strings.SplitSeq(value, "\n") {
			w.write(name, line)
		}
	}
	return w.err
}

func (w *writer) memory(r *Resources) {
	if r.Memory == 0 && r.MemorySwap == 0 && r.MemoryReservation == 0 {
		return
	}
	if r.MemoryCheckBeforeUpdate && w.err == nil {
		w.err = checkMemory(w.dir, r)
	}
	swap, err := swapAlone(r.MemorySwap, r.Memory)
	if w.err == nil {
		w.err = err
	}
	value := limit(swap)
	if swap == 0 && r.MemorySwap > 0 {
		value = "0" // no more than memory
	}
	if value != "" && w.err == nil {
		w.write("memory.swap.max", value)
		if value == "max" || value == "0" {
			w.unless(fs.ErrNotExist) // a kernel without swap
		}
	}
	if value := limit(r.Memory); value != "" {
		w.write("memory.max", value)
	}
	if value := limit(r.MemoryReservation); value != "" {
		w.write("memory.low", value)
	}
}

// limit is how version 2 has a limit.
func limit(n int64) string {
	if n == -1 {
		return "max"
	}
	return nonZero(n)
}

// checkMemory refuses limits that would have processes killed.
func checkMemory(dir string, r *Resources) error {
	used, err := readNumber(dir, "memory.current")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // nothing is in it yet
		}
		return err
	}
	for _, limit := range []int64{r.MemorySwap, r.Memory} {
		if limit > 0 && uint64(limit) <= used {
			return fmt.Errorf("a memory limit of %d bytes is not more than what is used: %d", limit, used)
		}
	}
	return nil
}

// swapAlone gives the limit of swap without memory.
func swapAlone(both, memory int64) (int64, error) {
	switch {
	case memory == -1 && both == 0:
		return -1, nil
	case both == -1, both == 0, memory == -1:
		return both, nil
	case memory == 0:
		return 0, errors.New("a limit of swap needs one of memory")
	case memory < 0:
		return 0, fmt.Errorf("a memory limit of %d bytes", memory)
	case both < memory:
		return 0, errors.New("the limit of memory and swap is less than that of memory")
	default:
		return both - memory, nil
	}
}

func (w *writer) io(r *Resources) {
	if r.BlkioWeight != 0 || len(r.BlkioWeightDevice) > 0 {
		w.weights(r)
	}
	for _, t := range r.throttles() {
		for _, d := range t.devices {
			w.write("io.max", device(d.LinuxBlockIODevice)+t.key+"="+strconv.FormatUint(d.Rate, 10))
		}
	}
}

// throttle is a limit of devices, with its names in version 2 and in version 1.
type throttle struct {
	key, legacy string
	devices     []specs.LinuxThrottleDevice
}

func (r *Resources) throttles() []throttle {
	return []throttle{
		{"rbps", "read_bps", r.BlkioThrottleReadBpsDevice},
		{"wbps", "write_bps", r.BlkioThrottleWriteBpsDevice},
		{"riops", "read_iops", r.BlkioThrottleReadIOPSDevice},
		{"wiops", "write_iops", r.BlkioThrottleWriteIOPSDevice},
	}
}

// weights are of the BFQ scheduler if there is one. Those of devices it has since Linux 5.4: then its file
// has more than a number in it.
func (w *writer) weights(r *Resources) {
	const file = "io.bfq.weight"
	if !w.has(file) {
		if r.BlkioWeight != 0 { // 10 to 1000 there, 1 to 10000 here
			w.write("io.weight", strconv.FormatUint(1+(uint64(r.BlkioWeight)-10)*9999/990, 10))
		}
		return
	}
	w.number(file, int64(r.BlkioWeight))
	text, err := os.ReadFile(filepath.Join(w.dir, file))
	if err != nil || len(strings.Fields(string(text))) == 1 {
		return
	}
	for _, d := range r.BlkioWeightDevice {
		if d.Weight != nil {
			w.write(file, device(d.LinuxBlockIODevice)+strconv.FormatUint(uint64(*d.Weight), 10)+"\n")
		}
	}
}

func (w *writer) cpu(r *Resources) {
	if r.CPUIdle != nil {
		w.write("cpu.idle", strconv.FormatInt(*r.CPUIdle, 10))
	}
	if r.CpuShares != 0 {
		w.write("cpu.weight", strconv.FormatUint(weightOf(r.CpuShares), 10))
	}
	var burst, most string
	if r.CpuBurst != nil {
		burst = strconv.FormatUint(*r.CpuBurst, 10)
	}
	if r.CpuQuota != 0 || r.CpuPeriod != 0 {
		most = "max"
		if r.CpuQuota > 0 {
			most = strconv.FormatInt(r.CpuQuota, 10)
		}
		const usual = 100000
		period := r.CpuPeriod
		if period == 0 {
			period = usual
		}
		most += " " + strconv.FormatUint(period, 10)
	}
	w.retry(setting{"cpu.max", most}, setting{"cpu.max.burst", burst})
}

// weightOf gives the weight of version 2 for shares of version 1: a curve through the least, the usual and
// the most of both (1, 100, 10000 and 2, 1024, 262144), as runc and crun have it since 2025.
func weightOf(shares uint64) uint64 {
	const least, most = 2, 262144
	switch {
	case shares <= least:
		return 1
	case shares >= most:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}
