package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/testenv"
)

// everyLimit are limits of every controller that a machine usually has.
func everyLimit() *specs.LinuxResources {
	return &specs.LinuxResources{
		Devices: container.DefaultDeviceRules(),
		Memory:  &specs.LinuxMemory{Limit: new(int64(64 << 20)), Reservation: new(int64(32 << 20))},
		CPU:     &specs.LinuxCPU{Shares: new(uint64(512)), Quota: new(int64(50000)), Period: new(uint64(100000)), Cpus: "0", Mems: "0"},
		Pids:    &specs.LinuxPids{Limit: new(int64(7))},
		BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttle(1 << 20)}},
		HugepageLimits: []specs.LinuxHugepageLimit{
			{Pagesize: "2MB", Limit: 4 << 20},
		},
	}
}

// throttle is a rate for the machine's first disk.
func throttle(rate uint64) specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	entries, _ := os.ReadDir("/sys/block")
	for _, e := range entries {
		text, err := os.ReadFile("/sys/block/" + e.Name() + "/dev")
		major, minor, ok := strings.Cut(strings.TrimSpace(string(text)), ":")
		if err != nil || !ok || strings.HasPrefix(e.Name(), "loop") || strings.HasPrefix(e.Name(), "ram") {
			continue
		}
		d.Major, _ = strconv.ParseInt(major, 10, 64)
		d.Minor, _ = strconv.ParseInt(minor, 10, 64)
		break
	}
	return d
}

// limitFile is a file of a cgroup with what it should have, for a controller in version 1 and in 2.
type limitFile struct{ controller, unified, file1, want1, file2, want2 string }

func limitFiles(d specs.LinuxThrottleDevice) []limitFile {
	device := strconv.FormatInt(d.Major, 10) + ":" + strconv.FormatInt(d.Minor, 10)
	return []limitFile{
		{"memory", "memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"},
		{"memory", "memory", "memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432"},
		{"cpu", "cpu", "cpu.shares", "512", "cpu.weight", "59"},
		{"cpu", "cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"},
		{"cpuset", "cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"},
		{"pids", "pids", "pids.max", "7", "pids.max", "7"},
		{"blkio", "io", "blkio.throttle.read_bps_device", device + " 1048576", "io.max", device + " rbps=1048576 wbps=max riops=max wiops=max"},
		{"hugetlb", "hugetlb", "hugetlb.2MB.limit_in_bytes", "4194304", "hugetlb.2MB.max", "4194304"},
	}
}

// legacyDir is a container's cgroup in a hierarchy of version 1, "" where the controller is not there.
func legacyDir(b *box, controller string) string {
	if _, err := os.Stat("/sys/fs/cgroup/" + controller + "/cgroup.procs"); err != nil || controller == "" {
		return ""
	}
	return filepath.Join("/sys/fs/cgroup", controller, b.spec.Linux.CgroupsPath)
}

// only keeps the limits that this machine has controllers for, and tells of which there are files.
func (b *box) only(r *specs.LinuxResources) (files []limitFile) {
	has := func(f limitFile) bool {
		return legacyDir(b, f.controller) != "" || slices.Contains(unified(b.t), f.unified)
	}
	for _, f := range limitFiles(r.BlockIO.ThrottleReadBpsDevice[0]) {
		if has(f) {
			files = append(files, f)
			continue
		}
		switch f.controller {
		case "memory":
			r.Memory = nil
		case "cpu":
			r.CPU = &specs.LinuxCPU{Cpus: r.CPU.Cpus}
		case "cpuset":
			r.CPU.Cpus, r.CPU.Mems = "", ""
		case "pids":
			r.Pids = nil
		case "blkio":
			r.BlockIO = nil
		case "hugetlb":
			r.HugepageLimits = nil
		}
	}
	b.spec.Linux.Resources = r
	return files
}

// unified are the controllers of the cgroup2 hierarchy.
func unified(t testing.TB) []string {
	t.Helper()
	root := cgroupRoot(t)
	if root == "" {
		return nil
	}
	text, err := os.ReadFile(root + "/cgroup.controllers")
	require.NoError(t, err)
	return strings.Fields(string(text))
}

