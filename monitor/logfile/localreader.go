package logfile

import (
	"bytes"
	"errors"
	"io"
	"os"
)

// localReader reads logs of the format "local".
type localReader struct {
	window window
	marker marker

	head    int64 // where the chunk begins that is being read, or the next one should
	reading bool
	chunk   chunk // the last one's header
	first   bool  // there was none yet
	done    int64 // how much of its content was read
	short   bool  // the file has ended within it
	gap     bool  // something is missing before the next one

	lines [streams]line // each stream's
	skip  int           // lines that are not to be given
	lost  int           // lines that ended and whose beginning is not known
	given Line
}

// line is a line of a stream that is not whole yet.
type line struct {
	open      bool
	lost      bool   // it is not given: its beginning is not known, or to be skipped
	continues bool   // a piece of it was given
	time      int64  // nanoseconds since 1970
	text      []byte // of the piece
}

// newLocalReader gives a reader without a file.
func newLocalReader() *localReader { return &localReader{first: true} }

// Open is that of [Reader].
func (r *localReader) Open(f *os.File) { r.open(f, 0) }

// open goes on at an offset of a file, which may be within a chunk.
func (r *localReader) open(f io.ReaderAt, offset int64) {
	r.window.file, r.head, r.marker, r.reading, r.short = f, offset, marker{}, false, false
	r.window.forget()
}

// Next is that of [Reader].
func (r *localReader) Next() (*Line, error) {
	for {
		l, err := r.step()
		if err != nil {
			r.window.forget()
			return nil, err
		}
		if l != nil && !r.skipped(l) {
			return l, nil
		}
	}
}

// skipped tells whether a line is not to be given. Nor are the pieces of it that follow, then.
func (r *localReader) skipped(l *Line) bool {
	if r.skip == 0 {
		return false
	}
	r.skip--
	r.lines[l.Stream-1].lost = r.lines[l.Stream-1].open
	return true
}

// step reads at most one line, from what one chunk has of it. It gives nil if that is not its end.
func (r *localReader) step() (*Line, error) {
	if r.reading && r.short {
		if err := r.lookAgain(); err != nil {
			return nil, err
		}
	}
	if !r.reading {
		if l, err := r.begin(); l != nil || err != nil {
			return l, err
		}
	}
	content := r.head + headerSize
	if left := int64(r.chunk.length) - r.done; left > 0 {
		b, err := r.window.bytes(content+r.done, 1)
		if err == nil && len(b) == 0 {
			r.short, err = true, io.EOF
		}
		if err != nil {
			return nil, err
		}
		n, l := r.take(b[:min(left, int64(len(b)))])
		r.done += int64(n)
		return l, nil
	}
	r.head, r.reading = content+int64(r.chunk.length), false
	return nil, nil
}

// begin begins with a chunk. It gives a line, and is to be called again, if that has ended before.
func (r *localReader) begin() (*Line, error) {
	if r.marker == (marker{}) {
		var err error
		if r.marker, err = r.window.fileHeader(); err != nil {
			return nil, err
		}
		r.head = max(r.head, headerSize)
	}
	var c chunk
	var err error
	if r.head, c, err = r.window.find(r.head, r.marker); err != nil {
		return nil, err
	}
	gap := r.gap || !r.first && c.number != r.chunk.number+1
	for s := Stdout; s <= Stderr; s++ {
		if l := &r.lines[s-1]; l.open && (gap || !c.inside.has(s)) {
			if ended := r.end(s); ended != nil {
				return ended, nil
			}
		}
	}
	for s := Stdout; s <= Stderr; s++ {
		if l := &r.lines[s-1]; !l.open && c.inside.has(s) {
			l.open, l.lost = true, true
		}
	}
	r.chunk, r.first, r.gap, r.reading, r.done = c, false, false, true, 0
	return nil, nil
}

// lookAgain looks at the header of a chunk within which the file has ended: another writer may have mended it.
func (r *localReader) lookAgain() error {
	b, err := r.window.bytes(r.head, headerSize)
	if err != nil {
		return err
	}
	r.short = false
	if len(b) >= headerSize {
		if c, ok := parseChunk(b[:headerSize], r.marker); ok && c.number == r.chunk.number && c.time == r.chunk.time && int64(c.length) >= r.done {
			r.chunk = c
			return nil
		}
	}
	r.reading, r.gap = false, true // it was cut off
	return nil
}

