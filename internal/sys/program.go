package sys

import (
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Program is what the child of a [Fork] does: system calls in order, with all their arguments in
// place. If one fails, the child reports which, and ends.
type Program struct {
	ops   []op
	fds   []int
	files []*os.File // so that no finalizer closes them
	regs  Reg
	// opened are the results that are descriptors which somebody has to close.
	opened []Reg
	// again is what ForkAgain passes to clone3(2).
	again *cloneArgs
	memory
}

// Reg stands for what a call in the child will return: usually a descriptor. 0 is where results go
// that nobody asked for.
type Reg uintptr

// opSkipUnlessZero is no system call: it skips if the register args[0] is not 0.
const opSkipUnlessZero = ^uintptr(0)

// opNext is none, either: the child goes on with the calls of report.next.
const opNext = ^uintptr(1)

// op is a call with a name.
type op struct {
	step string
	call
}

// call is a system call to be made by the child.
type call struct {
	nr       uintptr
	args     [6]uintptr
	regs     uint8            // bit i: args[i] is the register that has the argument
	save     Reg              // where the result goes
	zero     bool             // a result other than 0 is a failure
	parts    bool             // who gets another result than 0 ends, and well
	tolerate [3]syscall.Errno // these are no failure: the result is 0, and
	skip     uint8            // so many of the following calls are left out
}

// Close gives back the memory that the program's arguments are in. Children that share our memory must
// have come to their exec, or have ended.
func (p *Program) Close() { p.release() }

func (p *Program) call(step string, nr uintptr, args ...uintptr) *op {
	if p.ops == nil {
		const usual = 256 // of a container's process
		p.ops = make([]op, 0, usual)
	}
	o := op{step: step, call: call{nr: nr}}
	copy(o.args[:], args)
	p.ops = append(p.ops, o)
	return &p.ops[len(p.ops)-1]
}

// result reserves a register for what the call gives.
func (p *Program) result(o *op) Reg {
	p.regs++
	o.save = p.regs
	return p.regs
}

// opens says that the call gives a descriptor.
func (p *Program) opens(o *op) Reg {
	r := p.result(o)
	p.opened = append(p.opened, r)
	return r
}

// from says that argument i is in a register.
func (o *op) from(i int, r Reg) *op {
	o.args[i] = uintptr(r)
	o.regs |= 1 << i
	return o
}

// or says which errors are no failure, and how many of the next calls then make no sense.
func (o *op) or(skip int, errnos ...syscall.Errno) *op {
	copy(o.tolerate[:], errnos)
	o.skip = uint8(skip)
	return o
}

// file makes f's descriptor one that stays open in the child.
func (p *Program) file(f *os.File) uintptr {
	fd := f.Fd()
	p.fds = append(p.fds, int(fd))
	p.files = append(p.files, f)
	return fd
}

// closeOthers gives the calls that close every descriptor above 2 but the program's.
func (p *Program) closeOthers() []op {
	keep := slices.Sorted(slices.Values(append(slices.Clone(p.fds), 2)))
	keep = slices.DeleteFunc(slices.Compact(keep), func(fd int) bool { return fd < 2 })
	var ops []op
	for i, fd := range keep {
		first, last := uintptr(fd+1), uintptr(^uint32(0))
		if i+1 < len(keep) {
			last = uintptr(keep[i+1] - 1)
		}
		if first <= last {
			ops = append(ops, op{"close_range", call{nr: unix.SYS_CLOSE_RANGE, args: [6]uintptr{first, last}}})
		}
	}
	return ops
}

// ResetSignals gives every signal its default meaning, and blocks none.
func (p *Program) ResetSignals() {
	const signals = 64
	action := pin(p, [4]uint64{}) // struct sigaction of the kernel: all zero is SIG_DFL
	for sig := uintptr(1); sig <= signals; sig++ {
		if sig != uintptr(unix.SIGKILL) && sig != uintptr(unix.SIGSTOP) {
			p.call("rt_sigaction", unix.SYS_RT_SIGACTION, sig, action, 0, 8)
		}
	}
	p.call("rt_sigprocmask", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, pin(p, uint64(0)), 0, 8)
}

// Unshare moves the child into new namespaces, see unshare(2).
func (p *Program) Unshare(flags uintptr) { p.call("unshare", unix.SYS_UNSHARE, flags) }

// NewSessionKeyring gives the child a session keyring of its own, instead of ours with our keys in it,
// see session-keyring(7). A kernel without keyrings has nothing to hide.
func (p *Program) NewSessionKeyring() {
	p.call("keyctl KEYCTL_JOIN_SESSION_KEYRING", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0).or(0, unix.ENOSYS)
}

// NotDumpable hides the child's memory, files and executable (/proc/PID/exe, which is this very
// program until the exec) from all but the host's root.
func (p *Program) NotDumpable() {
	p.call("prctl PR_SET_DUMPABLE", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
}

// DieWithParent has the child killed when the thread that forked it ends; parent is a pidfd of this
// process. Capabilities and user IDs must not change after it, which would undo it.
func (p *Program) DieWithParent(parent *os.File) {
	p.call("prctl PR_SET_PDEATHSIG", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	// It may have died before. Nobody reads the report then.
	poll := unix.PollFd{Fd: int32(p.file(parent)), Events: unix.POLLIN}
	p.call("poll the parent", unix.SYS_PPOLL, pin(p, poll), 1, pin(p, unix.Timespec{}), 0, 0).zero = true
}

// NewSession makes the child the leader of a new session.
func (p *Program) NewSession() { p.call("setsid", unix.SYS_SETSID) }

// ControllingTerminal makes tty the terminal of the child's session.
func (p *Program) ControllingTerminal(tty *os.File) {
	p.call("ioctl TIOCSCTTY", unix.SYS_IOCTL, p.file(tty), unix.TIOCSCTTY, 0)
}

// Write writes to an open file.
func (p *Program) Write(step string, f *os.File, content string) {
	p.call(step, unix.SYS_WRITE, p.file(f), p.str(content), uintptr(len(content)))
}

// Dup makes f descriptor number to as well. f's own number must be above every to.
func (p *Program) Dup(f *os.File, to int) {
	p.call("dup3", unix.SYS_DUP3, p.file(f), uintptr(to), 0)
}

// CloseOnExec has every descriptor from first on closed by the exec.
func (p *Program) CloseOnExec(first int) {
	p.call("close_range", unix.SYS_CLOSE_RANGE, uintptr(first), uintptr(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC)
}

// KeepUntilExec leaves a file open in the child until its exec.
func (p *Program) KeepUntilExec(f *os.File) { p.file(f) }

// Keep leaves a descriptor open in the child that belongs to nobody here.
func (p *Program) Keep(fd int) { p.fds = append(p.fds, fd) }

// Umask sets the file mode creation mask.
func (p *Program) Umask(mask uint32) { p.call("umask", unix.SYS_UMASK, uintptr(mask)) }

// StepRlimit is the step of [Program.Rlimit], for who can say what it means that it failed.
const StepRlimit = "setrlimit"

// Rlimit sets a resource limit, see setrlimit(2).
func (p *Program) Rlimit(resource int, soft, hard uint64) {
	lim := unix.Rlimit{Cur: soft, Max: hard}
	p.call(StepRlimit, unix.SYS_PRLIMIT64, 0, uintptr(resource), pin(p, lim), 0)
}

// SetGroups sets the supplementary groups.
func (p *Program) SetGroups(gids []uint32) {
	var addr uintptr
	if len(gids) > 0 {
		addr = uintptr(unsafe.Pointer(&list(p, gids)[0]))
	}
	p.call("setgroups", unix.SYS_SETGROUPS, uintptr(len(gids)), addr)
}

// SetUser sets the real, effective and saved group and user ID; capabilities stay permitted.
func (p *Program) SetUser(uid, gid uint32) {
	p.call("prctl PR_SET_KEEPCAPS", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1)
	p.call("setgid", unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
	p.call("setuid", unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
	p.call("prctl PR_SET_KEEPCAPS", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 0)
}

// NoNewPrivs has no exec gain privileges from now on.
func (p *Program) NoNewPrivs() {
	p.call("prctl PR_SET_NO_NEW_PRIVS", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
}

// sockFprog is struct sock_fprog of linux/filter.h.
type sockFprog struct {
	len    uint16
	filter uintptr
}

// Seccomp loads a system call filter: an array of struct sock_filter, of 8 bytes each. It needs
// CAP_SYS_ADMIN or [Program.NoNewPrivs], and all that follows is subject to it. flags are Seccomp
// constants, and those of [SeccompFlag].
func (p *Program) Seccomp(filter []byte, flags uint) {
	prog := sockFprog{len: uint16(len(filter) / 8), filter: uintptr(unsafe.Pointer(&list(p, filter)[0]))}
	p.call("seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), pin(p, prog))
}

// EnterRoot makes a directory the child's root, and its working directory.
func (p *Program) EnterRoot(dir *os.File) {
	p.call("enter the root", unix.SYS_FCHDIR, p.file(dir))
	p.call("chroot", unix.SYS_CHROOT, p.str("."))
}

// EnterWith moves the child into a mount namespace, and takes a copy of what is mounted at dir and below along,
// attached nowhere: that is its root and working directory then.
func (p *Program) EnterWith(ns, dir *os.File) {
	const copied = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE | unix.AT_EMPTY_PATH
	tree := p.result(p.call("open_tree", unix.SYS_OPEN_TREE, p.file(dir), p.str(""), copied))
	p.Enter("setns mnt", ns, NewMount)
	p.call("enter the root", unix.SYS_FCHDIR).from(0, tree)
	p.call("chroot", unix.SYS_CHROOT, p.str("."))
}

// Chdir goes to an absolute path as the container sees it, but through none of the magic links
// of /proc: at this moment /proc/self/fd leads to the host's files (CVE-2024-21626). It gives
// a value for [Program.ChdirAgain].
func (p *Program) Chdir(path string) Reg {
	return p.chdir(path, unix.EACCES)
}

// ChdirAgain tries again if permission was denied: the container's user may reach what root may
// not (FUSE, NFS).
func (p *Program) ChdirAgain(path string, first Reg) {
	p.call("chdir", opSkipUnlessZero, uintptr(first)).skip = 2
	p.chdir(path)
}

func (p *Program) chdir(path string, tolerate ...syscall.Errno) Reg {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_MAGICLINKS,
	}
	step := "chdir to " + path
	open := p.call(step, unix.SYS_OPENAT2, fdcwd, p.str(path), pin(p, how), unsafe.Sizeof(how)).or(1, tolerate...)
	dir := p.result(open)
	p.call(step, unix.SYS_FCHDIR).from(0, dir)
	return dir
}

// RefuseMagicLinks fails if a path goes through a magic link of /proc. Until the exec, /proc/self/exe
// is this very program, and a container that executed it could then write to it (CVE-2019-5736).
func (p *Program) RefuseMagicLinks(step, path string) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	p.call(step, unix.SYS_OPENAT2, fdcwd, p.str(path), pin(p, how), unsafe.Sizeof(how))
}

// Exec executes a program, looked up from the root or the working directory. It is the last step.
func (p *Program) Exec(step, path string, args, env []string) {
	p.call(step, unix.SYS_EXECVE, p.str(path), p.strs(args), p.strs(env))
}

// fdcwd is AT_FDCWD as an argument.
const fdcwd = ^uintptr(-unix.AT_FDCWD - 1)
