package container

import (
	"github.com/tarnfs/tarn/internal/sys"
)

// birthplace is the thread that makes the container's process where that is not the one that builds the container. Who
// is root of a user namespace alone may enter a network of its own, but not go back to the machine's. So the thread that
// stays, and may execute another program (Process.Become), never left.
type birthplace chan func()

func newBirthplace() birthplace {
	b := make(birthplace)
	sys.OnOwnThread(func() {
		for f := range b {
			f()
		}
	})
	return b
}

// do has f executed there, or here if there is no such thread, and waits for it.
func (b birthplace) do(f func()) {
	if b == nil {
		f()
		return
	}
	done := make(chan struct{})
	b <- func() {
		f()
		close(done)
	}
	<-done
}

// writeEnter has a process that is made at the birthplace enter the namespaces that the calling thread is in.
func (m *maker) writeEnter(p *sys.Program) error {
	kinds := m.namespaces.thread
	for _, j := range m.namespaces.join {
		kinds |= j.kind
	}
	for _, ns := range []struct {
		name string
		kind int
	}{{"net", sys.NewNet}, {"uts", sys.NewUTS}, {"ipc", sys.NewIPC}, {"mnt", sys.NewMount}} {
		if kinds&ns.kind == 0 {
			continue // which is the one of the birthplace, too
		}
		f, err := sys.OpenNamespace("/proc/thread-self/ns/"+ns.name, ns.kind)
		if err != nil {
			return err
		}
		p.Enter("setns "+ns.name, m.keep(f), ns.kind)
	}
	return nil
}

// enterPID has the calling thread's children be in the pid namespace of another container, if they are to be.
func (n *namespaces) enterPID() error {
	for _, j := range n.join {
		if j.kind == sys.NewPID {
			return sys.Setns(j.file, j.kind)
		}
	}
	return nil
}
