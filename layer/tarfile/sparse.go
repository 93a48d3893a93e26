package tarfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"strings"
)

// sparseInfo gathers what the headers of one entry say about its holes. The
// forms are those of the GNU tar manual, "Storing Sparse Files".
type sparseInfo struct {
	major, minor string
	name         string    // 0.1 and 1.0 hide the file's name in a record
	realSize     int64     // with holes; -1 if not told
	mapped       bool      // the header had a map: the old form, 0.0 or 0.1
	segments     []Segment // of that map
	halfway      bool      // form 0.0: an offset came and its length did not
}

func (s *sparseInfo) record(rec Record, most int) (err error) {
	switch rec.Key {
	case keySparseMajor:
		s.major = rec.Value
	case keySparseMinor:
		s.minor = rec.Value
	case keySparseName:
		s.name, err = strings.Clone(rec.Value), checkNoNUL(rec.Value)
	case keySparseSize, keySparseRealSize:
		s.realSize, err = parseDecimal(rec.Value)
	case keySparseMap:
		err = s.parseMap(rec.Value, most)
	case keySparseOffset, keySparseNumBytes:
		err = s.number(rec.Value, most, rec.Key == keySparseOffset)
	case keySparseNumBlocks: // told by the map itself
	}
	return err
}

// parseMap reads form 0.1: "OFFSET,LENGTH,OFFSET,LENGTH,…".
func (s *sparseInfo) parseMap(text string, most int) error {
	offset := true
	for number := range strings.SplitSeq(text, ",") {
		if err := s.number(number, most, offset); err != nil {
			return err
		}
		offset = !offset
	}
	return nil
}

// number takes an offset or a length in turn.
func (s *sparseInfo) number(text string, most int, offset bool) error {
	n, err := parseDecimal(text)
	if err != nil {
		return err
	}
	if offset == s.halfway {
		return errors.New("offsets and lengths do not alternate")
	}
	s.mapped, s.halfway = true, offset
	if !offset {
		s.segments[len(s.segments)-1].Length = n
		return nil
	}
	if len(s.segments) == most {
		return tooManySegments(most)
	}
	s.segments = append(s.segments, Segment{Offset: n})
	return nil
}

func tooManySegments(most int) error {
	return fmt.Errorf("%w: more than %d segments of a sparse file", ErrLimit, most)
}

// oldSparse reads the map of the old GNU form from the entry's header block and
// the extension blocks behind it.
func (r *Reader) oldSparse(blk block, info *sparseInfo) error {
	size, err := parseNumber(blk[483:495])
	if err != nil || size < 0 {
		return r.inEntry(ErrMalformed, "real size of a sparse file")
	}
	info.realSize, info.mapped = size, true
	table, more := blk[386:482], blk[482] != 0
	for {
		ended, err := info.oldTable(table, r.limits.Segments)
		if err != nil {
			return r.sparseError(err)
		}
		if !more || ended {
			break
		}
		ext, err := r.src.next(BlockSize)
		if err != nil {
			return r.inEntry(truncated(err), "sparse map")
		}
		table, more = ext[:504], ext[504] != 0
	}
	return nil
}

// oldTable reads pairs of offset and length; an empty field ends them.
func (s *sparseInfo) oldTable(table []byte, most int) (ended bool, err error) {
	const field = 12
	for ; len(table) > 0; table = table[2*field:] {
		if table[0] == 0 {
			return true, nil
		}
		offset, err := parseNumber(table[:field])
		if err != nil {
			return false, err
		}
		length, err := parseNumber(table[field : 2*field])
		if err != nil {
			return false, err
		}
		if len(s.segments) == most {
			return false, tooManySegments(most)
		}
		s.segments = append(s.segments, Segment{offset, length})
	}
	return false, nil
}

// locate sets the size and segments of r.header, if it is sparse, and where its
// data lies, behind the map of form 1.0.
func (r *Reader) locate(info *sparseInfo) error {
	h := &r.header
	inData := false
	switch {
	case info.major == "1" && info.minor == "0":
		inData = true
	case info.major == "0" || info.major == "" && info.mapped:
		if !info.mapped || info.halfway {
			return r.inEntry(ErrMalformed, "a sparse file without its whole map")
		}
	case info.major != "":
		return r.inEntry(ErrMalformed, "sparse file of unknown form %.20s.%.20s", info.major, info.minor)
	default:
		return nil
	}
	if h.Type != TypeReg {
		return r.inEntry(ErrMalformed, "a sparse map of what is not a file")
	}
	if inData {
		if info.mapped {
			return r.inEntry(ErrMalformed, "two sparse maps")
		}
		if err := r.mapInData(info); err != nil {
			return r.sparseError(err)
		}
	}
	if info.realSize >= 0 {
		h.Size = info.realSize
	}
	segments, err := checkSegments(info.segments, h.Size, h.PackedSize)
	if err != nil {
		return r.sparseError(err)
	}
	h.Sparse, r.sparse = segments, segments
	return nil
}

