package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
)

// Content is what is uploaded. It may still be growing: then Digest waits for its end.
type Content struct {
	// Open gives what is from offset on. The reader waits for what has not been written yet.
	Open func(offset int64) (io.ReadCloser, error)
	// Digest gives what the whole is, when all of it is there.
	Digest func() (image.Descriptor, error)
	// Size is the length if it is known before, else -1.
	Size int64
}

const (
	// A blob up to this size goes with the request that completes the upload.
	monolithic = 4 << 20
	// mostChunk is the size of pieces for registries that refuse a whole blob in one request (413), and
	// after a connection broke: many registries keep nothing of a request that came in part. Pieces become
	// smaller, down to leastChunk, as long as this goes on.
	mostChunk, leastChunk = 8 << 20, 32 << 10
	// maxLost bounds how often an upload begins anew.
	maxLost = 8
)

// Exists asks whether the repository has a blob.
func (r *Repository) Exists(ctx context.Context, d image.Digest) (bool, error) {
	res, err := r.origin.do(ctx, r.client, false, http.MethodHead, r.origin.url("blobs/%s", d), nil, http.StatusOK)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	drain(res)
	return true, nil
}

// Mount asks the registry to take a blob from another of its repositories, and reports whether it did.
// That it did not is no error: then the blob is to be uploaded.
func (r *Repository) Mount(ctx context.Context, d image.Digest, from image.Reference) (bool, error) {
	query := url.Values{"mount": {string(d)}, "from": {from.Path()}}
	res, err := r.origin.do(ctx, r.client, false, http.MethodPost, r.origin.url("blobs/uploads/?%s", query.Encode()), nil,
		http.StatusCreated, http.StatusAccepted)
	if status, ok := errors.AsType[*statusError](err); ok && !passesStatus(status.status) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer drain(res)
	if res.StatusCode == http.StatusCreated {
		return true, nil
	}
	// The registry has begun an upload instead. It would clean up after some days by itself.
	if location, err := res.Location(); err == nil {
		r.cancel(ctx, location.String())
	}
	return false, nil
}

func (r *Repository) cancel(ctx context.Context, location string) {
	if res, err := r.origin.once(ctx, http.MethodDelete, location, nil, http.StatusNoContent); err == nil {
		drain(res)
	}
}

// Upload uploads a blob. What the registry has received before something failed is not sent again.
func (r *Repository) Upload(ctx context.Context, content Content) (image.Descriptor, error) {
	u := &upload{repo: r, content: content, retry: retry{backoff: r.client.backoff}}
	for {
		d, err := u.advance(ctx)
		if err == nil {
			return d, nil
		}
		if err := u.recover(ctx, err); err != nil {
			return image.Descriptor{}, fmt.Errorf("upload: %w", err)
		}
	}
}

// recover prepares for another try after err, or returns it.
func (u *upload) recover(ctx context.Context, err error) error {
	status := 0
	if answer, ok := errors.AsType[*statusError](err); ok {
		status = answer.status
	}
	canShrink := u.chunk != leastChunk
	if u.location != "" && (u.chunk == 0 || tooMuch(status)) {
		u.chunk = smaller(u.chunk)
	}
	switch {
	case status == http.StatusRequestEntityTooLarge && canShrink:
	case u.location != "" && u.lost < maxLost && (status == http.StatusNotFound || status == http.StatusRequestedRangeNotSatisfiable):
		// The registry has lost the session, as the reference implementation does after a broken connection.
		u.lost++
		u.forget()
	default:
		if err := u.retry.again(ctx, err); err != nil {
			return err
		}
	}
	return u.catchUp(ctx)
}

// tooMuch tells whether less at a time may come through: the connection broke (there is no status), or that of
// a proxy to the registry, or it was said.
func tooMuch(status int) bool {
	return status == 0 || status == http.StatusRequestEntityTooLarge || status == http.StatusBadGateway || status == http.StatusGatewayTimeout
}

func smaller(chunk int64) int64 {
	if chunk == 0 {
		return mostChunk
	}
	return max(chunk/4, leastChunk)
}

func (u *upload) forget() { u.location, u.offset, u.sent = "", 0, false }

// upload is an upload session (distribution-spec 1.1, "Pushing blobs").
type upload struct {
	repo     *Repository
	content  Content
	location string // of the session; "" before there is one
	offset   int64  // what the registry has
	sent     bool   // all of it
	chunk    int64  // what is sent with one request, at most; 0: all
	lost     int    // sessions
	retry    retry
}

// advance does what is left, up to the end or the first error.
func (u *upload) advance(ctx context.Context) (image.Descriptor, error) {
	if u.location == "" {
		if err := u.begin(ctx); err != nil {
			return image.Descriptor{}, err
		}
	}
	if u.content.Size >= 0 && u.content.Size <= monolithic && u.offset == 0 && (u.chunk == 0 || u.content.Size <= u.chunk) {
		return u.finish(ctx, true)
	}
	for !u.sent {
		if err := u.sendPiece(ctx); err != nil {
			return image.Descriptor{}, err
		}
	}
	return u.finish(ctx, false)
}

