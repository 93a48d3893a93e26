package logfile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// jsonReader reads logs of the format "json-file".
type jsonReader struct {
	r    *bufio.Reader
	text []byte // of an entry that is not whole yet
}

// Open is that of [Reader].
func (r *jsonReader) Open(f *os.File) {
	r.r, r.text = bufio.NewReaderSize(f, windowSize), r.text[:0]
}

// Next is that of [Reader]. What is no entry, since a full disk has cut it short, it leaves out.
func (r *jsonReader) Next() (*Line, error) {
	for {
		part, err := r.r.ReadSlice('\n')
		if len(r.text)+len(part) <= maxEntry {
			r.text = append(r.text, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var entry struct {
			Log    string    `json:"log"`
			Stream string    `json:"stream"`
			Time   time.Time `json:"time"`
		}
		err = json.Unmarshal(r.text, &entry)
		r.text = r.text[:0]
		if err != nil {
			continue
		}
		l := &Line{Stream: Stdout, Time: entry.Time, Text: []byte(entry.Log)}
		if entry.Stream == Stderr.String() {
			l.Stream = Stderr
		}
		return l, nil
	}
}

// maxEntry bounds an entry in bytes: of each byte of a line six can be made.
const maxEntry = 6*maxText + 1<<10

// Rest is that of [Reader]: there is none.
func (r *jsonReader) Rest() *Line { return nil }

// Tail is that of [Reader].
func (r *jsonReader) Tail(files []*os.File, n int, _ bool) (int, error) {
	for i := len(files) - 1; ; i-- {
		offset, left, err := lastEntries(files[i], n)
		if err != nil {
			return 0, err
		}
		if n = left; n > 0 && i > 0 {
			continue
		}
		_, err = files[i].Seek(offset, io.SeekStart)
		r.Open(files[i])
		return i, err
	}
}

// lastEntries finds where the last n entries of a file begin; left is how many are missing.
func lastEntries(f *os.File, n int) (offset int64, left int, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	if n == 0 {
		return info.Size(), 0, nil
	}
	buf := make([]byte, windowSize)
	for end := info.Size(); end > 0; {
		start := max(0, end-windowSize)
		block := buf[:end-start]
		if _, err := f.ReadAt(block, start); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", filepath.Base(f.Name()), err)
		}
		for i := bytes.LastIndexByte(block, '\n'); i >= 0; i = bytes.LastIndexByte(block[:i], '\n') {
			at := start + int64(i) + 1
			if at == info.Size() {
				continue // the end of the last entry
			}
			if n--; n == 0 {
				return at, 0, nil
			}
		}
		end = start
	}
	if info.Size() > 0 {
		n--
	}
	return 0, n, nil
}
