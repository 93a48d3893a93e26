// Package logfile writes and reads what a container has written: files that are rotated, of one of two
// formats. docs/format.md has both.
package logfile

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// Stream is what a container writes to.
type Stream uint8

// The streams.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// streams is how many there are.
const streams = 2

// String gives Docker's name of it.
func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// ErrFormat says that a file is none of a log of its kind.
var ErrFormat = errors.New("not a container's log of that kind")

// maxText is the most that is one line, in bytes, as in Docker: a longer one is several, of which only the
// last ends with a newline.
const maxText = 16 << 10

// Line is a line of a log, or a piece of a long one.
type Line struct {
	Stream Stream
	Time   time.Time
	Text   []byte // with the newline, if it has one; valid until the next is read
	// Continues says that it goes on where the line before it, of the same stream, ended.
	Continues bool
}

// Formats.
const (
	FormatLocal = "local"     // tarn's own: made so that the writer does not wait
	FormatJSON  = "json-file" // Docker's
)

// Create opens a log of a format for writing, behind what is there.
func Create(format string, files Files) (Writer, error) {
	switch format {
	case FormatLocal:
		return createLocal(files)
	case FormatJSON:
		return createJSON(files)
	default:
		return nil, fmt.Errorf("%w: %q", ErrFormat, format)
	}
}

// NewReader gives a reader of a format, without a file.
func NewReader(format string) (Reader, error) {
	switch format {
	case FormatLocal:
		return newLocalReader(), nil
	case FormatJSON:
		return &jsonReader{}, nil
	default:
		return nil, fmt.Errorf("%w: %q", ErrFormat, format)
	}
}

// Writer writes a log. A write that fails loses what it was to write: a full disk must not stop the container.
type Writer interface {
	// Write takes what a stream has given at a time.
	Write(stream Stream, data []byte, now time.Time)
	// Close writes what is left, and waits until all is written.
	Close(now time.Time)
}

// Reader reads a log, one file after the other, from the oldest on.
type Reader interface {
	// Open goes on with a file, at its beginning. What the one before has left of a line is kept.
	Open(f *os.File)
	// Tail begins in the middle of a log: with the last n lines of files, the oldest of which comes first. It gives
	// the index of the file that it has opened. rest says that Rest counts.
	Tail(files []*os.File, n int, rest bool) (int, error)
	// Next gives the next line. With [io.EOF] the file has no more of them now, and may have more later.
	Next() (*Line, error)
	// Rest gives, one after the other, what is no whole line when all is read; nil if there is none.
	Rest() *Line
}
