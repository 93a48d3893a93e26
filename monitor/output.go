package monitor

import (
	"errors"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/monitor/logfile"
)

const (
	// readSize is how much is read at once for somebody who is attached.
	readSize = MaxFrame
	// largePipe is what a pipe is made to hold whose writer fills it, if that is allowed: the more, the less often it
	// waits for us.
	largePipe = 1 << 20
	// rest is how long a pipe that was emptied is left alone. What comes in that time is taken together: to
	// wake another process for each line slows a writer down.
	rest = 100 * time.Microsecond
)

// patience bounds how long output is waited for, when the container has ended, that never ends.
const patience = lastWords / 5

// openLog opens the log, if there is to be one.
func (m *monitor) openLog() (err error) {
	if m.cfg.Log.Path != "" {
		m.log, err = logfile.Create(m.cfg.Format, m.cfg.Log)
	}
	return err
}

// copyOutput begins to copy what the container writes.
func (m *monitor) copyOutput() error {
	if m.cfg.TTY != 0 {
		m.copies.Go(m.copyTerminal)
		return nil
	}
	awoken, ended, err := os.Pipe()
	if err != nil {
		return err
	}
	m.ended = ended
	p := &pump{monitor: m, awoken: awoken}
	p.add(m.cfg.Stdout, logfile.Stdout, Stdout)
	p.add(m.cfg.Stderr, logfile.Stderr, Stderr)
	m.copies.Go(p.run)
	return nil
}

// endOutput has the copying end soon, even if somebody still can write.
func (m *monitor) endOutput() {
	if m.cfg.TTY != 0 {
		_ = m.input.SetReadDeadline(time.Now().Add(patience))
	} else {
		_ = m.ended.Close()
	}
}

// copyTerminal copies what the container writes to its terminal.
func (m *monitor) copyTerminal() {
	frame := make([]byte, headerSize+readSize)
	for {
		n, err := m.input.Read(frame[headerSize:])
		if n > 0 {
			m.give(logfile.Stdout, Stdout, frame[:headerSize+n])
		}
		if err != nil {
			return // EIO of a terminal, or the deadline of endOutput
		}
	}
}

// give takes output, which a frame has behind its header, to the log, and to all who are attached: a slow one holds up
// the container, as a slow terminal does.
func (m *monitor) give(stream logfile.Stream, kind Kind, frame []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.log != nil {
		m.log.Write(stream, frame[headerSize:], time.Now())
	}
	fillFrame(frame, kind)
	for i := 0; i < len(m.clients); {
		if _, err := m.clients[i].conn.Write(frame); err != nil {
			m.drop(m.clients[i])
			continue
		}
		i++
	}
}

// pump copies what the container writes to pipes.
type pump struct {
	*monitor

	sources  []*source
	ready    []*source // for await
	awoken   *os.File  // can be read when the container has ended
	deadline time.Time // after it nothing is waited for; none before the container's end
	frame    []byte    // for give
}

// source is one of the pipes.
type source struct {
	fd     int
	stream logfile.Stream
	kind   Kind
	ended  bool
	holds  int  // bytes
	grown  bool // or that was refused
	busy   bool // it was half full, or not emptied, the last time
}

func (p *pump) add(fd int, stream logfile.Stream, kind Kind) {
	if fd == 0 {
		return
	}
	syscall.CloseOnExec(fd)
	_ = syscall.SetNonblock(fd, true) // the container can read from its end, too, and take what we were told of
	p.sources = append(p.sources, &source{fd: fd, stream: stream, kind: kind, holds: sys.PipeSize(fd)})
}

// run copies until all pipes have ended, or the deadline has come.
func (p *pump) run() {
	for p.left() != 0 {
		ready := p.await(nil, p.left())
		if len(ready) > 0 && ready[0] != p.sources[0] {
			p.take(p.sources[0]) // it was asked first: it may have got something before the other did
		}
		for _, s := range ready {
			p.take(s)
		}
		if len(ready) != 1 || ready[0].busy {
			continue
		}
		// One alone may rest until the other has something, too: what came before that is taken before it.
		resting := ready[0]
		if others := p.await(resting, rest); len(others) > 0 {
			p.take(resting)
			p.take(others[0])
		}
	}
}

// left gives how long there still can be something: 0 if there can be nothing, negative for no bound.
func (p *pump) left() time.Duration {
	switch {
	case !slices.ContainsFunc(p.sources, func(s *source) bool { return !s.ended }):
		return 0
	case p.deadline.IsZero():
		return -1
	default:
		return max(0, time.Until(p.deadline))
	}
}

// await waits until some of the pipes, but for one, have something, and gives them: none if that takes too long, or the
// container ends. What it gives is valid until the next call.
func (p *pump) await(except *source, atMost time.Duration) []*source {
	var fds [3]int
	var ready [3]bool
	var polled [2]*source
	n := 0
	for _, s := range p.sources {
		if !s.ended && s != except {
			fds[n], polled[n] = s.fd, s
			n++
		}
	}
	pipes := n
	if p.deadline.IsZero() {
		fds[n] = int(p.awoken.Fd())
		n++
	}
	if err := sys.AwaitReadable(fds[:n], ready[:n], atMost); err != nil {
		time.Sleep(rest) // there is no memory for it
	}
	if n > pipes && ready[pipes] {
		p.deadline = time.Now().Add(patience)
	}
	p.ready = p.ready[:0]
	for i, s := range polled[:pipes] {
		if ready[i] {
			p.ready = append(p.ready, s)
		}
	}
	return p.ready
}

// take takes what a pipe has, if it has something.
func (p *pump) take(s *source) {
	if s.ended {
		return
	}
	much := s.holds / 2
	n, err := p.splice(s)
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		n, err = p.read(s)
		much = min(much, readSize)
	}
	s.busy = n >= much
	if n == 0 && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR) {
		s.ended = true
		_ = syscall.Close(s.fd)
	}
	if s.busy && s.holds < largePipe && !s.grown {
		s.holds, s.grown = sys.GrowPipe(s.fd, largePipe), true
	}
}

// errRead says that what is in a pipe has to be read.
var errRead = errors.New("no splice")

// splice has the kernel move what a pipe has to the log, if nobody else wants it.
func (p *pump) splice(s *source) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if local, ok := p.log.(*logfile.Local); ok && len(p.clients) == 0 {
		return local.Splice(s.stream, s.fd, time.Now())
	}
	return 0, errRead
}

// read reads what a pipe has, for all who want it.
func (p *pump) read(s *source) (int, error) {
	if p.frame == nil {
		p.frame = make([]byte, headerSize+readSize)
	}
	n, err := syscall.Read(s.fd, p.frame[headerSize:])
	if n > 0 {
		p.give(s.stream, s.kind, p.frame[:headerSize+n])
	}
	return max(n, 0), err
}
