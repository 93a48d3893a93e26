package sys

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MakeProc makes procfs, for the pid namespace the child is in, as a mount that is attached nowhere. attrs
// are Attr constants; options are its mount options.
func (p *Program) MakeProc(attrs int, options [][2]string) Reg {
	fs := p.opens(p.call("mount proc: fsopen", unix.SYS_FSOPEN, p.str("proc"), unix.FSOPEN_CLOEXEC))
	p.call("mount proc: source", unix.SYS_FSCONFIG, 0, unix.FSCONFIG_SET_STRING, p.str("source"), p.str("proc"), 0).from(0, fs)
	for _, o := range options {
		step := "mount proc: option " + o[0]
		if o[1] == "" {
			p.call(step, unix.SYS_FSCONFIG, 0, unix.FSCONFIG_SET_FLAG, p.str(o[0]), 0, 0).from(0, fs)
			continue
		}
		p.call(step, unix.SYS_FSCONFIG, 0, unix.FSCONFIG_SET_STRING, p.str(o[0]), p.str(o[1]), 0).from(0, fs)
	}
	p.call("mount proc: create", unix.SYS_FSCONFIG, 0, unix.FSCONFIG_CMD_CREATE, 0, 0, 0).from(0, fs)
	return p.opens(p.call("mount proc: fsmount", unix.SYS_FSMOUNT, 0, unix.FSMOUNT_CLOEXEC, uintptr(attrs)).from(0, fs))
}

// openBelow looks path up below dir: not out of its file system, and through no magic link. If it
// is not there, the next skip calls are left out.
func (p *Program) openBelow(step string, dir *os.File, path string, flags uint64, skip int) Reg {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	open := p.call(step, unix.SYS_OPENAT2, p.file(dir), p.str(path), pin(p, how), unsafe.Sizeof(how))
	if skip > 0 {
		open.or(skip, unix.ENOENT, unix.ENOTDIR)
	}
	return p.result(open)
}

// Attach attaches a mount at a path below dir. With optional, a path that is not there is left
// alone.
func (p *Program) Attach(step string, mount, dir *os.File, path string, optional bool) {
	skip := 0
	if optional {
		skip = 1
	}
	target := p.openBelow(step, dir, path, unix.O_PATH, skip)
	p.call(step, unix.SYS_MOVE_MOUNT, p.file(mount), p.str(""), 0, p.str(""),
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH).from(2, target)
}

// Mask hides a path below dir: a directory behind an empty read-only tmpfs, anything else behind a
// read-only bind mount of null, an open node. A path that is not there needs no hiding.
func (p *Program) Mask(step string, null, dir *os.File, path string) {
	empty := p.str("")
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH

	target := p.openBelow(step, dir, path, unix.O_PATH|unix.O_DIRECTORY, 5)
	fs := p.result(p.call(step, unix.SYS_FSOPEN, p.str("tmpfs"), unix.FSOPEN_CLOEXEC))
	p.call(step, unix.SYS_FSCONFIG, 0, unix.FSCONFIG_SET_STRING, p.str("nr_inodes"), p.str("1"), 0).from(0, fs)
	p.call(step, unix.SYS_FSCONFIG, 0, unix.FSCONFIG_CMD_CREATE, 0, 0, 0).from(0, fs)
	mask := p.result(p.call(step, unix.SYS_FSMOUNT, 0, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY).from(0, fs))
	p.call(step, unix.SYS_MOVE_MOUNT, 0, empty, 0, empty, flags).from(0, mask).from(2, target)

	p.call(step, opSkipUnlessZero, uintptr(target)).skip = 4
	other := p.openBelow(step, dir, path, unix.O_PATH, 3)
	mask = p.result(p.call(step, unix.SYS_OPEN_TREE, p.file(null), empty, cloneTreeFlags))
	p.call(step, unix.SYS_MOUNT_SETATTR, 0, empty, unix.AT_EMPTY_PATH, pin(p, attr), unsafe.Sizeof(attr)).from(0, mask)
	p.call(step, unix.SYS_MOVE_MOUNT, 0, empty, 0, empty, flags).from(0, mask).from(2, other)
}

const cloneTreeFlags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH

// ReadOnly makes a path below dir, and all that is mounted below it, a read-only bind mount of
// itself. A path that is not there is left alone.
func (p *Program) ReadOnly(step string, dir *os.File, path string) {
	empty := p.str("")
	target := p.openBelow(step, dir, path, unix.O_PATH, 3)
	bind := p.result(p.call(step, unix.SYS_OPEN_TREE, 0, empty, cloneTreeFlags|unix.AT_RECURSIVE).from(0, target))
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	p.call(step, unix.SYS_MOUNT_SETATTR, 0, empty, unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, pin(p, attr), unsafe.Sizeof(attr)).from(0, bind)
	p.call(step, unix.SYS_MOVE_MOUNT, 0, empty, 0, empty,
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH).from(0, bind).from(2, target)
}

// WriteFile writes into a file below dir that exists.
func (p *Program) WriteFile(step string, dir *os.File, path, content string) {
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV}
	file := p.result(p.call(step, unix.SYS_OPENAT2, p.file(dir), p.str(path), pin(p, how), unsafe.Sizeof(how)))
	p.call(step, unix.SYS_WRITE, 0, p.str(content), uintptr(len(content))).from(0, file)
	p.call(step, unix.SYS_CLOSE).from(0, file)
}
