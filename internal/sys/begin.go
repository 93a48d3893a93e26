package sys

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrKilled says that a process was killed on its way.
var ErrKilled = errors.New("the process was killed")

// Begun is a process that has done the first part of a program, and waits for the rest of it. Until it
// is given that, it has all descriptors that we have.
type Begun struct {
	*Spawned
	program *Program
	done    int // so many operations are its first part
	regs    []uintptr
	// reportFile is what ReportTo was given.
	reportFile *os.File
	// told is where it says how far it is, until where it waits for being let go on: pipes, read end first.
	told, until [2]int
}

// Begin makes a process that does what the program has so far. What is added to the program later, it
// does when it is told to go on ([Begun.Continue]). Its descriptors are ours: what it opens we have
// ([Begun.File]), and what we open it can use. With share it uses our memory, too, instead of a copy of
// it. flags and cgroup are as in [Fork]. The program must have [Program.DieWithParent]: else, the
// process would wait for ever if we were killed.
//
// The caller closes the Begun, and then the program, when the process has come to its exec or has ended.
func Begin(flags uint64, cgroup *os.File, p *Program, share bool) (_ *Begun, err error) {
	b := &Begun{program: p, told: [2]int{-1, -1}, until: [2]int{-1, -1}, done: len(p.ops), regs: p.registers()}
	if err := errors.Join(unix.Pipe2(b.told[:], unix.O_CLOEXEC), unix.Pipe2(b.until[:], unix.O_CLOEXEC)); err != nil {
		b.closePipes()
		return nil, fmt.Errorf("pipe: %w", err)
	}
	if p.again != nil {
		p.again.flags |= unix.CLONE_FILES
	}
	fork := forking(fork)
	if share {
		fork = forkSharing(p)
	}
	ops := append(slices.Clone(p.ops), b.tell(),
		op{"wait", call{nr: unix.SYS_READ, args: [6]uintptr{uintptr(b.until[0]), pin(p, byte(0)), 1}}},
		op{"go on", call{nr: opNext}})
	if b.Spawned, err = spawn(flags|unix.CLONE_FILES, cgroup, p, ops, b.regs, fork); err != nil {
		b.closePipes()
		return nil, err
	}
	return b, nil
}

func (b *Begun) tell() op {
	return op{"tell", call{nr: unix.SYS_WRITE, args: [6]uintptr{uintptr(b.told[1]), b.program.str("!"), 1}}}
}

func (b *Begun) closePipes() {
	for _, fd := range []*int{&b.told[0], &b.told[1], &b.until[0], &b.until[1]} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

// End ends the process, whichever it is by now.
func (b *Begun) End() {
	b.Kill()
	_ = b.Heir()
	b.discard()
}

// Close lets go of what the process and we had in common; the pidfd stays open.
func (b *Begun) Close() {
	b.closeFiles()
	b.Spawned.Close()
}

// closeFiles closes what was only needed until the process has its own descriptors.
func (b *Begun) closeFiles() {
	b.closePipes()
	for _, r := range b.program.opened {
		if fd := b.regs[r]; fd != 0 {
			_ = unix.Close(int(fd))
		}
	}
	b.program.opened = nil
}

// File gives what the process has opened in the first part of its program, when it has done that
// ([Begun.Wait]). The caller closes it.
func (b *Begun) File(r Reg, name string) *os.File {
	b.program.opened = slices.DeleteFunc(b.program.opened, func(o Reg) bool { return o == r })
	return os.NewFile(b.regs[r], name)
}

// Wait waits until the process has done the first part of its program. If it has not, the error is a
// [*StepError], or [ErrKilled].
func (b *Begun) Wait() error {
	for {
		fds := []unix.PollFd{{Fd: int32(b.told[0]), Events: unix.POLLIN}, {Fd: int32(b.PidFD.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		heir := b.report().heir
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for a process: %w", err)
		case fds[0].Revents != 0:
			_, err := retryIntr(func() (int, error) { return unix.Read(b.told[0], make([]byte, 1)) })
			return errors.Join(err, b.Heir())
		case heir != 0 && int(heir) != b.Pid:
			if err := b.Heir(); err != nil {
				return err
			}
		case b.Failure() != nil:
			return b.Failure()
		default:
			return ErrKilled
		}
	}
}

// Continue has the process go on with the rest of the program. It has no descriptors from then on but
// those that the program names.
func (b *Begun) Continue() error {
	defer b.closeFiles()
	p := b.program
	first := []op{
		{"unshare descriptors", call{nr: unix.SYS_UNSHARE, args: [6]uintptr{unix.CLONE_FILES}}},
		{"prctl PR_SET_PDEATHSIG", call{nr: unix.SYS_PRCTL, args: [6]uintptr{unix.PR_SET_PDEATHSIG, 0}}},
	}
	if b.reportFile != nil {
		first = append(first, op{"map the report", b.mapReport()})
	}
	b.ops = slices.Concat(append(first, b.tell()), p.closeOthers(), p.ops[b.done:])
	regs := p.registers()
	copy(regs, b.regs)
	b.regs = regs
	b.report().next = p.task(b.ops, regs, b.report())
	if err := p.check(); err != nil {
		return err
	}
	if _, err := unix.Write(b.until[1], []byte{1}); err != nil {
		return fmt.Errorf("let a process go on: %w", err)
	}
	// When it has descriptors of its own, ours can be closed.
	if err := b.Wait(); err != nil || b.reportFile == nil {
		return err
	}
	// The same for us, if we have a memory of our own.
	m := b.mapReport()
	if _, _, errno := unix.Syscall6(m.nr, m.args[0], m.args[1], m.args[2], m.args[3], m.args[4], m.args[5]); errno != 0 {
		return fmt.Errorf("map the report: %w", errno)
	}
	return nil
}

// ReportTo has the process say in a file of this program's which step of the rest of its program failed: somebody else
// may want to know that, when this program has ended. See [ReadFailure].
func (b *Begun) ReportTo(f *os.File) error {
	b.reportFile = f
	return f.Truncate(int64(os.Getpagesize()))
}

// mapReport is the call that puts the file in the place of the page that we have in common. It comes before there are
// limits of memory.
func (b *Begun) mapReport() call {
	page := uintptr(unsafe.Pointer(unsafe.SliceData(b.page)))
	return call{nr: unix.SYS_MMAP, args: [6]uintptr{
		page, uintptr(len(b.page)), unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_FIXED, b.program.file(b.reportFile), 0,
	}}
}

// ReadFailure gives why the last step failed of a process that had [Begun.ReportTo], 0 if none has. Of a file that was
// given to none it gives 0, too.
func ReadFailure(f *os.File) (unix.Errno, error) {
	var rep report
	b := unsafe.Slice((*byte)(unsafe.Pointer(&rep)), unsafe.Sizeof(rep.failed)+unsafe.Sizeof(rep.step)+unsafe.Sizeof(rep.errno))
	if _, err := f.ReadAt(b, 0); errors.Is(err, io.EOF) {
		return 0, nil
	} else if err != nil || rep.failed == 0 {
		return 0, err
	}
	return unix.Errno(rep.errno), nil
}
