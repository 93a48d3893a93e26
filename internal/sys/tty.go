package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenTerminal makes a pseudo-terminal in a mounted devpts: pts is the root of that mount. master
// can be read and written with deadlines.
func OpenTerminal(pts *os.File) (master, slave *os.File, err error) {
	fd, err := unix.Openat(int(pts.Fd()), "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open ptmx: %w", err)
	}
	slaveFD, err := terminalPeer(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "ptmx"), os.NewFile(uintptr(slaveFD), "terminal"), nil
}

// terminalPeer opens the other end by the master and not by a name, which an attacker's devpts or
// symbolic link could turn elsewhere.
func terminalPeer(master int) (int, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, fmt.Errorf("unlock terminal: %w", err)
	}
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, fmt.Errorf("open terminal: %w", errno)
	}
	return int(slave), nil
}

// SetTerminalSize tells a terminal how many columns and rows it has; its foreground processes get
// SIGWINCH.
func SetTerminalSize(tty *os.File, cols, rows uint16) error {
	conn, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := conn.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	if ctlErr != nil {
		return ctlErr
	}
	if err != nil {
		return fmt.Errorf("set terminal size: %w", err)
	}
	return nil
}

// TerminalSize gives a terminal's columns and rows.
func TerminalSize(tty *os.File) (cols, rows uint16, err error) {
	conn, err := tty.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var size *unix.Winsize
	ctlErr := conn.Control(func(fd uintptr) { size, err = unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ) })
	if ctlErr != nil {
		return 0, 0, ctlErr
	}
	if err != nil {
		return 0, 0, fmt.Errorf("terminal size: %w", err)
	}
	return size.Col, size.Row, nil
}

// DupAbove gives another descriptor for the same open file, with a number above 2.
func DupAbove(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
