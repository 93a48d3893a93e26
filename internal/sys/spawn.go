package sys

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Spawned is a process made by [Spawn] or [Begin].
type Spawned struct {
	Child
	page []byte
	ops  []op // the part of the program that it does
}

// Spawn makes a process that runs the program and nothing else, like [Fork], but does not wait for
// its exec: it is for programs that wait for something ([Program.Await]), for however long. The
// process may outlive this one. It has a copy of our memory, and costs more than one of Fork.
//
// How far it has come, the program itself says ([Program.Tell]). The caller closes the Spawned.
func Spawn(flags uint64, cgroup *os.File, p *Program) (*Spawned, error) {
	return spawn(flags, cgroup, p, slices.Concat(p.closeOthers(), p.ops), p.registers(), fork)
}

// forking makes a process that does a task: [fork], or what [forkSharing] gives.
type forking func(args *cloneArgs, t *task) (pid uintptr, errno syscall.Errno)

// spawn makes a process that does ops.
func spawn(flags uint64, cgroup *os.File, p *Program, ops []op, regs []uintptr, fork forking) (*Spawned, error) {
	page, err := reportPage()
	if err != nil {
		return nil, err
	}
	s := &Spawned{page: page, ops: ops}
	if p.again != nil {
		p.again.parentTID = uint64(uintptr(unsafe.Pointer(&s.report().heir)))
	}
	pidfd := place(p, int32(-1))
	t := place(p, p.task(ops, regs, s.report()))
	if err := p.check(); err != nil {
		s.Close()
		return nil, err
	}
	pid, errno := fork(newCloneArgs(flags, cgroup, pidfd), t)
	runtime.KeepAlive(p)
	runtime.KeepAlive(cgroup)
	if errno != 0 {
		s.Close()
		return nil, fmt.Errorf("clone3: %w", errno)
	}
	s.Child = newChild(pid, *pidfd)
	return s, nil
}

func (s *Spawned) report() *report { return (*report)(unsafe.Pointer(&s.page[0])) }

// Failure gives the step that failed, a [*StepError], or nil. It is known for certain when the
// process has ended.
func (s *Spawned) Failure() error { return s.report().err(s.ops) }

// Discard ends the process, and closes all that is left of it.
func (s *Spawned) Discard() {
	s.discard()
	s.Close()
}

// Close lets go of the memory that the report is in; the pidfd stays open.
func (s *Spawned) Close() { _ = unix.Munmap(s.page) }

// Tell writes one byte to f, and closes it.
func (p *Program) Tell(f *os.File) {
	fd := p.file(f)
	p.call("tell", unix.SYS_WRITE, fd, p.str("!"), 1)
	p.call("tell", unix.SYS_CLOSE, fd)
}

// Await waits until a byte can be read from f. If there is none to come any more, the process ends.
func (p *Program) Await(f *os.File) {
	got := p.result(p.call("await", unix.SYS_READ, p.file(f), pin(p, byte(0)), 1))
	end := p.call("await", opSkipUnlessZero, uintptr(got))
	end.skip = 1
	p.call("await", unix.SYS_EXIT_GROUP, failedStatus)
}
