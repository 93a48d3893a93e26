package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	maxTries   = 7
	maxBackoff = 10 * time.Second
	maxWait    = 5 * time.Minute // what a Retry-After may ask for
)

// statusError is an answer that is not what was wanted.
type statusError struct {
	status int
	wait   time.Duration // what the registry wants us to wait
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// responseError tells what is wrong with an answer, nil if its status is one of want. The body is
// read as far as needed and not closed.
func responseError(res *http.Response, want ...int) error {
	if slices.Contains(want, res.StatusCode) {
		return nil
	}
	err := fmt.Errorf("%s %s", strings.ToLower(res.Request.Method), res.Request.URL.Redacted())
	message := diagnosis(res)
	switch {
	case res.StatusCode == http.StatusNotFound:
		err = fmt.Errorf("%w: %w: %s", ErrNotFound, err, message)
	case isRefusal(res.StatusCode):
		err = fmt.Errorf("%w: %w: %s (log in with 'tarn login %s')", ErrDenied, err, message, res.Request.URL.Host)
	default:
		err = fmt.Errorf("%w: %s", err, message)
	}
	return &statusError{status: res.StatusCode, wait: retryAfter(res.Header.Get("Retry-After"), time.Now()), err: err}
}

// diagnosis puts what the registry says (distribution-spec, "Error Codes") on one short line.
func diagnosis(res *http.Response) string {
	text := strings.ToLower(http.StatusText(res.StatusCode))
	parsed, ok := errors.AsType[*transport.Error](transport.CheckError(res))
	if !ok || len(parsed.Errors) == 0 {
		return fmt.Sprintf("%d %s", res.StatusCode, text)
	}
	first := parsed.Errors[0]
	message := strings.Join(strings.Fields(first.Message), " ")
	if len(message) > 200 {
		message = message[:200] + "…"
	}
	return fmt.Sprintf("%d %s (%s: %s)", res.StatusCode, text, first.Code, message)
}

// retryAfter reads the header (RFC 9110, 10.2.3): seconds, or a date.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		return clamp(time.Duration(seconds) * time.Second)
	}
	if date, err := http.ParseTime(value); err == nil {
		return clamp(date.Sub(now))
	}
	return 0
}

func clamp(d time.Duration) time.Duration { return min(max(d, 0), maxWait) }

// passes tells whether an error may be gone when one tries again.
func passes(err error) bool {
	if errors.Is(err, errStalled) {
		return true // also where the way to give it up was to cancel the request
	}
	if errors.Is(err, context.Canceled) {
		return false
	}
	if status, ok := errors.AsType[*statusError](err); ok {
		return passesStatus(status.status)
	}
	if refused, ok := errors.AsType[*transport.Error](err); ok {
		return passesStatus(refused.StatusCode)
	}
	for _, reason := range []error{
		io.ErrUnexpectedEOF, io.EOF, errShort, errResend, net.ErrClosed,
		syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, syscall.ECONNREFUSED, syscall.ETIMEDOUT,
	} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return isTimeout(err) || strings.Contains(err.Error(), "http2: ") || strings.Contains(err.Error(), "server closed idle connection")
}

func passesStatus(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return false
	}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && timeout.Timeout()
}

// retry does something until it succeeds, fails for good, or has been tried too often.
type retry struct {
	backoff time.Duration
	tries   int
	// moved says that something was achieved since the last failure, so that the next try need not wait.
	moved bool
}

// again waits before the next try, or returns err if there should be none.
func (r *retry) again(ctx context.Context, err error) error {
	r.tries++
	if r.tries >= maxTries || !passes(err) || ctx.Err() != nil {
		return err
	}
	wait := min(r.backoff<<(r.tries-1), maxBackoff)
	if r.moved {
		wait, r.moved = 0, false
	}
	if status, ok := errors.AsType[*statusError](err); ok {
		wait = max(wait, status.wait)
	}
	if sleepErr := sleep(ctx, wait); sleepErr != nil {
		return err
	}
	return nil
}

// progress starts counting anew, since something was achieved.
func (r *retry) progress() { r.tries, r.moved = 0, true }

// do sends a request without a body until it is answered with a status in want. A registry that does
// not answer at all is not waited for, unless patient: then it is known to be there.
func (e *endpoint) do(ctx context.Context, c *Client, patient bool, method, url string, header http.Header, want ...int) (*http.Response, error) {
	r := retry{backoff: c.backoff}
	for {
		res, err := e.once(ctx, method, url, header, want...)
		if err == nil {
			return res, nil
		}
		if !patient && errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
		if err := r.again(ctx, err); err != nil {
			return nil, err
		}
	}
}

func (e *endpoint) once(ctx context.Context, method, url string, header http.Header, want ...int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	return e.send(req, want...)
}

func (e *endpoint) send(req *http.Request, want ...int) (*http.Response, error) {
	res, err := e.http.Do(req)
	if err != nil {
		return nil, explain(err, e.host.name)
	}
	if err := responseError(res, want...); err != nil {
		drain(res)
		return nil, err
	}
	return res, nil
}
