package sys

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The three functions below are package runtime's own preparations for a fork, which it keeps
// callable for this purpose (golang/go#67401). docs/adr/own-fork.md says why tarn forks by
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
	PidFD *os.File
}

// cloneArgs is struct clone_args of linux/sched.h, its first 88 bytes (Linux 5.7).
type cloneArgs struct {
	flags, pidfd, _, parentTID, exitSignal, stack, stackSize, _, _, _, cgroup uint64
}

// report is where a child says which of its steps failed. It lies in memory that both see, also
// where they share nothing else.
type report struct {
	failed      uint32 // 1 if a step has
	step, errno uint32
	heir        int32 // the process of Program.ForkAgain
	next        task  // for opNext
}

// task is what a child does: calls, and the registers of their results.
type task struct {
	calls *call
	count int
	regs  *uintptr
	rep   *report
}

// registers are for the results of all calls of the program.
func (p *Program) registers() []uintptr { return list(p, make([]uintptr, p.regs+1)) }

func (p *Program) task(ops []op, regs []uintptr, rep *report) task {
	calls := p.calls(ops)
	return task{unsafe.SliceData(calls), len(calls), unsafe.SliceData(regs), rep}
}

// err gives the step that failed, or nil.
func (r *report) err(ops []op) error {
	if r.failed == 0 {
		return nil
	}
	return &StepError{Step: ops[r.step].step, Errno: syscall.Errno(r.errno)}
}

// failedStatus is the exit status of a child that did not come to its exec.
const failedStatus = 125

// Fork makes a process with only the calling thread in it that runs the program and nothing
// else, and returns when the program's last step, an exec, has succeeded. flags are CLONE_NEW
// constants of clone(2). With cgroup, an open directory of a cgroup2 hierarchy, the child begins
// in that cgroup.
//
// If a step fails the error is a [*StepError]; if ctx ends first it is that. With an error there
// is no process.
//
// The child has no file open but those the program names. It ends with the calling thread, if
// the program contains [Program.DieWithParent].
func Fork(ctx context.Context, flags uint64, cgroup *os.File, p *Program) (*Child, error) {
	page, err := reportPage()
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(page) //nolint:errcheck // memory
	rep := (*report)(unsafe.Pointer(&page[0]))
	pidfd := place(p, int32(-1))
	args := newCloneArgs(flags|unix.CLONE_VFORK|shareMemory, cgroup, pidfd)
	ops := slices.Concat(p.closeOthers(), p.ops)
	t := place(p, p.task(ops, p.registers(), rep))
	if err := p.check(); err != nil {
		return nil, err
	}
	stop := killAtEnd(ctx, pidfd)
	pid, errno := fork(args, t)
	stop()
	runtime.KeepAlive(p)
	runtime.KeepAlive(cgroup)
	if errno != 0 {
		return nil, fmt.Errorf("clone3: %w", errno)
	}
	child := newChild(pid, *pidfd)
	if err = context.Cause(ctx); err == nil {
		err = rep.err(ops)
	}
	if err != nil {
		child.discard()
		return nil, err
	}
	return &child, nil
}

func newCloneArgs(flags uint64, cgroup *os.File, pidfd *int32) *cloneArgs {
	args := &cloneArgs{
		flags:      flags | unix.CLONE_PIDFD,
		pidfd:      uint64(uintptr(unsafe.Pointer(pidfd))),
		exitSignal: uint64(unix.SIGCHLD),
	}
	if cgroup != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup.Fd())
	}
	return args
}

func newChild(pid uintptr, pidfd int32) Child {
	return Child{Pid: int(pid), PidFD: os.NewFile(uintptr(pidfd), fmt.Sprintf("pidfd:%d", pid))}
}

// discard ends a child.
func (c *Child) discard() {
	_ = SignalPidFD(c.PidFD, unix.SIGKILL)
	_, _ = WaitPidFD(c.PidFD)
	_ = c.PidFD.Close()
}

// killAtEnd has the child killed when ctx ends, for the thread that made it waits for its exec. When
// stop has returned, the pidfd is not used any more.
func killAtEnd(ctx context.Context, pidfd *int32) (stop func()) {
	returned, killed := make(chan struct{}), make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(killed)
		for {
			if fd := atomic.LoadInt32(pidfd); fd >= 0 {
				_ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
				return
			}
			select {
			case <-returned:
				return
			case <-time.After(time.Millisecond): // it is not made yet
			}
		}
	})
	return func() {
		close(returned)
		if !cancel() {
			<-killed
		}
	}
}

// fork returns in the parent only, when the child has executed or ended. The child runs on this
// very stack: see rawVfork. From the clone to its exec nothing may allocate, grow the stack, or
// wait for another thread. So all it will need is made before.
//
//go:noinline
//go:norace
func fork(args *cloneArgs, t *task) (uintptr, syscall.Errno) {
	runtimeBeforeFork()
	pid, errno := rawVfork(args, unsafe.Sizeof(*args))
	if errno != 0 || pid != 0 {
		runtimeAfterFork()
		return pid, syscall.Errno(errno)
	}
	runtimeAfterForkInChild()
	runChild(t)
	return 0, 0
}

// runChild is the whole of what happens in the child: calls that were prepared before, one after
// the other, until one fails or is an exec. It never returns.
//
//go:nosplit
//go:norace
func runChild(t *task) {
	var a [6]uintptr
	now := *t
	for i := 0; i < now.count; i++ {
		o := now.call(i)
		switch o.nr {
		case opSkipUnlessZero:
			if *now.reg(o.args[0]) != 0 {
				i += int(o.skip)
			}
			continue
		case opNext:
			now, i = now.rep.next, -1
			continue
		}
		for j := range a {
			a[j] = o.args[j]
			if o.regs&(1<<j) != 0 {
				a[j] = *now.reg(a[j])
			}
		}
		r, _, errno := syscall.RawSyscall6(o.nr, a[0], a[1], a[2], a[3], a[4], a[5])
		switch {
		case errno == 0 && r != 0 && o.parts: // the registers are the other one's from now on
			_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		case errno == 0 && (r == 0 || !o.zero):
			*now.reg(uintptr(o.save)) = r
		case errno != 0 && (errno == o.tolerate[0] || errno == o.tolerate[1] || errno == o.tolerate[2]):
			*now.reg(uintptr(o.save)) = 0
			i += int(o.skip)
		default:
			now.rep.step, now.rep.errno, now.rep.failed = uint32(i), uint32(errno), 1
			i = now.count
		}
	}
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, failedStatus, 0, 0)
	}
}

//go:nosplit
func (t *task) call(i int) *call {
	return (*call)(unsafe.Add(unsafe.Pointer(t.calls), uintptr(i)*unsafe.Sizeof(call{})))
}

//go:nosplit
func (t *task) reg(r uintptr) *uintptr {
	return (*uintptr)(unsafe.Add(unsafe.Pointer(t.regs), r*unsafe.Sizeof(r)))
}
