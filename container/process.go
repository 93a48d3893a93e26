package container

import (
	"errors"
	"os"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
)

// reap waits for the end of the process and takes away what is left of the container.
func (p *Process) reap(release func() error) {
	wait := sys.WaitPidFD
	if p.outlives {
		wait = sys.SeeExit
	}
	status, err := wait(p.pidfd)
	p.status = status
	if err != nil {
		p.status = 0x7f // neither exited nor ended by a signal
	}
	p.mu.Lock()
	_ = p.pidfd.Close()
	p.pidfd = nil
	p.mu.Unlock()
	if !p.outlives { // else it is removed with the container, later
		err = errors.Join(err, release())
	}
	p.err = err
	close(p.done)
}

// Signal sends a signal to the process; [os.ErrProcessDone] if it has ended. As the first process of
// a pid namespace it only gets signals it has a handler for, and SIGKILL and SIGSTOP.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return os.ErrProcessDone
	}
	return sys.SignalPidFD(p.pidfd, sig)
}

// Resize tells the container's terminal its size, in characters.
func (p *Process) Resize(cols, rows uint16) error {
	if p.terminal == nil {
		return errors.New("the container has no terminal")
	}
	return sys.SetTerminalSize(p.terminal, cols, rows)
}
