package monitor

import (
	"context"
	"encoding/binary"
	"os"
	"slices"
	"syscall"
	"time"
	"unsafe"
)

// client is somebody who is attached.
type client struct {
	conn *connection
}

// openInput opens what the container reads.
func (m *monitor) openInput() {
	if m.cfg.TTY != 0 {
		m.input = openFile(m.cfg.TTY, "terminal")
	} else {
		m.input = openFile(m.cfg.Stdin, "stdin")
	}
}

// acceptEarly takes in whom nothing of the output may escape.
func (m *monitor) acceptEarly(ctx context.Context) {
	if conn := openFile(m.cfg.Client, "client"); conn != nil {
		m.add(ctx, conn)
	}
}

func (m *monitor) add(ctx context.Context, conn *os.File) {
	c := &client{conn: &connection{File: conn}}
	m.mu.Lock()
	m.clients = append(m.clients, c)
	m.mu.Unlock()
	go m.take(ctx, c)
}

// drop forgets a client. m.mu is held.
func (m *monitor) drop(c *client) {
	if i := slices.Index(m.clients, c); i >= 0 {
		m.clients = slices.Delete(m.clients, i, i+1)
		_ = c.conn.Close()
	}
}

// hurry bounds how long clients may take.
func (m *monitor) hurry(until time.Time) {
	// Without the lock, which who waits for a slow client holds; conns are safe for that.
	for _, c := range m.attached() {
		_ = c.conn.SetWriteDeadline(until)
	}
}

func (m *monitor) attached() []*client {
	got := make(chan []*client, 1)
	go func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		got <- slices.Clone(m.clients)
	}()
	select {
	case list := <-got:
		return list
	case <-time.After(lastWords):
		return nil
	}
}

// accept lets others attach.
func (m *monitor) accept(ctx context.Context) {
	listener := openFile(m.cfg.Socket, "socket")
	if listener == nil {
		return
	}
	raw, err := listener.SyscallConn()
	if err != nil {
		return
	}
	for {
		var fd int
		var acceptErr error
		err := raw.Read(func(l uintptr) bool {
			fd, _, acceptErr = syscall.Accept4(int(l), syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
			return acceptErr != syscall.EAGAIN
		})
		if err != nil {
			return
		}
		if acceptErr == nil {
			m.add(ctx, openFile(fd, "client"))
		}
	}
}

// take does what a client's frames say, until it goes.
func (m *monitor) take(ctx context.Context, c *client) {
	frames := NewFrameReader(c.conn)
	gave := false
	for {
		kind, content, err := frames.Next()
		if err != nil {
			break
		}
		switch kind {
		case Stdin:
			gave = true
			m.feed(content)
		case StdinEnd:
			m.endInput()
		case Resize:
			m.resize(content)
		case Names:
			m.beginNames(ctx, c, content)
		default: // none of those that come from the container
		}
	}
	if gave {
		m.endInput()
	}
	for _, f := range c.conn.takePassed() {
		_ = f.Close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(c)
}

// feed writes what a client sent for the container to read. It waits as long as the container does not.
func (m *monitor) feed(data []byte) {
	m.mu.Lock()
	input := m.input
	m.mu.Unlock()
	if input != nil {
		_, _ = input.Write(data) // nobody may read any more
	}
}

// endInput closes what the container reads, if one client's input is all it is to have. A terminal is not
// closed: its end is a character.
func (m *monitor) endInput() {
	if !m.cfg.StdinOnce || m.cfg.TTY != 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.input != nil {
		_ = m.input.Close()
		m.input = nil
	}
}

// resize sets the size of the terminal (TIOCSWINSZ, ioctl_tty(2)).
func (m *monitor) resize(content []byte) {
	if m.cfg.TTY == 0 || len(content) != 4 {
		return
	}
	size := struct{ rows, cols, _, _ uint16 }{
		rows: binary.BigEndian.Uint16(content[2:]), cols: binary.BigEndian.Uint16(content),
	}
	raw, err := m.input.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCSWINSZ, uintptr(unsafe.Pointer(&size)))
	})
}
