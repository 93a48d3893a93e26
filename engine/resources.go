package engine

import (
	"errors"
	"fmt"
	"math/big"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
)

// Resources are what a container may use, with Docker's names. Zero, and nil, is no limit.
type Resources struct {
	CpuShares            int64
	Memory               int64 // bytes
	NanoCpus             int64 // 1e-9 processors
	CgroupParent         string
	BlkioWeight          uint16
	BlkioWeightDevice    []DeviceWeight
	BlkioDeviceReadBps   []DeviceRate
	BlkioDeviceWriteBps  []DeviceRate
	BlkioDeviceReadIOps  []DeviceRate
	BlkioDeviceWriteIOps []DeviceRate
	CpuPeriod            int64 // microseconds
	CpuQuota             int64 // microseconds
	CpuRealtimePeriod    int64 // microseconds
	CpuRealtimeRuntime   int64 // microseconds
	CpusetCpus           string
	CpusetMems           string
	Devices              []DeviceMapping
	DeviceCgroupRules    []string
	MemoryReservation    int64 // bytes
	MemorySwap           int64 // bytes of memory and swap; -1: any
	MemorySwappiness     *int64
	OomKillDisable       *bool
	PidsLimit            *int64
	Ulimits              []Ulimit
}

// DeviceWeight is how much of a block device's time a container has, in relation to others.
type DeviceWeight struct {
	Path   string
	Weight uint16
}

// DeviceRate bounds how many bytes, or operations, per second a container has of a block device.
type DeviceRate struct {
	Path string
	Rate uint64
}

// DeviceMapping is a device of the host that a container has.
type DeviceMapping struct {
	PathOnHost        string
	PathInContainer   string
	CgroupPermissions string // of "rwm": read, write, make a node
}

// Ulimit is a resource limit of processes, see setrlimit(2); -1 is none.
type Ulimit struct {
	Name string // "nofile"
	Hard int64
	Soft int64
}

// ResourceOptions are what the command line says of resources, as it is written there; "" and 0 say
// nothing.
type ResourceOptions struct {
	CPUs                                                          string
	CPUShares, CPUPeriod, CPUQuota, CPURealtimePeriod, CPURuntime int64
	CpusetCPUs, CpusetMems                                        string
	Memory, MemoryReservation, MemorySwap                         string
	MemorySwappiness                                              *int64
	OomKillDisable                                                bool
	PidsLimit                                                     int64
	BlkioWeight                                                   uint16
	BlkioWeightDevice, ReadBps, WriteBps, ReadIOps, WriteIOps     []string // "DEVICE:NUMBER"
	CgroupParent                                                  string
	Devices, DeviceCgroupRules, Ulimits                           []string
}

func optionError(flag, format string, args ...any) error {
	return fmt.Errorf("%w: --%s: %s", ErrOption, flag, fmt.Sprintf(format, args...))
}

// parse checks the options, by Docker's rules.
func (o *ResourceOptions) parse() (r Resources, err error) {
	r = Resources{
		CpuShares: o.CPUShares, CpuPeriod: o.CPUPeriod, CpuQuota: o.CPUQuota,
		CpuRealtimePeriod: o.CPURealtimePeriod, CpuRealtimeRuntime: o.CPURuntime,
		CpusetCpus: o.CpusetCPUs, CpusetMems: o.CpusetMems, BlkioWeight: o.BlkioWeight,
		CgroupParent: o.CgroupParent, DeviceCgroupRules: o.DeviceCgroupRules,
	}
	for _, step := range []func(*Resources) error{o.parseCPU, o.parseMemory, o.parseBlkio, o.parseDevices, o.parseRest} {
		if err := step(&r); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (o *ResourceOptions) parseCPU(r *Resources) (err error) {
	if o.CPUs != "" {
		if r.NanoCpus, err = parseCPUs(o.CPUs); err != nil {
			return err
		}
	}
	switch {
	case r.NanoCpus != 0 && (r.CpuPeriod != 0 || r.CpuQuota != 0):
		return optionError("cpus", "it says the same as --cpu-period and --cpu-quota: leave out one or the other")
	case r.CpuPeriod != 0 && (r.CpuPeriod < 1000 || r.CpuPeriod > 1000000):
		return optionError("cpu-period", "%d: want 1000 to 1000000 microseconds", r.CpuPeriod)
	case r.CpuQuota != 0 && r.CpuQuota != -1 && r.CpuQuota < 1000:
		return optionError("cpu-quota", "%d: want 1000 microseconds or more", r.CpuQuota)
	case r.CpuShares < 0 || r.CpuShares == 1:
		return optionError("cpu-shares", "%d: want 2 or more", r.CpuShares)
	case r.CpuRealtimeRuntime != 0 && r.CpuRealtimePeriod != 0 && r.CpuRealtimeRuntime > r.CpuRealtimePeriod:
		return optionError("cpu-rt-runtime", "it cannot be more than --cpu-rt-period")
	}
	for flag, value := range map[string]string{"cpuset-cpus": r.CpusetCpus, "cpuset-mems": r.CpusetMems} {
		if value != "" && !isNumberList(value) {
			return optionError(flag, "%q: want numbers, as 0-2,5", value)
		}
	}
	return nil
}

// isNumberList tells whether text is a list as of cpuset(7): "0-2,5".
func isNumberList(text string) bool {
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 16)
		b, lastErr := strconv.ParseUint(last, 10, 16)
		if err != nil || lastErr != nil || a > b {
			return false
		}
	}
	return true
}