// Each limit is set where the machine has its controller, and the process is in that cgroup.
func TestCgroupLimits(t *testing.T) {
	for _, layout := range []string{"", "v2", "v1"} {
		t.Run("layout "+layout, func(t *testing.T) {
			inPrivate(t, setting{Cgroups: layout}, func(t *testing.T) {
				b := newBox(t, "hold")
				files := b.only(everyLimit())
				require.NotEmpty(t, files, "this machine has no controllers: nothing is tested")
				before := host(t)
				p := b.mustStart()
				for _, f := range files {
					dir, file, want := legacyDir(b, f.controller), f.file1, f.want1
					if slices.Contains(unified(t), f.unified) {
						dir, file, want = cgroupDir(t, b), f.file2, f.want2
					}
					text, err := os.ReadFile(filepath.Join(dir, file))
					require.NoError(t, err)
					require.Equal(t, want, strings.TrimSpace(string(text)), "%s", file)
					procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
					require.NoError(t, err)
					require.Equal(t, strconv.Itoa(p.Pid()), strings.TrimSpace(string(procs)), "%s", f.controller)
				}
				processes, err := container.Processes(b.spec.Linux.CgroupsPath)
				require.NoError(t, err)
				require.Equal(t, []int{p.Pid()}, processes)
				require.NoError(t, p.Signal(9))
				_, err = p.Wait()
				require.NoError(t, err)
				before.unchanged(t)
				for _, f := range files {
					require.NoDirExists(t, legacyDir(b, f.controller))
				}
				processes, err = container.Processes(b.spec.Linux.CgroupsPath)
				require.NoError(t, err)
				require.Empty(t, processes)
			})
		})
	}
}

// Without limits a container is in those hierarchies of version 1 that tell what it uses, and in no other one.
func TestCountedWithoutLimits(t *testing.T) {
	b := newBox(t, "hold")
	b.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(0))}
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Swap: new(int64(0))}
	p := b.mustStart()
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "blkio"} {
		if dir := legacyDir(b, c); dir != "" {
			procs, err := os.ReadFile(dir + "/cgroup.procs")
			require.NoError(t, err)
			require.Equal(t, itoa(p.Pid()), strings.TrimSpace(string(procs)), c)
		}
	}
	for _, c := range []string{"cpuset", "devices", "freezer", "systemd"} {
		if dir := legacyDir(b, c); dir != "" {
			require.NoDirExists(t, dir)
		}
	}
	stats, err := container.Stats(b.spec.Linux.CgroupsPath)
	require.NoError(t, err)
	require.NotZero(t, stats.CPU.Usage.Total)
	if legacyDir(b, "memory") != "" || slices.Contains(unified(t), "memory") {
		require.NotZero(t, stats.Memory.Usage.Usage)
		require.NotZero(t, stats.Pids.Current)
	}
}

// The memory of TCP's buffers has a limit where version 1 has that, and else a warning.
func TestTCPMemory(t *testing.T) {
	b := newBox(t, "hold")
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{KernelTCP: new(int64(1 << 20)), Kernel: new(int64(1 << 30))} //nolint:staticcheck // deprecated, and asked for
	warnings := container.Warnings(b.spec)
	require.ErrorContains(t, warnings[0], "memory.kernel: no kernel")
	limit, err := os.ReadFile("/sys/fs/cgroup/memory/memory.kmem.tcp.limit_in_bytes")
	if err != nil {
		require.ErrorContains(t, warnings[1], "memory.kernelTCP")
		return
	}
	require.NotEqual(t, "1048576", strings.TrimSpace(string(limit)))
	require.Len(t, warnings, 1)
	b.mustStart()
	limit, err = os.ReadFile(legacyDir(b, "memory") + "/memory.kmem.tcp.limit_in_bytes")
	require.NoError(t, err)
	require.Equal(t, "1048576", strings.TrimSpace(string(limit)))
}

