package tarfile

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Writer writes a tar whose bytes follow from the headers and contents alone:
// ustar headers, with PAX records, sorted by key, for what ustar cannot hold.
type Writer struct {
	w      io.Writer
	offset int64
	left   int64 // stored bytes of the current entry not written
	err    error
}

// NewWriter writes a tar to w. Close ends it.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w}
}

// WriteHeader starts an entry and fills in h.Offset, h.DataOffset and
// h.PackedSize. For a TypeReg entry Write takes its contents next: Size bytes,
// or, if Sparse is not nil, those of its segments one after the other. Size is
// ignored for other types. The contents of the entry before must be complete.
func (w *Writer) WriteHeader(h *Header) error {
	if w.err != nil {
		return w.err
	}
	if w.left > 0 {
		return EntryError(h.Name, fmt.Errorf("%d bytes of the entry before are missing", w.left))
	}
	out, err := compose(h)
	if err != nil {
		return EntryError(h.Name, err)
	}
	h.Offset = w.offset
	w.pad()
	w.write(out.head)
	h.DataOffset = w.offset + int64(len(out.sparseMap))
	h.PackedSize = out.data
	w.write(out.sparseMap)
	w.left = out.data
	return w.err
}

// Write writes contents of the entry. More than WriteHeader announced is an error.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.left {
		return 0, errors.New("tar: more contents than the header says")
	}
	n := w.write(p)
	w.left -= int64(n)
	if w.left == 0 {
		w.pad()
	}
	return n, w.err
}

// Size is how many bytes were written so far; after Close, the size of the tar.
func (w *Writer) Size() int64 { return w.offset }

// Close writes the two blocks of zeros that end a tar. It does not close the
// underlying writer.
func (w *Writer) Close() error {
	if w.err == nil && w.left > 0 {
		w.err = fmt.Errorf("tar: %d bytes of the last entry are missing", w.left)
	}
	if w.err != nil {
		return w.err
	}
	w.write(make([]byte, 2*BlockSize))
	err := w.err
	w.err = errors.New("tar: write after Close")
	return err
}

func (w *Writer) write(p []byte) int {
	if w.err != nil {
		return 0
	}
	n, err := w.w.Write(p)
	w.offset += int64(n)
	w.err = err
	return n
}

func (w *Writer) pad() {
	if n := roundUp(w.offset) - w.offset; n > 0 {
		w.write(make([]byte, n))
	}
}

// composed is an entry without its data.
type composed struct {
	head      []byte // PAX header, if needed, and the entry's own
	sparseMap []byte
	data      int64
}

func compose(h *Header) (*composed, error) {
	if err := checkWritable(h); err != nil {
		return nil, err
	}
	name := h.Name
	if h.Type == TypeDir && !strings.HasSuffix(name, "/") {
		name += "/"
	}
	out := &composed{}
	records := slices.Clone(h.Records)
	add := func(key, value string) { records = append(records, Record{key, value}) }

	if h.Type == TypeReg {
		out.data = h.Size
	}
	if h.Sparse != nil {
		segments, err := checkSegments(slices.Clone(h.Sparse), h.Size, sumOf(h.Sparse))
		if err != nil {
			return nil, err
		}
		out.data = sumOf(segments)
		out.sparseMap = composeMap(segments, h.Size)
		add(keySparseMajor, "1")
		add(keySparseMinor, "0")
		add(keySparseName, name)
		add(keySparseRealSize, strconv.FormatInt(h.Size, 10))
		name = path.Join("GNUSparseFile.0", path.Base(name)) // what a reader without sparse files makes of it
		name = name[:min(len(name), 100)]
	}
	b := block(make([]byte, BlockSize))
	if !b.setName(name) {
		add("path", name)
	}
	if copy(b[157:257], h.Linkname) < len(h.Linkname) {
		add("linkpath", h.Linkname)
	}
	b.setOwner(h, add)
	putNumber(b[124:136], out.data+int64(len(out.sparseMap)), "size", add)
	if h.Nsec != 0 || !fitsOctal(b.mtime(), h.Sec) {
		add("mtime", formatTime(h.Sec, h.Nsec))
	}
	putOctal(b.mtime(), h.Sec)
	for _, x := range h.Xattrs {
		add(prefixSchilyXattr+xattrEscaper.Replace(x.Name), string(x.Value))
		addACLText(x, add)
	}
	if h.Type == TypeChar || h.Type == TypeBlock {
		putNumber(b.devmajor(), int64(h.Devmajor), "SCHILY.devmajor", add)
		putNumber(b.devminor(), int64(h.Devminor), "SCHILY.devminor", add)
	} else {
		putOctal(b.devmajor(), 0)
		putOctal(b.devminor(), 0)
	}
	b[156] = h.Type
	b.seal()
	if len(records) > 0 {
		out.head = composePAX(records, h.Name)
	}
	out.head = append(out.head, b...)
	return out, nil
}

// addACLText says an ACL once more, unless the kernel would not take it.
func addACLText(x Xattr, add func(key, value string)) {
	var key string
	switch x.Name {
	case XattrACLAccess:
		key = keyACLAccess
	case XattrACLDefault:
		key = keyACLDefault
	default:
		return
	}
	if text, err := aclText(x.Value); err == nil {
		add(key, text)
	}
}