// end ends a stream's line where it has none, and gives what is left of it, or nil.
func (r *localReader) end(s Stream) *Line {
	l := &r.lines[s-1]
	if l.lost {
		r.lost++
		*l = line{text: l.text}
	}
	if len(l.text) == 0 {
		*l = line{text: l.text}
		return nil
	}
	return r.give(s, l.text, true)
}

// take takes what a chunk has of a line, or of a piece of one, and tells how much that is. It gives it if it is whole.
func (r *localReader) take(b []byte) (int, *Line) {
	s := r.chunk.stream
	l := &r.lines[s-1]
	n := bytes.IndexByte(b, '\n') + 1
	whole := n > 0
	if !whole {
		n = len(b)
	}
	if l.lost {
		if whole {
			r.end(s)
		}
		return n, nil
	}
	if !l.open {
		l.open, l.time = true, r.chunk.time
	}
	if room := maxText - len(l.text); n > room {
		n, whole = room, false
	}
	full := len(l.text)+n == maxText
	text := b[:n]
	if len(l.text) > 0 || !whole && !full {
		l.text = append(l.text, text...)
		text = l.text
	}
	if whole || full {
		return n, r.give(s, text, whole)
	}
	return n, nil
}

// give gives a line, or a piece of it, and forgets it.
func (r *localReader) give(s Stream, text []byte, whole bool) *Line {
	l := &r.lines[s-1]
	r.given = Line{Stream: s, Time: unixTime(l.time), Text: text, Continues: l.continues}
	l.open, l.continues, l.text = !whole, !whole, l.text[:0]
	return &r.given
}

// Rest is that of [Reader]. The one that began first comes first.
func (r *localReader) Rest() *Line {
	for {
		s := Stdout
		if !r.lines[0].open || r.lines[1].open && r.lines[1].time < r.lines[0].time {
			s = Stderr
		}
		if !r.lines[s-1].open {
			return nil
		}
		if l := r.end(s); l != nil && !r.skipped(l) {
			return l
		}
	}
}

// Tail is that of [Reader]. It reads from ever further before the end, until there are enough lines that are known
// from their beginnings on.
func (r *localReader) Tail(files []*os.File, n int, rest bool) (int, error) {
	parts := make([]*io.SectionReader, len(files))
	for i, f := range files {
		info, err := f.Stat()
		if err != nil {
			return 0, err
		}
		parts[i] = io.NewSectionReader(f, 0, info.Size()) // what is written from now on is not waited for
	}
	for length := int64(windowSize); ; length *= 4 {
		i, offset := before(parts, length)
		all, known, err := countLines(parts[i:], offset, rest)
		if err != nil {
			return 0, err
		}
		if known >= n || i == 0 && offset == 0 {
			*r = *newLocalReader()
			r.open(files[i], offset)
			r.skip = max(0, all-n)
			return i, nil
		}
	}
}

// before gives the place that is so many bytes before the end of all parts.
func before(parts []*io.SectionReader, length int64) (i int, offset int64) {
	for i = len(parts) - 1; ; i-- {
		size := parts[i].Size()
		if size > length {
			return i, size - length
		}
		if length -= size; i == 0 {
			return 0, 0
		}
	}
}

// countLines counts the lines from a place on, and those of them that come behind all whose beginning is not known:
// -1 if one of these has not ended.
func countLines(parts []*io.SectionReader, offset int64, rest bool) (all, known int, err error) {
	r := newLocalReader()
	count := func(l *Line) {
		if l != nil && !l.Continues {
			all, known = all+1, known+1
		}
	}
	for _, part := range parts {
		r.open(part, offset)
		offset = 0
		for {
			lost := r.lost
			l, err := r.step()
			if r.lost > lost {
				known = 0
			}
			if errors.Is(err, io.EOF) || errors.Is(err, ErrFormat) {
				break
			}
			if err != nil {
				return 0, 0, err
			}
			count(l)
		}
	}
	if r.lines[0].lost || r.lines[1].lost {
		known = -1
	}
	for l := r.Rest(); rest && l != nil; l = r.Rest() {
		count(l)
	}
	return all, known, nil
}
