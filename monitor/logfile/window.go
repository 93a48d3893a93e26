package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// windowSize is how much of a file is read at once.
const windowSize = 64 << 10

// window is a part of a file in memory, which moves on with what is read.
type window struct {
	file io.ReaderAt
	buf  []byte
	at   int64 // where buf begins
}

// bytes gives what the file has at an offset: at least as much as is wanted, which is no more than windowSize, or all
// up to the file's end. It is valid until the next call.
func (w *window) bytes(at int64, want int) ([]byte, error) {
	if skip := at - w.at; skip >= 0 && skip <= int64(len(w.buf)) && len(w.buf)-int(skip) >= want {
		return w.buf[skip:], nil
	}
	if w.buf == nil {
		w.buf = make([]byte, windowSize)
	}
	n, err := w.file.ReadAt(w.buf[:windowSize], at)
	w.at, w.buf = at, w.buf[:n]
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return w.buf, err
}

// forget has what comes next be read anew: the file may have changed.
func (w *window) forget() { w.buf = w.buf[:0] }

// fileHeader reads the header of the file. With [io.EOF] it has none yet.
func (w *window) fileHeader() (marker, error) {
	b, err := w.bytes(0, headerSize)
	if err != nil {
		return marker{}, err
	}
	if len(b) == 0 {
		return marker{}, io.EOF
	}
	if len(b) >= headerSize {
		if m, ok := parseFileHeader(b[:headerSize]); ok {
			return m, nil
		}
	}
	return marker{}, fmt.Errorf("header: %w", ErrFormat)
}

// find gives the first header of a chunk that begins at an offset or behind it. With [io.EOF] there is none, and
// at is where to go on when there is more.
func (w *window) find(from int64, m marker) (at int64, c chunk, err error) {
	for at = from; ; {
		b, err := w.bytes(at, headerSize)
		if err != nil {
			return at, c, err
		}
		if len(b) < headerSize {
			return at, c, io.EOF
		}
		if c, ok := parseChunk(b[:headerSize], m); ok {
			return at, c, nil
		}
		if i := bytes.Index(b[1:], m[:]); i >= 0 {
			at += 1 + int64(i)
		} else {
			at += int64(len(b) - len(m) + 1)
		}
	}
}
