package sys

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Enter moves the child into a namespace. Those of users and of time need a child that does not share
// our memory ([Spawn]).
func (p *Program) Enter(step string, ns *os.File, kind int) {
	p.call(step, unix.SYS_SETNS, p.file(ns), uintptr(kind))
}

// BeRoot makes the child root of the user namespace it is in. fixed is for one whose groups nobody may change (see
// [GroupsAreFixed]).
func (p *Program) BeRoot(fixed bool) {
	if !fixed {
		p.SetGroups(nil)
	}
	p.call("become root: setgid", unix.SYS_SETRESGID, 0, 0, 0)
	p.call("become root: setuid", unix.SYS_SETRESUID, 0, 0, 0)
	p.NotDumpable() // which changing the IDs may have undone
}

// ForkAgain has the child make another one that goes on in its place, in new namespaces, while it
// ends: namespaces belong to the user namespace that their maker is in, and a process cannot be born
// in another one than its maker's. That one is our child, too: [Spawned.Heir].
func (p *Program) ForkAgain(flags uint64) {
	p.again = place(p, cloneArgs{flags: flags | unix.CLONE_PARENT | unix.CLONE_PARENT_SETTID})
	p.call("clone3", unix.SYS_CLONE3, uintptr(unsafe.Pointer(p.again)), unsafe.Sizeof(*p.again)).parts = true
}

// Heir gives the process that has gone on in place of the one that was spawned, if the program has
// [Program.ForkAgain], once it is known to have; and waits for the end of the other.
func (s *Spawned) Heir() error {
	pid := s.report().heir
	if pid == 0 || int(pid) == s.Pid {
		return nil
	}
	if _, err := WaitPidFD(s.PidFD); err != nil {
		return err
	}
	_ = s.PidFD.Close()
	pidfd, err := PidFD(int(pid))
	if err != nil {
		return err
	}
	s.Child = Child{Pid: int(pid), PidFD: pidfd}
	return nil
}

// Kill ends the process, whichever it is by now. It is not reaped.
func (s *Spawned) Kill() {
	_ = SignalPidFD(s.PidFD, unix.SIGKILL)
	if heir := s.report().heir; heir != 0 {
		_ = unix.Kill(int(heir), unix.SIGKILL)
	}
}
