package server

import (
	"io"
	"net/http"
	"time"
)

// A request may take as long as it wants, as long as it gets on: within stall at least step bytes
// must come or go, or the connection is dropped.
const (
	stall = time.Minute
	step  = 1 << 20
)

// watch puts deadlines on what the client sends and receives. Where there is no connection to put
// them on (in a test), it does nothing.
func watch(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request) {
	controller := http.NewResponseController(w)
	if err := controller.SetWriteDeadline(time.Now().Add(stall)); err != nil {
		return w, r
	}
	if r.Body != http.NoBody {
		r.Body = &watchedBody{ReadCloser: r.Body, controller: controller}
	}
	return &watchedWriter{ResponseWriter: w, controller: controller}, r
}

// watchedBody sets a deadline for each step of what is read.
type watchedBody struct {
	io.ReadCloser
	controller *http.ResponseController
	left       int // until the next deadline
}

func (b *watchedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.left = step
		if err := b.controller.SetReadDeadline(time.Now().Add(stall)); err != nil {
			return 0, err
		}
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= n
	if err != nil {
		// The server goes on reading, to notice when the client goes away. That may take long.
		_ = b.controller.SetReadDeadline(time.Time{})
	}
	return n, err
}

// watchedWriter sets a deadline for each step of what is written.
type watchedWriter struct {
	http.ResponseWriter
	controller *http.ResponseController
}

// Unwrap is for http.ResponseController.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *watchedWriter) extend() error {
	return w.controller.SetWriteDeadline(time.Now().Add(stall))
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	if err := w.extend(); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom keeps the way open for sendfile(2): net finds a file only below one io.LimitedReader.
func (w *watchedWriter) ReadFrom(src io.Reader) (int64, error) {
	limited, ok := src.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: src, N: MaxBlobSize}
	}
	var total int64
	for limited.N > 0 {
		if err := w.extend(); err != nil {
			return total, err
		}
		want := min(step, limited.N)
		n, err := io.Copy(w.ResponseWriter, &io.LimitedReader{R: limited.R, N: want})
		total += n
		limited.N -= n
		if err != nil || n < want {
			return total, err
		}
	}
	return total, nil
}