func (r *Reader) sparseError(err error) error {
	for _, sentinel := range []error{ErrLimit, ErrTruncated} {
		if errors.Is(err, sentinel) {
			return EntryError(r.header.Name, err)
		}
	}
	return r.inEntry(ErrMalformed, "sparse map: %v", err)
}

// mapInData reads form 1.0: decimal numbers on lines of their own, first how many
// pairs there are, in whole blocks before the data.
func (r *Reader) mapInData(info *sparseInfo) error {
	lines := mapLines{reader: r}
	line, err := lines.next()
	if err != nil {
		return err
	}
	pairs, err := parseDecimal(line)
	if err != nil {
		return err
	}
	if pairs > int64(r.limits.Segments) {
		return tooManySegments(r.limits.Segments)
	}
	for i := range 2 * pairs {
		if line, err = lines.next(); err != nil {
			return err
		}
		if err := info.number(line, r.limits.Segments, i%2 == 0); err != nil {
			return err
		}
	}
	return nil
}

// mapLines reads lines from the beginning of an entry's contents, which become
// less by the blocks they take.
type mapLines struct {
	reader *Reader
	block  []byte
}

func (m *mapLines) next() (string, error) {
	var line []byte
	for {
		head, tail, ended := bytes.Cut(m.block, []byte{'\n'})
		m.block = tail
		if line = append(line, head...); len(line) > 20 {
			return "", errors.New("a number too long")
		}
		if ended {
			return string(line), nil
		}
		if err := m.fill(); err != nil {
			return "", err
		}
	}
}

func (m *mapLines) fill() (err error) {
	h := &m.reader.header
	if h.PackedSize < BlockSize {
		return errors.New("it does not end within the contents")
	}
	if m.block, err = m.reader.src.next(BlockSize); err != nil {
		return truncated(err)
	}
	h.PackedSize -= BlockSize
	h.DataOffset += BlockSize
	m.reader.left -= BlockSize
	return nil
}

// checkSegments returns the segments without empty ones, never nil. They must
// ascend, lie within size and together have exactly the stored bytes.
func checkSegments(segments []Segment, size, stored int64) ([]Segment, error) {
	kept := segments[:0]
	var end, sum int64
	for _, s := range segments {
		switch {
		case s.Offset < end:
			return nil, fmt.Errorf("a segment at %d, where one before it lies or none can", s.Offset)
		case s.Length < 0 || s.Length > math.MaxInt64-s.Offset || s.Offset+s.Length > size:
			return nil, fmt.Errorf("a segment at %d of %d bytes in a file of %d", s.Offset, s.Length, size)
		}
		end = s.Offset + s.Length
		sum += s.Length // no overflow: segments do not overlap within size
		if s.Length > 0 {
			kept = append(kept, s)
		}
	}
	if sum != stored {
		return nil, fmt.Errorf("segments of %d bytes, but %d are stored", sum, stored)
	}
	if kept == nil {
		kept = []Segment{}
	}
	return kept, nil
}

// sparseContents reads a sparse file with its holes.
type sparseContents struct {
	tar      io.ReaderAt
	size     int64
	segments []Segment
	stored   []int64 // offset in tar of each segment
}

func newSparseContents(tar io.ReaderAt, h *Header) *sparseContents {
	c := &sparseContents{tar: tar, size: h.Size, segments: h.Sparse, stored: make([]int64, len(h.Sparse))}
	at := h.DataOffset
	for i, s := range h.Sparse {
		c.stored[i] = at
		at += s.Length
	}
	return c
}

func (c *sparseContents) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("tarfile: negative offset")
	}
	n := int(min(int64(len(p)), max(c.size-off, 0)))
	end := off + int64(n)
	clear(p[:n])
	first := sort.Search(len(c.segments), func(i int) bool { return c.segments[i].Offset+c.segments[i].Length > off })
	for i, s := range c.segments[first:] {
		if s.Offset >= end {
			break
		}
		from, to := max(s.Offset, off), min(s.Offset+s.Length, end)
		got, err := c.tar.ReadAt(p[from-off:to-off], c.stored[first+i]+from-s.Offset)
		if got < int(to-from) {
			return int(from-off) + got, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