// Rules that name devices are also in the devices controller of version 1, where tools look for them, as far as that
// can have them; the filter is what decides.
func TestDeviceRulesInBothVersions(t *testing.T) {
	rule := func(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
	}
	all, none := specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}, specs.LinuxDeviceCgroup{Access: "rwm"}
	for _, c := range []struct {
		rules []specs.LinuxDeviceCgroup
		first []string
	}{
		{[]specs.LinuxDeviceCgroup{none, rule(true, "c", 10, 229, "rwm"), rule(true, "b", 8, -1, "r")}, []string{"c 10:229 rwm", "b 8:* r"}},
		{[]specs.LinuxDeviceCgroup{rule(true, "c", 10, 229, "rwm"), none, rule(true, "b", 8, 20, "rw")}, []string{"b 8:20 rw"}},
		{[]specs.LinuxDeviceCgroup{all, rule(false, "c", 1, 3, "w")}, []string{"a *:* rwm"}},
		{[]specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "r"}}, []string{"b *:* rm", "c *:* rm"}},
		{[]specs.LinuxDeviceCgroup{rule(true, "c", 10, 229, "rwm"), rule(true, "c", 10, 230, "r"), rule(false, "c", 10, 229, "rwm")}, []string{"c 10:230 r"}},
	} {
		b := newBox(t, "hold")
		b.spec.Linux.Resources.Devices = c.rules
		p := b.mustStart()
		if dir := legacyDir(b, "devices"); dir != "" {
			list, err := os.ReadFile(dir + "/devices.list")
			require.NoError(t, err)
			require.Equal(t, c.first, strings.Split(string(list), "\n")[:len(c.first)])
		}
		require.NoError(t, p.Signal(9))
		_, err := p.Wait()
		require.NoError(t, err)
	}
	// Part of what was allowed is denied: the controller cannot have that, the filter does.
	b := newBox(t)
	b.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{none, rule(true, "c", 10, -1, "rwm"), rule(false, "c", 10, 229, "rw")}
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
	require.Equal(t, map[string]string{"open:/dev/fuse": "open /dev/fuse: operation not permitted"}, b.try("open:/dev/fuse"))
}

// The limits do limit.
func TestLimitsAreKept(t *testing.T) {
	needController := func(t *testing.T, b *box, name string) {
		t.Helper()
		if legacyDir(b, name) == "" && !slices.Contains(unified(t), name) {
			testenv.Unmet(t, "this machine has no cgroup controller for %s", name)
		}
	}
	t.Run("memory", func(t *testing.T) {
		b := newBox(t, "eat", "100")
		needController(t, b, "memory")
		r, err := b.run()
		require.NoError(t, err)
		require.Equal(t, "full\n", r.out, "it cannot have that much anyway")
		b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(20 << 20)), Swap: new(int64(20 << 20))}
		if r, err = b.run(); err != nil { // a kernel that does not count swap
			b.spec.Linux.Resources.Memory.Swap = nil
			r, err = b.run()
		}
		require.NoError(t, err)
		require.Equal(t, 137, r.status, r.out+r.errOut)
	})
	t.Run("memory of 4 MB", func(t *testing.T) {
		b := newBox(t).withShell("exit 3")
		needController(t, b, "memory")
		b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(4 << 20))}
		r, err := b.run()
		require.NoError(t, err)
		require.Equal(t, 3, r.status, r.errOut)
	})
	t.Run("pids", func(t *testing.T) {
		b := newBox(t).withShell("sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & echo all")
		needController(t, b, "pids")
		b.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(3))}
		r, err := b.run()
		require.NoError(t, err)
		require.NotContains(t, r.out, "all")
		require.Contains(t, r.errOut, "can't fork")
	})
}

// Limits can be changed while a container runs, also those of hierarchies it is not in yet.
func TestSetResources(t *testing.T) {
	for _, layout := range []string{"", "v1"} {
		t.Run("layout "+layout, func(t *testing.T) {
			inPrivate(t, setting{Cgroups: layout}, func(t *testing.T) {
				b := newBox(t, "breed", "3")
				r, w := pipe(t)
				b.cfg.Stdout = w
				p := b.mustStart()
				readUntil(t, r, "ready")
				limits := everyLimit()
				changed := newBox(t)
				files := changed.only(limits)
				require.NoError(t, container.SetResources(t.Context(), b.spec.Linux.CgroupsPath, limits))
				limits = &specs.LinuxResources{}
				if slices.ContainsFunc(files, func(f limitFile) bool { return f.controller == "pids" }) {
					limits.Pids = &specs.LinuxPids{Limit: new(int64(-1))}
				}
				require.NoError(t, container.SetResources(t.Context(), b.spec.Linux.CgroupsPath, limits))
				all, err := container.Processes(b.spec.Linux.CgroupsPath)
				require.NoError(t, err)
				require.Len(t, all, 4)
				for _, f := range files {
					dir, file, want := legacyDir(b, f.controller), f.file1, f.want1
					if slices.Contains(unified(t), f.unified) {
						dir, file, want = cgroupDir(t, b), f.file2, f.want2
					}
					if f.controller == "pids" {
						want = "max"
					}
					text, err := os.ReadFile(filepath.Join(dir, file))
					require.NoError(t, err)
					require.Equal(t, want, strings.TrimSpace(string(text)), "%s", file)
					procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
					require.NoError(t, err)
					require.Len(t, strings.Fields(string(procs)), 4, "%s", f.controller)
				}
				if slices.ContainsFunc(files, func(f limitFile) bool { return f.controller == "pids" }) {
					stats, err := container.Stats(b.spec.Linux.CgroupsPath)
					require.NoError(t, err)
					require.GreaterOrEqual(t, stats.Pids.Current, uint64(4))
				}
				require.NoError(t, container.RemoveCgroup(b.spec.Linux.CgroupsPath))
				status, err := p.Wait()
				require.NoError(t, err)
				require.Equal(t, 137, status)
			})
		})
	}
}

