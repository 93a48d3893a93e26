package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

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

// IsKernelFS tells whether f lies on a file system that shows the kernel, through which it is asked and
// ruled, and that has no files of anybody.
func IsKernelFS(f *os.File) (bool, error) {
	magic, err := FSType(f)
	if err != nil {
		return false, err
	}
	switch magic {
	case MagicProc, MagicSysfs, MagicDevpts, MagicCgroup, MagicCgroup2, unix.SECURITYFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC,
		unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC, unix.SELINUX_MAGIC, unix.BINFMTFS_MAGIC, unix.NSFS_MAGIC,
		magicMqueue, magicConfigfs, magicFusectl:
		return true, nil
	default:
		return false, nil
	}
}

// Those that linux/magic.h lacks: ipc/mqueue.c, fs/configfs/mount.c, fs/fuse/control.c.
const (
	magicMqueue   = 0x19800202
	magicConfigfs = 0x62656570
	magicFusectl  = 0x65735543
)
