package engine

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"os"
	"sync"

	"github.com/tarnfs/tarn/image"
)

// spool is a file that is written by one and read by others meanwhile: what is uploaded need not
// have been compressed to its end, and can be sent again if the connection breaks.
type spool struct {
	file *os.File
	sum  hash.Hash

	mu      sync.Mutex
	grown   *sync.Cond
	size    int64
	done    bool
	failure error
}

func newSpool(f *os.File) *spool {
	s := &spool{file: f, sum: sha256.New()}
	s.grown = sync.NewCond(&s.mu)
	return s
}

// Write implements io.Writer, for one writer.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	at := s.size
	s.mu.Unlock()
	n, err := s.file.WriteAt(p, at)
	s.sum.Write(p[:n])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size += int64(n)
	s.grown.Broadcast()
	return n, err
}

// finish says that nothing more is written; err is what readers get, if it is not nil.
func (s *spool) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done, s.failure = true, err
	s.grown.Broadcast()
}

// wait waits until there is more than offset, or no more to come.
func (s *spool) wait(offset int64) (size int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.size <= offset && !s.done {
		s.grown.Wait()
	}
	return s.size, s.failure
}

// digest waits for the end and gives what the whole is.
func (s *spool) digest() (image.Digest, int64, error) {
	size, err := s.wait(1<<63 - 1)
	if err != nil {
		return "", 0, err
	}
	return image.DigestSum(s.sum), size, nil
}

// open reads from offset on, up to the end that is still to come.
func (s *spool) open(offset int64) io.ReadCloser { return &spoolReader{spool: s, offset: offset} }

type spoolReader struct {
	spool  *spool
	offset int64
}

// Read implements io.Reader.
func (r *spoolReader) Read(p []byte) (int, error) {
	size, err := r.spool.wait(r.offset)
	if err != nil {
		return 0, err
	}
	if size <= r.offset {
		return 0, io.EOF
	}
	n, err := r.spool.file.ReadAt(p[:min(int64(len(p)), size-r.offset)], r.offset)
	r.offset += int64(n)
	return n, err
}

// Close implements io.Closer. The spool itself is closed by its owner.
func (*spoolReader) Close() error { return nil }

// compressInto fills the spool with the compressed form of tar, and finishes it.
func compressInto(ctx context.Context, s *spool, c compressor, tar io.Reader) {
	s.finish(func() error {
		zw, err := c.writer(s)
		if err != nil {
			return err
		}
		if _, err := io.Copy(zw, contextReader{ctx, tar}); err != nil {
			return err
		}
		return zw.Close()
	}())
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives for one call
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
