package tarfile

import (
	"errors"
	"io"
)

// Skipper is what a stream may implement to let a Reader pass over contents
// without reading them. Skip returns how many bytes it passed over; fewer than
// n come with an error, io.EOF at the end of the stream.
type Skipper interface {
	Skip(n int64) (int64, error)
}

// Copier is what a stream may implement to hand on contents as they are in its memory. CopyN writes
// n bytes to w and returns how many it wrote; fewer than n come with an error, io.EOF at the end
// of the stream.
type Copier interface {
	CopyN(w io.Writer, n int64) (int64, error)
}

const (
	// Enough for a header with its PAX records and the contents of most small
	// files, so that a run of those costs one system call.
	windowAt = 8 << 10
	// A stream has to be read in full anyway.
	windowStream = 64 << 10
	copyBuffer   = 256 << 10
)

// source is the archive with a window on it. It reads at offsets or seeks
// where the input can, else it reads all.
type source struct {
	stream io.Reader
	at     io.ReaderAt // nil if the input has to be read in order
	seeker io.Seeker   // nil if it cannot seek
	skip   Skipper     // nil if it cannot skip
	base   int64       // offset in at of the start of the archive
	size   int64       // of the archive; -1 if not known yet

	window []byte
	lo, hi int   // window[lo:hi] is read and not consumed
	pos    int64 // offset in the archive of window[lo]
	err    error // of the last read, met when the window is empty
}

func newSource(r io.Reader) *source {
	s := &source{stream: r, size: -1}
	if seeker, ok := r.(io.Seeker); ok {
		s.findSize(seeker)
	}
	if s.seeker != nil {
		s.at, _ = r.(io.ReaderAt)
	} else {
		s.skip, _ = r.(Skipper)
	}
	if s.at != nil {
		s.window = make([]byte, windowAt)
	} else {
		s.window = make([]byte, windowStream)
	}
	return s
}

// findSize leaves s as it is if the input only looks like one that can seek,
// as a pipe in an *os.File does.
func (s *source) findSize(seeker io.Seeker) {
	start, err := seeker.Seek(0, io.SeekCurrent)
	if err != nil {
		return
	}
	end, err := seeker.Seek(0, io.SeekEnd)
	if err != nil {
		return
	}
	if _, err := seeker.Seek(start, io.SeekStart); err != nil {
		s.err = err
		return
	}
	s.seeker, s.base, s.size = seeker, start, max(end-start, 0)
}

// fill reads until at least n bytes are in the window, which holds no fewer.
// It returns io.EOF if the archive ends before.
func (s *source) fill(n int) error {
	if s.hi-s.lo >= n {
		return nil
	}
	copy(s.window, s.window[s.lo:s.hi])
	s.lo, s.hi = 0, s.hi-s.lo
	for empty := 0; s.hi < n; {
		if s.err != nil {
			return s.err
		}
		var got int
		if s.at != nil {
			got, s.err = s.at.ReadAt(s.window[s.hi:], s.base+s.pos+int64(s.hi))
		} else {
			got, s.err = s.stream.Read(s.window[s.hi:])
		}
		s.hi += got
		if got > 0 {
			empty = 0
		} else if empty++; empty > 100 && s.err == nil {
			s.err = io.ErrNoProgress
		}
	}
	return nil
}

// next consumes n bytes, at most the window's size. They are valid until the
// next call.
func (s *source) next(n int) ([]byte, error) {
	if err := s.fill(n); err != nil {
		return nil, err
	}
	b := s.window[s.lo : s.lo+n]
	s.lo += n
	s.pos += int64(n)
	return b, nil
}

// read consumes up to len(p) bytes into p.
func (s *source) read(p []byte) (int, error) {
	if s.lo == s.hi {
		if err := s.fill(1); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.window[s.lo:s.hi])
	s.lo += n
	s.pos += int64(n)
	return n, nil
}

// readFull fills p.
func (s *source) readFull(p []byte) error {
	for len(p) > 0 {
		n, err := s.read(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// advance passes over n bytes and returns io.EOF if the archive has fewer.
func (s *source) advance(n int64) error {
	buffered := min(n, int64(s.hi-s.lo))
	s.lo += int(buffered)
	s.pos += buffered
	n -= buffered
	if n == 0 {
		return nil
	}
	switch {
	case s.size >= 0 && s.pos+n > s.size:
		return io.EOF
	case s.at != nil:
		s.pos += n
		return nil
	case s.seeker != nil:
		if _, err := s.seeker.Seek(n, io.SeekCurrent); err != nil {
			return err
		}
		s.pos += n
		return nil
	}
	if s.skip != nil && s.err == nil {
		passed, err := s.skip.Skip(n)
		s.pos += passed
		return err
	}
	for n > 0 {
		if err := s.fill(1); err != nil {
			return err
		}
		step := min(n, int64(s.hi-s.lo))
		s.lo += int(step)
		s.pos += step
		n -= step
	}
	return nil
}

// copyTo consumes n bytes and writes them to w; io.EOF if the archive has fewer.
func (s *source) copyTo(w io.Writer, n int64) error {
	buffered := min(n, int64(s.hi-s.lo))
	if _, err := w.Write(s.window[s.lo : s.lo+int(buffered)]); err != nil {
		return err
	}
	s.lo += int(buffered)
	s.pos += buffered
	n -= buffered
	if n == 0 {
		return nil
	}
	if copier, ok := s.stream.(Copier); ok && s.seeker == nil && s.err == nil {
		copied, err := copier.CopyN(w, n)
		s.pos += copied
		return err
	}
	if s.at != nil {
		copied, err := io.CopyBuffer(w, io.NewSectionReader(s.at, s.base+s.pos, n), make([]byte, min(n, copyBuffer)))
		s.pos += copied
		if err == nil && copied < n {
			err = io.EOF
		}
		return err
	}
	for n > 0 {
		if err := s.fill(1); err != nil {
			return err
		}
		step := min(n, int64(s.hi-s.lo))
		if _, err := w.Write(s.window[s.lo : s.lo+int(step)]); err != nil {
			return err
		}
		s.lo += int(step)
		s.pos += step
		n -= step
	}
	return nil
}

// drain passes over the rest of the input and returns the archive's whole size.
func (s *source) drain() (int64, error) {
	if s.size >= 0 {
		return s.size, nil
	}
	for {
		s.pos += int64(s.hi - s.lo)
		s.lo, s.hi = 0, 0
		if err := s.fill(1); errors.Is(err, io.EOF) {
			s.size = s.pos
			return s.size, nil
		} else if err != nil {
			return 0, err
		}
	}
}

// bytes consumes n bytes, checked by the caller against a limit. They are valid
// until the next call unless there are more than the window holds.
func (s *source) bytes(n int) ([]byte, error) {
	if n <= len(s.window) {
		return s.next(n)
	}
	if s.size >= 0 && s.pos+int64(n) > s.size {
		return nil, io.EOF
	}
	p := make([]byte, n)
	return p, s.readFull(p)
}