func checkWritable(h *Header) error {
	switch h.Type {
	case TypeReg, TypeLink, TypeSymlink, TypeChar, TypeBlock, TypeDir, TypeFifo:
	default:
		return fmt.Errorf("type %q cannot be written", h.Type)
	}
	switch {
	case h.Name == "":
		return errors.New("no name")
	case strings.HasSuffix(h.Name, "/") && h.Type != TypeDir:
		return errors.New("a name that ends in a slash, but no directory")
	case h.Size < 0 || h.Size > math.MaxInt64-BlockSize:
		return fmt.Errorf("size %d", h.Size)
	case h.Nsec >= 1e9:
		return fmt.Errorf("%d nanoseconds", h.Nsec)
	case h.Sparse != nil && h.Type != TypeReg:
		return errors.New("a sparse map of what is not a file")
	case len(h.ACLs) > 0:
		return ErrUnknownOwner
	}
	for _, s := range []string{h.Name, h.Linkname, h.Uname, h.Gname} {
		if err := checkNoNUL(s); err != nil {
			return err
		}
	}
	for _, x := range h.Xattrs {
		if x.Name == "" || checkNoNUL(x.Name) != nil {
			return fmt.Errorf("extended attribute %q", x.Name)
		}
	}
	for _, r := range h.Records {
		if r.Key == "" || strings.ContainsAny(r.Key, "=\x00") {
			return fmt.Errorf("PAX record %q", r.Key)
		}
	}
	return nil
}

func sumOf(segments []Segment) (n int64) {
	for _, s := range segments {
		n += s.Length
	}
	return n
}

// composeMap writes the map of sparse form 1.0. A hole at the end of the file is
// marked by an empty segment, as GNU tar does.
func composeMap(segments []Segment, size int64) []byte {
	if n := len(segments); n == 0 || segments[n-1].Offset+segments[n-1].Length < size {
		segments = append(slices.Clip(segments), Segment{Offset: size})
	}
	var b []byte
	line := func(n int64) { b = append(strconv.AppendInt(b, n, 10), '\n') }
	line(int64(len(segments)))
	for _, s := range segments {
		line(s.Offset)
		line(s.Length)
	}
	return append(b, make([]byte, roundUp(int64(len(b)))-int64(len(b)))...)
}

// setName stores name, split between prefix and name at a slash if it has to be,
// or as much as fits and returns false.
func (b block) setName(name string) bool {
	copy(b[257:], "ustar\x0000")
	if copy(b[0:100], name) == len(name) {
		return true
	}
	if len(name) > 256 {
		return false
	}
	// The longest prefix, but not all of a directory's name with its slash.
	i := strings.LastIndexByte(name[:min(len(name)-1, 156)], '/')
	if i <= 0 || len(name)-i-1 > 100 {
		return false
	}
	clear(b[0:100])
	copy(b[0:100], name[i+1:])
	copy(b[345:500], name[:i])
	return true
}

func (b block) setOwner(h *Header, add func(key, value string)) {
	putOctal(b.mode(), int64(h.Mode&0o7777))
	putNumber(b.uid(), int64(h.UID), "uid", add)
	putNumber(b.gid(), int64(h.GID), "gid", add)
	for _, name := range []struct {
		field      []byte
		key, value string
	}{{b[265:297], "uname", h.Uname}, {b[297:329], "gname", h.Gname}} {
		// These fields end in a NUL even when they are full.
		if copy(name.field[:len(name.field)-1], name.value) < len(name.value) {
			add(name.key, name.value)
		}
	}
}

func (b block) seal() {
	copy(b.checksum(), "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b.checksum(), fmt.Sprintf("%06o\x00 ", sum))
}

func fitsOctal(field []byte, n int64) bool {
	return n >= 0 && n < 1<<(3*(len(field)-1))
}

// putOctal stores n, or zero if it does not fit.
func putOctal(field []byte, n int64) {
	if !fitsOctal(field, n) {
		n = 0
	}
	copy(field, fmt.Sprintf("%0*o", len(field)-1, n))
}

func putNumber(field []byte, n int64, key string, add func(key, value string)) {
	if !fitsOctal(field, n) {
		add(key, strconv.FormatInt(n, 10))
	}
	putOctal(field, n)
}

// composePAX writes the header and contents of an 'x' entry for the one named name.
func composePAX(records []Record, name string) []byte {
	slices.SortStableFunc(records, func(a, b Record) int { return strings.Compare(a.Key, b.Key) })
	var data []byte
	if slices.ContainsFunc(records, isBinaryName) {
		data = appendRecord(data, Record{"hdrcharset", "BINARY"})
	}
	for _, r := range records {
		data = appendRecord(data, r)
	}
	b := block(make([]byte, BlockSize))
	copy(b[0:100], path.Join("PaxHeaders.0", path.Base(name)))
	copy(b[257:], "ustar\x0000")
	putOctal(b.mode(), 0o644)
	for _, field := range [][]byte{b.uid(), b.gid(), b.mtime(), b.devmajor(), b.devminor()} {
		putOctal(field, 0)
	}
	putOctal(b.size(), int64(len(data)))
	b[156] = typePAX
	b.seal()
	out := append([]byte(b), data...)
	return append(out, make([]byte, roundUp(int64(len(data)))-int64(len(data)))...)
}

// isBinaryName tells which records POSIX wants in UTF-8 but are not.
func isBinaryName(r Record) bool {
	switch r.Key {
	case "path", "linkpath", "uname", "gname", keySparseName:
		return !utf8.ValidString(r.Value)
	}
	return false
}

// appendRecord finds the length that counts its own digits.
func appendRecord(b []byte, r Record) []byte {
	length := len(r.Key) + len(r.Value) + len(" =\n")
	total := length + len(strconv.Itoa(length))
	total = length + len(strconv.Itoa(total))
	return fmt.Appendf(b, "%d %s=%s\n", total, r.Key, r.Value)
}

func formatTime(sec int64, nsec uint32) string {
	sign := ""
	if sec < 0 {
		sign = "-"
		sec = -sec
		if nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	if nsec == 0 {
		return fmt.Sprintf("%s%d", sign, sec)
	}
	return sign + strings.TrimRight(fmt.Sprintf("%d.%09d", sec, nsec), "0")
}