func (u *upload) begin(ctx context.Context) error {
	res, err := u.repo.origin.once(ctx, http.MethodPost, u.repo.origin.url("blobs/uploads/"), nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	defer drain(res)
	u.offset, u.sent = 0, false
	return u.follow(res)
}

// follow takes the session's address, which each answer may change.
func (u *upload) follow(res *http.Response) error {
	location, err := res.Location()
	if errors.Is(err, http.ErrNoLocation) && u.location != "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: no address to upload to: %w", ErrProtocol, err)
	}
	u.location = location.String()
	return nil
}

// sendPiece sends all that is left, or a chunk of it, with one PATCH.
func (u *upload) sendPiece(ctx context.Context) error {
	body, err := u.content.Open(u.offset)
	if err != nil {
		return err
	}
	defer body.Close()
	ctx, counted := u.repo.client.watch(ctx, body)
	defer counted.stop()
	limit := int64(-1)
	if u.content.Size >= 0 {
		limit = u.content.Size - u.offset
	}
	if u.chunk > 0 && (limit < 0 || limit > u.chunk) {
		limit = u.chunk
	}
	var source io.Reader = counted
	if limit >= 0 {
		counted.end = limit
		source = io.LimitReader(counted, limit)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, u.location, source)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	// The specification wants both for a chunk; a stream of unknown length cannot have them, and
	// Docker has always sent such.
	if limit >= 0 && u.content.Size >= 0 {
		req.ContentLength = limit
		if u.chunk > 0 || u.offset > 0 {
			req.Header.Set("Content-Range", fmt.Sprintf("%d-%d", u.offset, u.offset+limit-1))
		}
	}
	res, err := u.repo.origin.send(req, http.StatusAccepted, http.StatusNoContent, http.StatusCreated)
	if err != nil {
		return stalled(ctx, err)
	}
	defer drain(res)
	u.offset += counted.n
	u.sent = u.content.Size >= 0 && u.offset >= u.content.Size || u.content.Size < 0 && (limit < 0 || counted.n < limit)
	u.retry.progress()
	return u.follow(res)
}

// finish completes the session, with the whole blob or after it was sent.
func (u *upload) finish(ctx context.Context, whole bool) (image.Descriptor, error) {
	d, err := u.content.Digest()
	if err != nil {
		return image.Descriptor{}, err
	}
	address, err := url.Parse(u.location)
	if err != nil {
		return image.Descriptor{}, fmt.Errorf("%w: address to upload to: %w", ErrProtocol, err)
	}
	query := address.Query()
	query.Set("digest", string(d.Digest))
	address.RawQuery = query.Encode()
	var body io.Reader
	if whole {
		content, err := u.content.Open(0)
		if err != nil {
			return image.Descriptor{}, err
		}
		defer content.Close()
		var counted *countingReader
		ctx, counted = u.repo.client.watch(ctx, content)
		defer counted.stop()
		counted.end = d.Size
		body = counted
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, address.String(), body)
	if err != nil {
		return image.Descriptor{}, err
	}
	if whole {
		req.ContentLength = d.Size
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	res, err := u.repo.origin.send(req, http.StatusCreated, http.StatusNoContent, http.StatusAccepted)
	if err != nil {
		return image.Descriptor{}, stalled(ctx, err)
	}
	drain(res)
	return d, nil
}

// catchUp asks how much of the upload has arrived, or gives the session up for a new one.
func (u *upload) catchUp(ctx context.Context) error {
	if u.location == "" {
		return nil
	}
	res, err := u.repo.origin.do(ctx, u.repo.client, true, http.MethodGet, u.location, nil, http.StatusNoContent, http.StatusOK)
	if err != nil {
		if _, ok := errors.AsType[*statusError](err); ok {
			u.forget()
			return nil
		}
		return err
	}
	defer drain(res)
	u.offset = received(res.Header.Get("Range"))
	u.sent = u.content.Size >= 0 && u.offset >= u.content.Size
	return u.follow(res)
}

// received reads the Range header of a session, "0-N", N being the last byte that has come.
func received(header string) int64 {
	_, last, found := strings.Cut(strings.TrimPrefix(header, "bytes="), "-")
	if n, err := strconv.ParseInt(last, 10, 64); found && err == nil && n > 0 {
		return n + 1
	}
	return 0
}

// countingReader is a body that is sent. The request is given up when the registry takes nothing of it for long.
type countingReader struct {
	io.Reader
	n, end int64 // read; to be read, -1 if that is not known
	stall  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// watch counts what is read of body. A request that has the context ends when it is not read any more.
func (c *Client) watch(ctx context.Context, body io.Reader) (context.Context, *countingReader) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(c.stall, func() { cancel(errTakesNothing) })
	return ctx, &countingReader{Reader: body, end: -1, stall: c.stall, timer: timer, cancel: cancel}
}

// stop ends the watch, when the answer was read.
func (c *countingReader) stop() {
	c.timer.Stop()
	c.cancel(nil)
}

func (c *countingReader) Read(p []byte) (int, error) {
	c.timer.Stop() // what is not compressed yet is not the registry's fault
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	if err == nil && c.n != c.end {
		c.timer.Reset(c.stall)
	}
	return n, err
}

// errTakesNothing passes as errStalled does.
var errTakesNothing = fmt.Errorf("%w nor takes anything", errStalled)

// stalled says in err why a request was given up.
func stalled(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) && !errors.Is(err, errStalled) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