// A host that has not mounted version 2 has it all the same: containers can be stopped there, too.
func TestFreezeOnAnyHost(t *testing.T) {
	for _, layout := range []string{"", "v1", "v2", "named", "none"} {
		t.Run("layout "+layout, func(t *testing.T) {
			inPrivate(t, setting{Cgroups: layout}, func(t *testing.T) {
				b := newBox(t).withShell("echo ready; (while :; do :; done)")
				before := host(t)
				r, w := pipe(t)
				b.cfg.Stdout = w
				p := b.mustStart()
				readUntil(t, r, "ready")
				all, err := container.Processes(b.spec.Linux.CgroupsPath)
				require.NoError(t, err)
				worker := all[len(all)-1]
				for range 2 {
					thaw, err := container.Freeze(t.Context(), b.spec.Linux.CgroupsPath)
					require.NoError(t, err)
					ticks := workOf(t, worker)
					time.Sleep(50 * time.Millisecond)
					require.Equal(t, ticks, workOf(t, worker), "it worked on")
					require.NoError(t, thaw())
					for workOf(t, worker) == ticks { // until it goes on
						time.Sleep(time.Millisecond)
					}
				}
				require.NoError(t, p.Signal(9))
				_, err = p.Wait()
				require.NoError(t, err)
				require.NoError(t, errors.Join(r.Close(), w.Close()))
				before.unchanged(t)
				_, err = container.Freeze(context.WithoutCancel(t.Context()), b.spec.Linux.CgroupsPath)
				require.ErrorIs(t, err, fs.ErrNotExist)
			})
		})
	}
}

// workOf gives how long a process has worked, in ticks (proc_pid_stat(5), utime and stime).
func workOf(t *testing.T, pid int) string {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return fields[11] + "+" + fields[12]
}

// What cannot be limited here is an error, not a wish.
func TestLimitsThatCannotBe(t *testing.T) {
	inPrivate(t, setting{Cgroups: "none"}, func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, syscall.Mount("cgroup2", dir, "cgroup2", 0, ""))
		text, err := os.ReadFile(dir + "/cgroup.controllers")
		require.NoError(t, err)
		require.NoError(t, syscall.Unmount(dir, 0))
		available := strings.Fields(string(text))
		for name, r := range map[string]*specs.LinuxResources{
			"memory":  {Memory: &specs.LinuxMemory{Limit: new(int64(1 << 30))}},
			"cpu":     {CPU: &specs.LinuxCPU{Shares: new(uint64(100))}},
			"cpuset":  {CPU: &specs.LinuxCPU{Cpus: "0"}},
			"pids":    {Pids: &specs.LinuxPids{Limit: new(int64(100))}},
			"io":      {BlockIO: &specs.LinuxBlockIO{Weight: new(uint16(100))}},
			"hugetlb": {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}}},
			"rdma":    {Rdma: map[string]specs.LinuxRdma{"mlx": {HcaHandles: new(uint32(1))}}},
			"net_cls": {Network: &specs.LinuxNetwork{ClassID: new(uint32(1))}},
			"unified": {Unified: map[string]string{"memory.high": "1"}},
		} {
			if slices.Contains(available, name) || name == "unified" && slices.Contains(available, "memory") {
				continue // it is no version 1's
			}
			b := newBox(t, "exit", "0")
			b.spec.Linux.Resources = r
			_, err := b.run()
			require.ErrorIs(t, err, container.ErrUnsupported, name)
			require.ErrorContains(t, err, name)
		}
	})
}

func TestUnifiedIsNotAbused(t *testing.T) {
	for _, name := range []string{"cgroup.procs", "../x.y", "nodot"} {
		b := newBox(t, "exit", "0")
		b.spec.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{name: "1"}}
		_, err := b.run()
		require.ErrorIs(t, err, container.ErrSpec, name)
	}
}
