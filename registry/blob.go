package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
)

var (
	errStalled = errors.New("the registry sends nothing any more")
	errShort   = errors.New("the connection ended too early")
)

// Blob is a blob being read. It is read from the registry, again from where it broke off when the
// connection is cut, until all of it has come, or too many attempts in a row have brought nothing.
type Blob struct {
	ctx     context.Context //nolint:containedctx // lives exactly as long as this download
	repo    *Repository
	sources []*endpoint
	want    image.Descriptor
	offset  int64
	end     int64 // of what is wanted
	body    *body
	retry   retry
}

// Blob opens a blob for reading from offset on. Not verified: the caller hashes what it reads.
func (r *Repository) Blob(ctx context.Context, want image.Descriptor, offset int64) (*Blob, error) {
	return r.BlobRange(ctx, want, offset, want.Size-offset)
}

// BlobRange is Blob for a stretch of length bytes. A registry that knows no ranges sends all up to its end.
func (r *Repository) BlobRange(ctx context.Context, want image.Descriptor, offset, length int64) (*Blob, error) {
	if err := want.Validate(); err != nil {
		return nil, err
	}
	if offset < 0 || offset > want.Size || length < 0 || length > want.Size-offset {
		return nil, fmt.Errorf("blob %s: %d bytes at offset %d of %d", want.Digest, length, offset, want.Size)
	}
	return &Blob{ctx: ctx, repo: r, sources: r.sources(), want: want, offset: offset, end: offset + length, retry: retry{backoff: r.client.backoff}}, nil
}

// Read implements io.Reader.
func (b *Blob) Read(p []byte) (int, error) {
	for {
		if b.offset >= b.end {
			return 0, io.EOF
		}
		n, err := b.readOnce(p)
		if n > 0 {
			b.offset += int64(n)
			b.retry.progress()
			return n, nil
		}
		if err == nil {
			continue
		}
		_ = b.Close()
		if len(b.sources) > 1 && !errors.Is(err, context.Canceled) {
			b.sources = b.sources[1:] // the next one may have it
			continue
		}
		if err := b.retry.again(b.ctx, err); err != nil {
			return 0, fmt.Errorf("blob %s: %w", b.want.Digest.Short(), err)
		}
	}
}

// readOnce reads from the open connection, or opens one. What is beyond the end is not read.
func (b *Blob) readOnce(p []byte) (int, error) {
	if b.body == nil {
		var err error
		if b.body, err = b.open(); err != nil {
			return 0, err
		}
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.end-b.offset)])
	if n == 0 && errors.Is(err, io.EOF) {
		err = errShort
	}
	return n, err
}

func (b *Blob) open() (*body, error) {
	source := b.sources[0]
	header := http.Header{}
	want := []int{http.StatusOK}
	if b.offset > 0 || b.end < b.want.Size {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.offset, b.end-1))
		want = append(want, http.StatusPartialContent)
	}
	ctx, cancel := context.WithCancelCause(b.ctx)
	res, err := source.once(ctx, http.MethodGet, source.url("blobs/%s", b.want.Digest), header, want...) //nolint:bodyclose // by Blob.Close
	if err != nil {
		cancel(nil)
		return nil, err
	}
	body := &body{ReadCloser: res.Body, cancel: cancel, stall: b.repo.client.stall}
	body.timer = time.AfterFunc(body.stall, func() { cancel(errStalled) })
	if err := b.skipTo(res, body); err != nil {
		_ = body.Close()
		return nil, err
	}
	return body, nil
}

// skipTo makes sure that the body begins at the offset: a registry without ranges sends all.
func (b *Blob) skipTo(res *http.Response, body io.Reader) error {
	if res.StatusCode == http.StatusPartialContent {
		if got, want := res.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", b.offset); !strings.HasPrefix(got, want) {
			return fmt.Errorf("%w: asked for the range %s…, it sent %.50q", ErrProtocol, want, got)
		}
		return nil
	}
	if length := res.ContentLength; length >= 0 && length != b.want.Size {
		return fmt.Errorf("%w: blob %s has %d bytes, the manifest says %d", ErrDigest, b.want.Digest, length, b.want.Size)
	}
	_, err := io.CopyN(io.Discard, body, b.offset)
	if errors.Is(err, io.EOF) {
		err = errShort
	}
	return err
}

// Close ends the download.
func (b *Blob) Close() error {
	if b.body == nil {
		return nil
	}
	body := b.body
	b.body = nil
	return body.Close()
}

// body is a response's body that is given up when nothing comes for long.
type body struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
	stall  time.Duration
	timer  *time.Timer
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.timer.Reset(b.stall)
	}
	if err != nil && !errors.Is(err, io.EOF) && !b.timer.Stop() {
		err = fmt.Errorf("%w: %w", errStalled, err)
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// ReadBlob reads a small blob, such as a config, and verifies it.
func (r *Repository) ReadBlob(ctx context.Context, want image.Descriptor, limit int64) ([]byte, error) {
	if want.Size > limit {
		return nil, fmt.Errorf("blob %s: %w: %d bytes, the limit is %d", want.Digest, ErrProtocol, want.Size, limit)
	}
	blob, err := r.Blob(ctx, want, 0)
	if err != nil {
		return nil, err
	}
	defer blob.Close() //nolint:errcheck // only read
	data, err := readLimited(blob, limit)
	if err != nil {
		return nil, err
	}
	sum, err := want.Digest.NewHash()
	if err != nil {
		return nil, err
	}
	sum.Write(data)
	if !want.Digest.Matches(sum) {
		return nil, fmt.Errorf("%w: blob %s, got %s", ErrDigest, want.Digest, want.Digest.Of(sum))
	}
	return data, nil
}
