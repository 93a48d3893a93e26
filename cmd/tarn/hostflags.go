package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tarnfs/tarn/engine"
)

func (f *containerFlags) addMounts(flags *pflag.FlagSet) {
	listVarP(flags, &f.Volumes, "volume", "v", "mount `[SOURCE:]DEST[:OPTIONS]`: a path of the host, or a volume by its name, or a new one")
	listVar(flags, &f.Mounts, "mount", "mount `type=KIND,KEY=VALUE,...`: bind, volume or tmpfs; source, target, readonly and so on")
	listVar(flags, &f.Tmpfs, "tmpfs", "mount an empty file system in memory: `DEST[:OPTIONS]`")
	listVar(flags, &f.VolumesFrom, "volumes-from", "mount what `CONTAINER[:ro]` has mounted")
	flags.StringVar(&f.Isolation.ShmSize, "shm-size", "", "`size` of /dev/shm in bytes, or with k, m or g (default 64m)")
	flags.BoolVar(&f.ReadOnly, "read-only", false, "the root file system cannot be written")
}

func (f *containerFlags) addSecurity(cmd *cobra.Command, flags *pflag.FlagSet) {
	listVar(flags, &f.SecurityOpt, "security-opt", "`option`: no-new-privileges, seccomp=unconfined or seccomp=FILE, "+
		"apparmor=PROFILE, label=disable, systempaths=unconfined, mask=PATH, unmask=PATH, writable-cgroups=true")
	suggest(cmd, "security-opt", "no-new-privileges", "seccomp=", "apparmor=", "label=disable", "systempaths=unconfined", "mask=", "unmask=", "writable-cgroups=true")
	o := &f.Isolation
	listVar(flags, &o.CapAdd, "cap-add", "`capability` to have besides the usual ones, or ALL")
	listVar(flags, &o.CapDrop, "cap-drop", "`capability` not to have, or ALL")
	flags.BoolVar(&o.Privileged, "privileged", false, "give it all capabilities and devices, and hide nothing of the machine from it")
	listVar(flags, &o.GroupAdd, "group-add", "`group` that the user is in as well: name or ID")
	listVar(flags, &o.Sysctls, "sysctl", "kernel setting of its namespaces: `NAME=value`")
}

// addSharing is about what a container has in common with the host or with others.
func (f *containerFlags) addSharing(cmd *cobra.Command, flags *pflag.FlagSet) {
	o := &f.Isolation
	flags.StringVar(&o.IPC, "ipc", "", "`whose` shared memory: private, shareable, none, host or container:NAME (default private)")
	flags.StringVar(&o.PID, "pid", "", "`whose` processes it sees: host or container:NAME (default: its own)")
	flags.StringVar(&o.UTS, "uts", "", "`whose` host name: host (default: its own)")
	flags.StringVar(&o.CgroupNS, "cgroupns", "", "`whose` cgroups it sees: private or host (default private)")
	flags.StringVar(&o.Userns.Mode, "userns", "", "`whose` users: host, auto[:size=NUMBER] or container:NAME (default host)")
	listVar(flags, &o.Userns.UIDMap, "uidmap", "users of its own: `CONTAINER:HOST[:SIZE]`, numbers")
	listVar(flags, &o.Userns.GIDMap, "gidmap", "groups of its own: `CONTAINER:HOST[:SIZE]` (default: as --uidmap)")
	flags.StringVar(&o.Userns.SubUIDName, "subuidname", "", "users of its own: those that /etc/subuid has for `name`")
	flags.StringVar(&o.Userns.SubGIDName, "subgidname", "", "groups of its own: those that /etc/subgid has for `name`")
	suggest(cmd, "ipc", "private", "shareable", "none", "host", "container:")
	suggest(cmd, "pid", "host", "container:")
	suggest(cmd, "uts", "host")
	suggest(cmd, "cgroupns", "private", "host")
	suggest(cmd, "userns", "host", "auto", "container:")
}

// addLimits adds what can be changed of a container later, too.
func addLimits(flags *pflag.FlagSet, r *engine.ResourceOptions) {
	flags.StringVar(&r.CPUs, "cpus", "", "`number` of processors, as 1.5")
	flags.Int64VarP(&r.CPUShares, "cpu-shares", "c", 0, "`weight` among others that want processors (1024 is usual)")
	flags.Int64Var(&r.CPUPeriod, "cpu-period", 0, "`microseconds` that --cpu-quota is of (100000)")
	flags.Int64Var(&r.CPUQuota, "cpu-quota", 0, "`microseconds` of processors in each period")
	flags.Int64Var(&r.CPURealtimePeriod, "cpu-rt-period", 0, "`microseconds` that --cpu-rt-runtime is of")
	flags.Int64Var(&r.CPURuntime, "cpu-rt-runtime", 0, "`microseconds` for realtime processes in each period")
	flags.StringVar(&r.CpusetCPUs, "cpuset-cpus", "", "processors by `number`, as 0-2,5")
	flags.StringVar(&r.CpusetMems, "cpuset-mems", "", "memory nodes by `number`, as 0,1")
	flags.StringVarP(&r.Memory, "memory", "m", "", "`size` of memory in bytes, or with k, m or g")
	flags.StringVar(&r.MemoryReservation, "memory-reservation", "", "`size` of memory that it is pressed down to when that is short")
	flags.StringVar(&r.MemorySwap, "memory-swap", "", "`size` of memory and swap together; -1 for any (default: twice --memory)")
	flags.Int64Var(&r.PidsLimit, "pids-limit", 0, "`number` of processes; -1 for any")
}

func (f *containerFlags) addResources(flags *pflag.FlagSet) {
	r := &f.Resources
	addLimits(flags, r)
	flags.Int64Var(&f.swappiness, "memory-swappiness", -1, "how readily it is swapped out: `0 to 100`")
	flags.BoolVar(&r.OomKillDisable, "oom-kill-disable", false, "have processes wait, not be killed, when there is no more memory for them")
	flags.IntVar(&f.Isolation.OomScoreAdj, "oom-score-adj", 0, "how readily it is killed when the machine has no memory: `-1000 to 1000`")
	listVar(flags, &r.Ulimits, "ulimit", "limit of each process: `NAME=SOFT[:HARD]`, as nofile=1024:4096")
	flags.StringVar(&r.CgroupParent, "cgroup-parent", "", "`cgroup` to make its own in")
}

func (f *containerFlags) addDevices(flags *pflag.FlagSet) {
	r := &f.Resources
	listVar(flags, &r.Devices, "device", "device, or all in a directory: `HOST[:CONTAINER][:PERMISSIONS]`, of rwm")
	listVar(flags, &r.DeviceCgroupRules, "device-cgroup-rule", "devices that it may use: `TYPE MAJOR:MINOR PERMISSIONS`, as 'c 1:3 rwm'")
	flags.Uint16Var(&r.BlkioWeight, "blkio-weight", 0, "`weight` among others that want block devices: 10 to 1000")
	listVar(flags, &r.BlkioWeightDevice, "blkio-weight-device", "the same of one: `DEVICE:WEIGHT`")
	listVar(flags, &r.ReadBps, "device-read-bps", "bytes to read in a second: `DEVICE:SIZE`")
	listVar(flags, &r.WriteBps, "device-write-bps", "bytes to write in a second: `DEVICE:SIZE`")
	listVar(flags, &r.ReadIOps, "device-read-iops", "reads in a second: `DEVICE:NUMBER`")
	listVar(flags, &r.WriteIOps, "device-write-iops", "writes in a second: `DEVICE:NUMBER`")
}
