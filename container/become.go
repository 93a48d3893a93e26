package container

import (
	"errors"
	"os"

	"github.com/tarnfs/tarn/internal/sys"
)

// Become has f execute another program in place of this one, which then is the process's parent:
// Config.Heir must have been set. f runs on the thread that made the process, with this program's
// namespaces, root and working directory "/". So the process does not lose that parent, whose death
// Config.DieWithParent is about: of all threads, it is the one that executes a program that stays.
//
// Become only returns with an error, and then the process is as if it had not been called. It is called
// at most once.
func (p *Process) Become(f func() error) error {
	if p.heir == nil {
		return errors.New("the process was not started for another program")
	}
	failed := make(chan error)
	p.heir <- func() {
		sys.Umask(0o022)
		var err error
		if p.birth == nil {
			err = leaveNamespaces()
		}
		if err == nil {
			err = f()
		}
		failed <- err
	}
	return <-failed
}

// awaitHeir waits for Become, or for somebody who wants to see the process's end instead.
func (p *Process) awaitHeir() {
	select {
	case become := <-p.heir:
		p.birth.do(become)
	case <-p.waited:
	}
}

// leaveNamespaces moves the calling thread back to where the program's first one is.
func leaveNamespaces() error {
	first, err := sys.PidFD(os.Getpid())
	if err != nil {
		return err
	}
	defer first.Close()
	err = sys.JoinNamespaces(first, sys.NewMount|sys.NewNet|sys.NewUTS|sys.NewIPC|sys.NewCgroup|sys.NewPID)
	if errors.Is(err, sys.ErrnoPermission) && sys.InUserNamespace() {
		// Only the machine's root may go back to the machine's own. What stays needs none of those but mounts.
		return sys.JoinNamespaces(first, sys.NewMount)
	}
	return err
}
