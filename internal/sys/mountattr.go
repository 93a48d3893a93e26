package sys

import "golang.org/x/sys/unix"

// More mount attributes. Those about access times are values of one field, AttrAtimeMask, which
// must be cleared when one is set.
const (
	AttrNoDirAtime  = unix.MOUNT_ATTR_NODIRATIME
	AttrStrictAtime = unix.MOUNT_ATTR_STRICTATIME
	AttrAtimeMask   = unix.MOUNT_ATTR__ATIME
)

// Magic numbers of the kernel's own file systems, as [FSType] gives them.
const (
	MagicProc    = unix.PROC_SUPER_MAGIC
	MagicSysfs   = unix.SYSFS_MAGIC
	MagicDevpts  = unix.DEVPTS_SUPER_MAGIC
	MagicCgroup  = unix.CGROUP_SUPER_MAGIC
	MagicCgroup2 = unix.CGROUP2_SUPER_MAGIC
)
