package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tarnfs/tarn/internal/sys"
)

// openStdio opens what becomes descriptors 0, 1 and 2.
func (m *maker) openStdio() error {
	if m.spec.Process.Terminal {
		return m.openTerminal()
	}
	for i, f := range []*os.File{m.cfg.Stdin, m.cfg.Stdout, m.cfg.Stderr} {
		if f == nil {
			null, err := m.openNull()
			if err != nil {
				return err
			}
			m.stdio[i] = null
			continue
		}
		// Above 2, where no other of the three can take its place.
		dup, err := sys.DupAbove(f)
		if err != nil {
			return err
		}
		m.stdio[i] = m.keep(dup)
		if err := m.givePipe(dup); err != nil {
			return err
		}
	}
	return nil
}

// openNull opens the container's own /dev/null: the mode of the host's is nothing for a container to
// change.
func (m *maker) openNull() (*os.File, error) {
	node, err := m.tree.null()
	if err != nil {
		return nil, fmt.Errorf("/dev/null: %w", err)
	}
	defer node.Close()
	null, err := sys.Reopen(node, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	dup, err := sys.DupAbove(null)
	if err != nil {
		return nil, err
	}
	return m.keep(dup), nil
}

// givePipe makes the container's user the owner of a pipe, so that opening /dev/stdout works as it
// does in other engines.
func (m *maker) givePipe(f *os.File) error {
	node, err := sys.StatNode(f)
	if err != nil || node.Type != sys.TypeFifo {
		return err
	}
	uid, _, err := m.namespaces.user.ids(m.spec.Process.User.UID, 0)
	if err != nil || uid == 0 {
		return err
	}
	if err := f.Chown(uid, -1); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// openTerminal makes a terminal in the container's own devpts, where its programs find it by name
// too, and shows it as /dev/console.
func (m *maker) openTerminal() error {
	if m.tree.pts == nil {
		return fmt.Errorf("%w: a terminal needs a devpts mount on /dev/pts", ErrSpec)
	}
	master, slave, err := sys.OpenTerminal(m.tree.pts)
	if err != nil {
		return err
	}
	m.terminal = master
	m.keep(slave)
	m.stdio = [3]*os.File{slave, slave, slave}
	uid, _, err := m.namespaces.user.ids(m.spec.Process.User.UID, 0)
	if err != nil {
		return err
	}
	if err := slave.Chown(uid, -1); err != nil {
		return err
	}
	if size := m.spec.Process.ConsoleSize; size != nil {
		if err := sys.SetTerminalSize(master, uint16(size.Width), uint16(size.Height)); err != nil {
			return err
		}
	}
	if m.joins {
		return nil // the console is the first process's terminal
	}
	if err := m.mountConsole(slave); err != nil {
		return fmt.Errorf("/dev/console: %w", err)
	}
	return nil
}

func (m *maker) mountConsole(slave *os.File) error {
	if err := sys.MakeFile(m.tree.dev, "console", 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// A link here would have the terminal mounted over any file of the container (CVE-2025-52565).
	target, err := sys.OpenEntry(m.tree.dev, "console", sys.OpenNoFollow)
	if err != nil {
		return err
	}
	defer target.Close()
	node, err := sys.StatNode(target)
	if err != nil {
		return err
	}
	if node.Type != sys.TypeRegular && node.Type != sys.TypeChar {
		return fmt.Errorf("%w: something else is there", ErrSpec)
	}
	console, err := sys.CloneTree(slave, false)
	if err != nil {
		return err
	}
	defer console.Close()
	return sys.MoveMount(console, target)
}
