package sys

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The three functions below are package runtime's own preparations for a fork, which it keeps
// callable for this purpose (golang/go#67401). docs/adr/0201-own-fork.md says why tarn forks by
// itself.

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// StepError is a step of a child's [Program] that failed.
type StepError struct {
	Step  string
	Errno syscall.Errno
}

func (e *StepError) Error() string { return e.Step + ": " + e.Errno.Error() }

// Unwrap gives the error number.
func (e *StepError) Unwrap() error { return e.Errno }

// Child is a process made by [Fork].
type Child struct {
	Pid int
	// PidFD means that very process for as long as it is open.
	PidFD  *os.File
	report *os.File
	steps  []string
}

// cloneArgs is struct clone_args of linux/sched.h, its first 88 bytes (Linux 5.7).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// Fork makes a copy of this process, with only the calling thread in it, that runs the program
// and nothing else. flags are CLONE_NEW constants of clone(2). With cgroup, an open directory of
// a cgroup2 hierarchy, the child begins in that cgroup.
//
// The child has no file open but those the program names. It ends with the calling thread, if
// the program contains [Program.DieWithParent].
func Fork(flags uint64, cgroup *os.File, p *Program) (*Child, error) {
	pipe := make([]int, 2)
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	report, end := os.NewFile(uintptr(pipe[0]), "child's report"), os.NewFile(uintptr(pipe[1]), "child's end")
	defer end.Close() //nolint:errcheck // a pipe
	pidfd := new(int32)
	args := &cloneArgs{
		flags:      flags | unix.CLONE_PIDFD,
		pidfd:      uint64(pin(p, pidfd)),
		exitSignal: uint64(unix.SIGCHLD),
	}
	if cgroup != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup.Fd())
	}
	ops := slices.Concat(p.closeOthers(pipe[1]), p.ops)
	pid, errno := fork(args, ops, uintptr(pipe[1]), make([]uintptr, p.regs+1), new([2]uint32))
	runtime.KeepAlive(p)
	runtime.KeepAlive(cgroup)
	if errno != 0 {
		_ = report.Close()
		return nil, fmt.Errorf("clone3: %w", errno)
	}
	steps := make([]string, 0, len(ops))
	for _, o := range ops {
		steps = append(steps, o.step)
	}
	return &Child{
		Pid:    int(pid),
		PidFD:  os.NewFile(uintptr(*pidfd), fmt.Sprintf("pidfd:%d", pid)),
		report: report,
		steps:  steps,
	}, nil
}

// AwaitExec waits until the child has executed its program's last step, an exec, or could not:
// then the error is a [*StepError], and the child has ended, or will at once.
func (c *Child) AwaitExec() error {
	defer c.report.Close() //nolint:errcheck // a pipe
	var msg [8]byte
	_, err := io.ReadFull(c.report, msg[:])
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the child's report: %w", err)
	}
	i, errno := binary.NativeEndian.Uint32(msg[:]), binary.NativeEndian.Uint32(msg[4:])
	step := "unknown step"
	if int(i) < len(c.steps) {
		step = c.steps[i]
	}
	return &StepError{Step: step, Errno: syscall.Errno(errno)}
}

// fork returns in the parent only. From the clone to the child's exec nothing may allocate, grow
// the stack, or wait for another thread: they do not exist in the child. So all it will need is
// made before.
//
//go:noinline
//go:norace
func fork(args *cloneArgs, ops []op, report uintptr, regs []uintptr, msg *[2]uint32) (uintptr, syscall.Errno) {
	runtimeBeforeFork()
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || pid != 0 {
		runtimeAfterFork()
		return pid, errno
	}
	runtimeAfterForkInChild()
	runChild(ops, report, regs, msg)
	return 0, 0
}

// runChild is the whole of what happens in the child: calls that were prepared before, one after
// the other, until one fails or is an exec. It never returns.
//
//go:nosplit
//go:norace
func runChild(ops []op, report uintptr, regs []uintptr, msg *[2]uint32) {
	var a [6]uintptr
	for i := 0; i < len(ops); i++ {
		o := &ops[i]
		if o.nr == opSkipUnlessZero {
			if regs[o.args[0]] != 0 {
				i += int(o.skip)
			}
			continue
		}
		for j := range a {
			a[j] = o.args[j]
			if o.regs&(1<<j) != 0 {
				a[j] = regs[a[j]]
			}
		}
		r, _, errno := syscall.RawSyscall6(o.nr, a[0], a[1], a[2], a[3], a[4], a[5])
		switch {
		case errno == 0 && (r == 0 || !o.zero):
			regs[o.save] = r
		case errno != 0 && (errno == o.tolerate[0] || errno == o.tolerate[1] || errno == o.tolerate[2]):
			regs[o.save] = 0
			i += int(o.skip)
		default:
			msg[0], msg[1] = uint32(i), uint32(errno)
			syscall.RawSyscall(unix.SYS_WRITE, report, uintptr(unsafe.Pointer(msg)), unsafe.Sizeof(*msg))
			i = len(ops)
		}
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 125, 0, 0)
	}
}
