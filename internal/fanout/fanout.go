// Package fanout gives one stream to several consumers at once, each in its own goroutine, with a
// fixed amount of memory between them and no byte copied more than once.
package fanout

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

const (
	chunkSize = 512 << 10
	chunks    = 8 // how far the fastest consumer may be ahead of the slowest
)

// Consumer reads a stream to its end, or as far as it needs.
type Consumer func(*Stream) error

// Copy reads r to its end and gives every consumer all of it. It returns when all of them have
// returned: nil, or the first error of r, of a consumer, or of ctx. After an error the consumers
// that still read get it from their stream, behind what had come before: what r gave before it failed
// may be worth keeping.
func Copy(ctx context.Context, r io.Reader, consumers ...Consumer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	free := make(chan *chunk, chunks)
	for range chunks {
		free <- &chunk{free: free}
	}
	streams := make([]*Stream, len(consumers))
	var running sync.WaitGroup
	for i, consume := range consumers {
		stream := &Stream{ctx: ctx, next: make(chan *chunk, chunks)}
		streams[i] = stream
		running.Go(func() {
			if err := consume(stream); err != nil {
				cancel(err)
			}
			stream.drain()
		})
	}
	err := produce(ctx, r, free, streams)
	if err != nil {
		cancel(err)
	}
	for _, stream := range streams {
		close(stream.next)
	}
	running.Wait()
	// The cause is the first error, whoever met it.
	return context.Cause(ctx)
}

// produce gives each chunk of r to all streams. Their channels hold all chunks there are, so only
// the wait for a free chunk can block.
func produce(ctx context.Context, r io.Reader, free <-chan *chunk, streams []*Stream) error {
	for {
		var c *chunk
		select {
		case c = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if c.buf == nil {
			c.buf = make([]byte, chunkSize) // small inputs never need them all
		}
		n, err := readFull(r, c.buf)
		c.data = c.buf[:n]
		c.users.Store(int32(len(streams)))
		for _, stream := range streams {
			stream.next <- c
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readFull fills p unless r ends or fails before. Unlike io.ReadFull it gives r's own error, so that
// a cut gzip stream's io.ErrUnexpectedEOF is not taken for a short last chunk.
func readFull(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

// chunk is a piece of the stream; the last of its users makes it free again.
type chunk struct {
	buf, data []byte
	users     atomic.Int32
	free      chan<- *chunk
}

func (c *chunk) release() {
	if c.users.Add(-1) == 0 {
		c.free <- c
	}
}

// Stream is one consumer's view. It is for that consumer's goroutine alone.
type Stream struct {
	ctx     context.Context //nolint:containedctx // lives exactly as long as the Copy it belongs to
	next    chan *chunk
	current *chunk
	rest    []byte
}

// fill makes rest not empty, or returns why there is no more.
func (s *Stream) fill() error {
	for len(s.rest) == 0 {
		if s.current != nil {
			s.current.release()
			s.current = nil
		}
		c, open, err := s.receive()
		switch {
		case err != nil:
			return err
		case !open:
			if err := context.Cause(s.ctx); err != nil {
				return err
			}
			return io.EOF
		}
		s.current, s.rest = c, c.data
	}
	return nil
}

// receive waits for the next chunk. One that came before the error is given before that.
func (s *Stream) receive() (c *chunk, open bool, err error) {
	select {
	case c, open = <-s.next:
		return c, open, nil
	case <-s.ctx.Done():
	}
	select {
	case c, open = <-s.next:
		return c, open, nil
	default:
		return nil, false, context.Cause(s.ctx)
	}
}

// Read implements io.Reader.
func (s *Stream) Read(p []byte) (int, error) {
	if err := s.fill(); err != nil {
		return 0, err
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: w gets each chunk as it is, without a copy.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if err := s.fill(); errors.Is(err, io.EOF) {
			return total, nil
		} else if err != nil {
			return total, err
		}
		n, err := w.Write(s.rest)
		total += int64(n)
		if err != nil {
			return total, err
		}
		s.rest = nil
	}
}

// Skip passes over n bytes; io.EOF at the end of the stream (tarfile.Skipper).
func (s *Stream) Skip(n int64) (int64, error) {
	var skipped int64
	for skipped < n {
		if err := s.fill(); err != nil {
			return skipped, err
		}
		step := min(n-skipped, int64(len(s.rest)))
		s.rest = s.rest[step:]
		skipped += step
	}
	return skipped, nil
}

// CopyN gives the next n bytes to w, each chunk as it is; io.EOF at the end of the stream
// (tarfile.Copier).
func (s *Stream) CopyN(w io.Writer, n int64) (int64, error) {
	var copied int64
	for copied < n {
		if err := s.fill(); err != nil {
			return copied, err
		}
		step := min(n-copied, int64(len(s.rest)))
		if _, err := w.Write(s.rest[:step]); err != nil {
			return copied, err
		}
		s.rest = s.rest[step:]
		copied += step
	}
	return copied, nil
}

// drain gives back every chunk that is left, so that the others never wait for this consumer.
func (s *Stream) drain() {
	for {
		s.rest = nil
		if err := s.fill(); err != nil {
			return
		}
	}
}