// parseCPUs reads a number of processors, which may have a fraction.
func parseCPUs(text string) (int64, error) {
	number, ok := new(big.Rat).SetString(text)
	if !ok {
		return 0, optionError("cpus", "%q is no number", text)
	}
	nano := number.Mul(number, big.NewRat(1e9, 1))
	if !nano.IsInt() || !nano.Num().IsInt64() {
		return 0, optionError("cpus", "%s: more digits than nine behind the point", text)
	}
	n, most := nano.Num().Int64(), int64(runtime.NumCPU())
	if n < 1e7 || n > most*1e9 {
		return 0, optionError("cpus", "%s: want 0.01 to %d, for there are so many processors", text, most)
	}
	return n, nil
}

func (o *ResourceOptions) parseMemory(r *Resources) (err error) {
	for _, size := range []struct {
		flag, text string
		to         *int64
	}{{"memory", o.Memory, &r.Memory}, {"memory-reservation", o.MemoryReservation, &r.MemoryReservation}, {"memory-swap", o.MemorySwap, &r.MemorySwap}} {
		switch {
		case size.text == "":
		case size.text == "-1" && size.flag == "memory-swap":
			r.MemorySwap = -1
		default:
			if *size.to, err = parseSize(size.text); err != nil {
				return optionError(size.flag, "%q: want a number of bytes, or with b, k, m or g", size.text)
			}
		}
	}
	switch {
	case r.MemorySwap > 0 && r.Memory == 0:
		return optionError("memory-swap", "it needs --memory, too")
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return optionError("memory-swap", "it is memory and swap together, and cannot be less than --memory")
	case r.Memory != 0 && r.MemoryReservation > r.Memory:
		return optionError("memory-reservation", "it cannot be more than --memory")
	case o.MemorySwappiness != nil && (*o.MemorySwappiness < 0 || *o.MemorySwappiness > 100):
		return optionError("memory-swappiness", "%d: want 0 to 100", *o.MemorySwappiness)
	}
	if r.Memory != 0 && r.MemorySwap == 0 && container.LimitsSwap() {
		r.MemorySwap = 2 * r.Memory // as in Docker
	}
	r.MemorySwappiness = o.MemorySwappiness
	if o.OomKillDisable {
		r.OomKillDisable = &o.OomKillDisable
	}
	if (o.MemorySwappiness != nil || o.OomKillDisable) && !container.HasLegacyController("memory") {
		return fmt.Errorf("%w: --memory-swappiness and --oom-kill-disable: cgroup v2 has nothing like it", ErrOption)
	}
	return nil
}

func (o *ResourceOptions) parseBlkio(r *Resources) error {
	if r.BlkioWeight != 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000) {
		return optionError("blkio-weight", "%d: want 10 to 1000", r.BlkioWeight)
	}
	for _, text := range o.BlkioWeightDevice {
		device, value, err := splitDevice("blkio-weight-device", text)
		if err != nil {
			return err
		}
		weight, err := strconv.ParseUint(value, 10, 16)
		if err != nil || weight < 10 || weight > 1000 {
			return optionError("blkio-weight-device", "%q: want DEVICE:WEIGHT, 10 to 1000", text)
		}
		r.BlkioWeightDevice = append(r.BlkioWeightDevice, DeviceWeight{device, uint16(weight)})
	}
	for _, list := range []struct {
		flag string
		from []string
		to   *[]DeviceRate
	}{
		{"device-read-bps", o.ReadBps, &r.BlkioDeviceReadBps},
		{"device-write-bps", o.WriteBps, &r.BlkioDeviceWriteBps},
		{"device-read-iops", o.ReadIOps, &r.BlkioDeviceReadIOps},
		{"device-write-iops", o.WriteIOps, &r.BlkioDeviceWriteIOps},
	} {
		for _, text := range list.from {
			device, value, err := splitDevice(list.flag, text)
			if err != nil {
				return err
			}
			rate, err := strconv.ParseInt(value, 10, 64)
			if strings.HasSuffix(list.flag, "bps") {
				rate, err = parseSize(value)
			}
			if err != nil || rate < 0 {
				return optionError(list.flag, "%q: want DEVICE:NUMBER for each second", text)
			}
			*list.to = append(*list.to, DeviceRate{device, uint64(rate)})
		}
	}
	return nil
}

