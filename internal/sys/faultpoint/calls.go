package faultpoint

import (
	"bytes"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Kind says what a call does to a file system.
type Kind int

// Kinds of calls.
const (
	Write  Kind = iota // puts bytes or attributes into a file: may need room
	Make               // makes a name: may need room, and an inode
	Rename             // may need room
	Remove             // gives room back, or needs none
	Sync               // waits for the disk
	Mount              // changes what is mounted
)

// where says in which arguments a call tells what it is about.
type where int

const (
	byFile   where = iota // a descriptor, the first argument
	byPath                // a directory's descriptor and a path, the first two
	byPaths               // the same twice
	bySecond              // the path follows something else
	byPlain               // a path without a directory, the first
	byOut                 // a descriptor, the third
	byNone
)

type call struct {
	nr    uintptr
	name  string
	kind  Kind
	where where
}

// calls lists the calls after which a disk, or the tree of mounts, is another one.
func calls() []call {
	return []call{
		{unix.SYS_WRITE, "write", Write, byFile},
		{unix.SYS_PWRITE64, "pwrite64", Write, byFile},
		{unix.SYS_WRITEV, "writev", Write, byFile},
		{unix.SYS_PWRITEV, "pwritev", Write, byFile},
		{unix.SYS_PWRITEV2, "pwritev2", Write, byFile},
		{unix.SYS_COPY_FILE_RANGE, "copy_file_range", Write, byOut},
		{unix.SYS_SENDFILE, "sendfile", Write, byFile},
		{unix.SYS_SPLICE, "splice", Write, byOut},
		{unix.SYS_IOCTL, "ioctl FICLONE", Write, byFile},
		{unix.SYS_FTRUNCATE, "ftruncate", Write, byFile},
		{unix.SYS_FALLOCATE, "fallocate", Write, byFile},
		{unix.SYS_FSETXATTR, "fsetxattr", Write, byFile},
		{unix.SYS_SETXATTR, "setxattr", Write, byPlain},
		{unix.SYS_LSETXATTR, "lsetxattr", Write, byPlain},
		{unix.SYS_OPENAT, "open O_CREAT", Make, byPath},
		{unix.SYS_MKDIRAT, "mkdir", Make, byPath},
		{unix.SYS_MKNODAT, "mknod", Make, byPath},
		{unix.SYS_SYMLINKAT, "symlink", Make, bySecond},
		{unix.SYS_LINKAT, "link", Make, byPaths},
		{unix.SYS_RENAMEAT, "rename", Rename, byPaths},
		{unix.SYS_RENAMEAT2, "rename", Rename, byPaths},
		{unix.SYS_UNLINKAT, "unlink", Remove, byPath},
		{unix.SYS_FCHMODAT, "chmod", Remove, byPath},
		{unix.SYS_FSYNC, "fsync", Sync, byFile},
		{unix.SYS_FDATASYNC, "fdatasync", Sync, byFile},
		{unix.SYS_SYNCFS, "syncfs", Sync, byFile},
		{unix.SYS_SYNC_FILE_RANGE, "sync_file_range", Sync, byFile},
		{unix.SYS_MOUNT, "mount", Mount, byNone},
		{unix.SYS_UMOUNT2, "umount", Mount, byPlain},
		{unix.SYS_FSMOUNT, "fsmount", Mount, byNone},
		{unix.SYS_MOVE_MOUNT, "move_mount", Mount, byNone},
		{unix.SYS_MOUNT_SETATTR, "mount_setattr", Mount, byNone},
	}
}

// Offsets in struct seccomp_data of linux/seccomp.h.
const (
	dataNr    = 0
	dataArgs  = 16
	argLength = 8
)

// wakeLength is what eventfd(2) takes, in bytes.
const wakeLength = 8

// lowHalf is where the lower 32 bits of an argument are. All machines of tarn are little-endian.
func lowHalf(arg int) uint32 { return uint32(dataArgs + arg*argLength) }

// filter is a program of classic BPF that has the calls above asked about, and lets others pass.
func filter() []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	ret := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	unless := func(test uint16, k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, Jf: skip, K: k}
	}
	program := []unix.SockFilter{load(dataNr)}
	for _, c := range calls() {
		ask := []unix.SockFilter{ret(unix.SECCOMP_RET_USER_NOTIF)}
		switch c.nr {
		case unix.SYS_OPENAT:
			ask = []unix.SockFilter{load(lowHalf(2)), unless(unix.BPF_JSET, unix.O_CREAT, 1), ask[0], ret(unix.SECCOMP_RET_ALLOW)}
		case unix.SYS_WRITE:
			// Go's runtime wakes its threads by writing 8 bytes to an eventfd, the listener's own among them: it would wait
			// for itself.
			ask = []unix.SockFilter{load(lowHalf(2)), unless(unix.BPF_JEQ, wakeLength, 1), ret(unix.SECCOMP_RET_ALLOW), ask[0]}
		case unix.SYS_IOCTL:
			ask = []unix.SockFilter{load(lowHalf(1)), unless(unix.BPF_JEQ, unix.FICLONE, 1), ask[0], ret(unix.SECCOMP_RET_ALLOW)}
		}
		program = append(append(program, unless(unix.BPF_JEQ, uint32(c.nr), uint8(len(ask)))), ask...)
	}
	return append(program, ret(unix.SECCOMP_RET_ALLOW))
}

// paths tells what the call is about.
func (n *notice) paths(c call) []string {
	switch c.where {
	case byFile:
		return []string{n.file(n.args[0])}
	case byOut:
		return []string{n.file(n.args[2])}
	case byPath:
		return []string{n.at(n.args[0], n.args[1])}
	case bySecond:
		return []string{n.at(n.args[1], n.args[2])}
	case byPaths:
		return []string{n.at(n.args[0], n.args[1]), n.at(n.args[2], n.args[3])}
	case byPlain:
		return []string{n.text(n.args[0])}
	default:
		return nil
	}
}

// file gives the path of an open file.
func (n *notice) file(fd uint64) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.tid, int32(fd)))
	if err != nil {
		return ""
	}
	return path
}

// at gives the path of a name below a directory.
func (n *notice) at(dir, name uint64) string {
	path := n.text(name)
	if filepath.IsAbs(path) || int32(dir) == unix.AT_FDCWD {
		return path
	}
	return filepath.Join(n.file(dir), path)
}

// lines yields the lines of a text.
func lines(text []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		for line := range bytes.Lines(text) {
			if !yield(string(line)) {
				return
			}
		}
	}
}
