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

// Spawned is a process made by [Spawn].
type Spawned struct {
	Child
	page []byte
	ops  []op
}

// Spawn makes a process that runs the program and nothing else, like [Fork], but does not wait for
// its exec: it is for programs that wait for something ([Program.Await]), for however long. The
// process may outlive this one. It has a copy of our memory, and costs more than one of Fork.
//
// How far it has come, the program itself says ([Program.Tell]). The caller closes the Spawned.
func Spawn(flags uint64, cgroup *os.File, p *Program) (*Spawned, error) {
	page, err := reportPage()
	if err != nil {
		return nil, err
	}
	pidfd := new(int32)
	args := newCloneArgs(flags, cgroup, pin(p, pidfd))
	s := &Spawned{page: page, ops: slices.Concat(p.closeOthers(), p.ops)}
	if p.again != nil {
		p.again.parentTID = uint64(uintptr(unsafe.Pointer(&s.report().heir)))
	}
	pid, errno := fork(args, s.ops, make([]uintptr, p.regs+1), s.report())
	runtime.KeepAlive(p)
	runtime.KeepAlive(cgroup)
	if errno != 0 {
		return nil, fmt.Errorf("clone3: %w", joinUnmap(errno, page))
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

// reportPage is memory that is shared with children, also with those that have a copy of the rest.
func reportPage() ([]byte, error) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("fork: %w", err)
	}
	return page, nil
}

func joinUnmap(errno syscall.Errno, page []byte) error {
	_ = unix.Munmap(page)
	return errno
}

// Tell writes one byte to f, and closes it.
func (p *Program) Tell(f *os.File) {
	fd := p.file(f)
	p.call("tell", unix.SYS_WRITE, fd, p.str("!"), 1)
	p.call("tell", unix.SYS_CLOSE, fd)
}

// Await waits until a byte can be read from f. If there is none to come any more, the process ends.
func (p *Program) Await(f *os.File) {
	got := p.result(p.call("await", unix.SYS_READ, p.file(f), pin(p, new(byte)), 1))
	end := p.call("await", opSkipUnlessZero, uintptr(got))
	end.skip = 1
	p.call("await", unix.SYS_EXIT_GROUP, failedStatus)
}