func splitDevice(flag, text string) (device, value string, err error) {
	device, value, found := strings.Cut(text, ":")
	if !found || !strings.HasPrefix(device, "/dev/") {
		return "", "", optionError(flag, "%q: want /dev/NAME:VALUE", text)
	}
	return device, value, nil
}

func (o *ResourceOptions) parseDevices(r *Resources) error {
	for _, text := range o.Devices {
		device, err := parseDevice(text)
		if err != nil {
			return err
		}
		r.Devices = append(r.Devices, device)
	}
	for _, rule := range o.DeviceCgroupRules {
		if _, err := parseDeviceRule(rule); err != nil {
			return err
		}
	}
	return nil
}

// parseDevice reads "HOST[:CONTAINER][:PERMISSIONS]".
func parseDevice(text string) (DeviceMapping, error) {
	fields := strings.Split(text, ":")
	d := DeviceMapping{PathOnHost: fields[0], PathInContainer: fields[0], CgroupPermissions: "rwm"}
	switch {
	case len(fields) == 2 && isAccess(fields[1]):
		d.CgroupPermissions = fields[1]
	case len(fields) == 2:
		d.PathInContainer = fields[1]
	case len(fields) == 3:
		d.PathInContainer, d.CgroupPermissions = fields[1], fields[2]
	case len(fields) > 3:
		d.PathOnHost = ""
	}
	if !path.IsAbs(d.PathOnHost) || !path.IsAbs(d.PathInContainer) || !isAccess(d.CgroupPermissions) {
		return d, optionError("device", "%q: want HOST[:CONTAINER][:PERMISSIONS], permissions of rwm", text)
	}
	if _, err := os.Stat(d.PathOnHost); err != nil {
		return d, fmt.Errorf("%w: --device: %w", ErrOption, err)
	}
	return d, nil
}

func isAccess(text string) bool { return text != "" && strings.Trim(text, "rwm") == "" }

func (o *ResourceOptions) parseRest(r *Resources) error {
	if o.PidsLimit < -1 {
		return optionError("pids-limit", "%d: want a number, or -1 for any", o.PidsLimit)
	}
	if o.PidsLimit != 0 {
		r.PidsLimit = &o.PidsLimit
	}
	for _, text := range o.Ulimits {
		limit, err := parseUlimit(text)
		if err != nil {
			return err
		}
		r.Ulimits = append(slices.DeleteFunc(r.Ulimits, func(u Ulimit) bool { return u.Name == limit.Name }), limit)
	}
	if parent := r.CgroupParent; parent != "" && (strings.Contains(parent, "..") || path.Clean(parent) == "/") {
		return optionError("cgroup-parent", "%q is no cgroup below the root", parent)
	}
	return nil
}

// ulimitNames are those that Docker knows, of setrlimit(2).
func ulimitNames() []string {
	return []string{
		"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
		"rttime", "sigpending", "stack",
	}
}

// parseUlimit reads "NAME=SOFT[:HARD]".
func parseUlimit(text string) (Ulimit, error) {
	name, values, found := strings.Cut(text, "=")
	soft, hard, two := strings.Cut(values, ":")
	if !two {
		hard = soft
	}
	u := Ulimit{Name: name}
	var err, hardErr error
	u.Soft, err = parseLimit(soft)
	u.Hard, hardErr = parseLimit(hard)
	switch {
	case !found || err != nil || hardErr != nil:
		return u, optionError("ulimit", "%q: want NAME=SOFT[:HARD], numbers or unlimited", text)
	case !slices.Contains(ulimitNames(), name):
		return u, optionError("ulimit", "%q: use one of %s", name, strings.Join(ulimitNames(), ", "))
	case u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard):
		return u, optionError("ulimit", "%q: the soft limit is above the hard one", text)
	}
	return u, nil
}

func parseLimit(text string) (int64, error) {
	if text == "unlimited" {
		return -1, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && n < -1 {
		err = strconv.ErrRange
	}
	return n, err
}

// explainLimits says which limits the kernel may have refused to raise.
func (r *Resources) explainLimits(err error) error {
	step, ok := errors.AsType[*sys.StepError](err)
	refused := ok && step.Step == sys.StepRlimit && step.Errno == syscall.EPERM
	if err == nil || len(r.Ulimits) == 0 || !refused {
		return err
	}
	return fmt.Errorf("%w: --ulimit: a limit is above what this process may have itself, which this machine does not let it raise (see 'ulimit -H -a')", err)
}
