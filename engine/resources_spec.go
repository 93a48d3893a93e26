package engine

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// addTo has a specification limit a container so. Devices are looked up now: their numbers may be others
// than when it was made.
func (r *Resources) addTo(spec *specs.Spec) error {
	resources := spec.Linux.Resources
	resources.CPU = r.cpu()
	resources.Memory = r.memory()
	if r.PidsLimit != nil && *r.PidsLimit > 0 {
		resources.Pids = &specs.LinuxPids{Limit: r.PidsLimit}
	}
	var err error
	if resources.BlockIO, err = r.blockIO(); err != nil {
		return err
	}
	for _, u := range r.Ulimits {
		spec.Process.Rlimits = append(spec.Process.Rlimits, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard),
		})
	}
	for _, text := range r.DeviceCgroupRules {
		rule, err := parseDeviceRule(text)
		if err != nil {
			return err
		}
		resources.Devices = append(resources.Devices, rule)
	}
	for _, d := range r.Devices {
		if err := d.addTo(spec); err != nil {
			return err
		}
	}
	return nil
}

// cpuPeriod is the kernel's, in microseconds: --cpus is part of that.
const cpuPeriod = 100_000

func (r *Resources) cpu() *specs.LinuxCPU {
	c := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	setPositive(&c.Shares, r.CpuShares)
	setPositive(&c.Period, r.CpuPeriod)
	setPositive(&c.RealtimePeriod, r.CpuRealtimePeriod)
	if r.CpuRealtimeRuntime != 0 {
		c.RealtimeRuntime = &r.CpuRealtimeRuntime
	}
	if r.CpuQuota != 0 {
		c.Quota = &r.CpuQuota
	}
	if r.NanoCpus != 0 {
		c.Period, c.Quota = new(uint64(cpuPeriod)), new(r.NanoCpus*cpuPeriod/1e9)
	}
	return c
}

func setPositive(to **uint64, n int64) {
	if n > 0 {
		*to = new(uint64(n))
	}
}

func (r *Resources) memory() *specs.LinuxMemory {
	m := &specs.LinuxMemory{DisableOOMKiller: r.OomKillDisable}
	for to, n := range map[**int64]int64{&m.Limit: r.Memory, &m.Reservation: r.MemoryReservation, &m.Swap: r.MemorySwap} {
		if n != 0 {
			*to = new(n)
		}
	}
	if r.MemorySwappiness != nil {
		m.Swappiness = new(uint64(*r.MemorySwappiness))
	}
	return m
}

func (r *Resources) blockIO() (*specs.LinuxBlockIO, error) {
	b := &specs.LinuxBlockIO{}
	if r.BlkioWeight != 0 {
		b.Weight = &r.BlkioWeight
	}
	for _, w := range r.BlkioWeightDevice {
		major, minor, err := blockDevice(w.Path)
		if err != nil {
			return nil, err
		}
		device := specs.LinuxWeightDevice{Weight: &w.Weight}
		device.Major, device.Minor = major, minor
		b.WeightDevice = append(b.WeightDevice, device)
	}
	for _, list := range []struct {
		from []DeviceRate
		to   *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioDeviceReadBps, &b.ThrottleReadBpsDevice},
		{r.BlkioDeviceWriteBps, &b.ThrottleWriteBpsDevice},
		{r.BlkioDeviceReadIOps, &b.ThrottleReadIOPSDevice},
		{r.BlkioDeviceWriteIOps, &b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range list.from {
			major, minor, err := blockDevice(d.Path)
			if err != nil {
				return nil, err
			}
			device := specs.LinuxThrottleDevice{Rate: d.Rate}
			device.Major, device.Minor = major, minor
			*list.to = append(*list.to, device)
		}
	}
	return b, nil
}

func blockDevice(path string) (major, minor int64, err error) {
	d, err := deviceAt(path)
	if err == nil && d.Type != "b" {
		err = fmt.Errorf("%w: %s is no block device", ErrOption, path)
	}
	return d.Major, d.Minor, err
}

// deviceAt looks up a device of the host.
func deviceAt(name string) (d specs.LinuxDevice, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return d, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeDevice == 0 {
		return d, fmt.Errorf("%w: %s is no device", ErrOption, name)
	}
	major, minor := sys.DeviceNumbers(uint64(st.Rdev)) //nolint:unconvert // the type differs between architectures
	d = specs.LinuxDevice{Path: name, Type: "b", Major: int64(major), Minor: int64(minor), FileMode: new(info.Mode().Perm()), UID: &st.Uid, GID: &st.Gid}
	if info.Mode()&fs.ModeCharDevice != 0 {
		d.Type = "c"
	}
	return d, nil
}

// addTo gives a container the device, or all devices in the directory.
func (m *DeviceMapping) addTo(spec *specs.Spec) error {
	info, err := os.Stat(m.PathOnHost)
	if err != nil {
		return fmt.Errorf("device: %w", err)
	}
	if !info.IsDir() {
		d, err := deviceAt(m.PathOnHost)
		if err != nil {
			return err
		}
		addDevice(spec, d, m.PathInContainer, m.CgroupPermissions)
		return nil
	}
	found := len(spec.Linux.Devices)
	err = eachDevice(m.PathOnHost, func(d specs.LinuxDevice) {
		rel := strings.TrimPrefix(d.Path, path.Clean(m.PathOnHost))
		addDevice(spec, d, path.Join(m.PathInContainer, rel), m.CgroupPermissions)
	})
	if err == nil && len(spec.Linux.Devices) == found {
		err = fmt.Errorf("%w: --device %s: there is no device in it", ErrOption, m.PathOnHost)
	}
	return err
}

func addDevice(spec *specs.Spec, d specs.LinuxDevice, at, access string) {
	d.Path = path.Clean(at)
	spec.Linux.Devices = append(spec.Linux.Devices, d)
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
		Allow: true, Type: d.Type, Major: new(d.Major), Minor: new(d.Minor), Access: access,
	})
}

// eachDevice finds the devices below a directory of the host, but terminals, which every container has its own of.
func eachDevice(dir string, found func(specs.LinuxDevice)) error {
	return filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // devices come and go
		case entry.IsDir() && name != dir && (entry.Name() == "pts" || entry.Name() == "shm" || entry.Name() == "fd" || entry.Name() == "mqueue"):
			return filepath.SkipDir
		case entry.Type()&fs.ModeDevice == 0 || entry.Name() == "console":
			return nil
		}
		if d, err := deviceAt(name); err == nil {
			found(d)
		}
		return nil
	})
}

// parseDeviceRule reads a rule as Docker takes it: "c 1:3 rwm", "a *:* rwm".
func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	rule := specs.LinuxDeviceCgroup{Allow: true}
	bad := optionError("device-cgroup-rule", "%q: want TYPE MAJOR:MINOR PERMISSIONS, as 'c 1:3 rwm'", text)
	fields := strings.Fields(text)
	if len(fields) != 3 || !isAccess(fields[2]) || !strings.Contains("abc", fields[0]) || len(fields[0]) != 1 {
		return rule, bad
	}
	major, minor, found := strings.Cut(fields[1], ":")
	if !found {
		return rule, bad
	}
	rule.Type, rule.Access = fields[0], fields[2]
	for to, number := range map[**int64]string{&rule.Major: major, &rule.Minor: minor} {
		n := int64(-1)
		if number != "*" {
			parsed, err := strconv.ParseUint(number, 10, 31)
			if err != nil {
				return rule, bad
			}
			n = int64(parsed)
		}
		*to = &n
	}
	return rule, nil
}
