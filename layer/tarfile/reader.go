package tarfile

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

const (
	typePAX      = 'x'
	typeGlobal   = 'g'
	typeLongName = 'L'
	typeLongLink = 'K'
	typeSparse   = 'S'
	typeRegOld   = 0
	typeCont     = '7'
)

// Reader reads the entries of a tar one after the other.
//
// It passes over contents by offset or seeking if the input is an io.ReaderAt
// and io.Seeker, or an io.Seeker, or a Skipper; else it reads and drops them.
type Reader struct {
	src    *source
	limits Limits
	header Header
	err    error

	entries  int
	metadata int64
	started  bool // an entry was returned: header is one

	global map[string]string // of PAX 'g' headers
	owners owners

	left    int64     // stored bytes of the current entry not read
	logical int64     // bytes of its contents read, with holes
	sparse  []Segment // of its segments, those not read to their end
}

// NewReader reads the tar that starts where r is now.
func NewReader(r io.Reader, limits Limits) *Reader {
	return &Reader{src: newSource(r), limits: limits.WithDefaults()}
}

// Next passes over what is left of the current entry and returns the next one,
// or io.EOF after the last. The Header is valid until the next call; its
// strings and slices stay valid. Errors are ErrMalformed, ErrTruncated,
// ErrLimit, each with the entry's name, or of the input; they are final.
//
// The archive ends at two blocks of zeros or where the input ends between two
// entries; what follows the two blocks belongs to the tar but is not looked at.
func (r *Reader) Next() (*Header, error) {
	if r.err == nil {
		r.err = r.next()
	}
	if r.err != nil {
		r.left, r.sparse = 0, nil
		return nil, r.err
	}
	return &r.header, nil
}

// Size passes over what is left of the input and returns the size of the whole
// tar in bytes, with the end mark and whatever padding follows it.
func (r *Reader) Size() (int64, error) {
	return r.src.drain()
}

func (r *Reader) next() error {
	if err := r.finish(); err != nil {
		return err
	}
	start := r.src.pos
	var ext extension
	for {
		blk, err := r.block()
		if errors.Is(err, io.EOF) && ext.any {
			return r.after(ErrTruncated, "header without its entry")
		}
		if err != nil {
			return err
		}
		switch blk.typeflag() {
		case typePAX, typeGlobal, typeLongName, typeLongLink:
			if err := r.extension(blk, &ext); err != nil {
				return err
			}
		default:
			return r.entry(blk, &ext, start)
		}
	}
}

// finish passes over the current entry's contents and padding.
func (r *Reader) finish() error {
	if !r.started {
		return nil
	}
	if err := r.src.advance(r.left); err != nil {
		return r.inEntry(truncated(err), "contents")
	}
	r.left = 0
	return r.pad()
}

// pad moves to the next block. The padding of the last entry may be missing.
func (r *Reader) pad() error {
	err := r.src.advance(roundUp(r.src.pos) - r.src.pos)
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return err
}

// block reads a header block, or returns io.EOF at the end of the archive.
func (r *Reader) block() (block, error) {
	for zeros := 0; ; zeros++ {
		if err := r.src.fill(1); err != nil {
			return nil, err
		}
		at := r.src.pos
		b, err := r.src.next(BlockSize)
		if errors.Is(err, io.EOF) {
			return nil, r.after(ErrTruncated, "header")
		}
		if err != nil {
			return nil, err
		}
		switch {
		case isZero(b) && zeros == 1:
			return nil, io.EOF
		case isZero(b):
		case zeros == 1:
			return nil, r.after(ErrMalformed, "a lone block of zeros at offset %d", at-BlockSize)
		case !block(b).sumsOK():
			return nil, r.after(ErrMalformed, "no tar header at offset %d", at)
		default:
			return b, nil
		}
	}
}

// extension is what precedes an entry's own header.
type extension struct {
	any                bool
	pax                []Record
	longName, longLink string
}

// extension reads the contents of an 'x', 'g', 'L' or 'K' header.
func (r *Reader) extension(blk block, ext *extension) error {
	kind, name := blk.typeflag(), string(blk.name())
	size, err := parseNumber(blk.size())
	if err != nil || size < 0 {
		return malformed(name, "size of an extended header")
	}
	if size > int64(r.limits.Extension) {
		return limit(name, "an extended header of %d bytes, more than %d", size, r.limits.Extension)
	}
	data, err := r.src.bytes(int(size))
	if err != nil {
		return entryError(truncated(err), name, "extended header")
	}
	ext.any = ext.any || kind != typeGlobal
	switch kind {
	case typeLongName:
		ext.longName = string(cstring(data))
	case typeLongLink:
		ext.longLink = string(cstring(data))
	case typePAX:
		ext.pax, err = parsePAX(data)
	case typeGlobal:
		err = r.setGlobal(data)
	}
	if err != nil {
		return fmt.Errorf("tar header %s: %w", Quote(name), err)
	}
	if err := r.pad(); err != nil {
		return entryError(truncated(err), name, "extended header")
	}
	return nil
}

// entry makes r.header out of an entry's own block and its extensions.
func (r *Reader) entry(blk block, ext *extension, start int64) error {
	if r.entries++; r.entries > r.limits.Entries {
		return r.after(ErrLimit, "more than %d entries", r.limits.Entries)
	}
	r.header = Header{Offset: start, Name: blk.path(), Type: blk.typeflag()}
	r.started = true
	h := &r.header
	if ext.longName != "" {
		h.Name = ext.longName // so that errors name it
	}
	stored, err := r.parseBlock(blk)
	if err != nil {
		return r.inEntry(ErrMalformed, "%v", err)
	}
	sparse := sparseInfo{realSize: -1}
	attrs := attributes{stored: stored, sparse: &sparse}
	if err := r.applyPAX(ext.pax, &attrs); err != nil {
		return err
	}
	if ext.longName != "" {
		h.Name = ext.longName
	}
	if ext.longLink != "" {
		h.Linkname = ext.longLink
	}
	if sparse.name != "" {
		h.Name = sparse.name
	}
	if h.Type == typeSparse {
		if blk.dialect() != gnu {
			return r.inEntry(ErrMalformed, "sparse file in a dialect that is not GNU's")
		}
		if err := r.oldSparse(blk, &sparse); err != nil {
			return err
		}
	}
	if err := r.normaliseType(attrs.stored); err != nil {
		return err
	}
	if err := r.applyXattrs(&attrs); err != nil {
		return err
	}
	if err := r.checkStored(attrs.stored); err != nil {
		return err
	}
	if err := r.locate(&sparse); err != nil {
		return err
	}
	return r.account()
}

// normaliseType gives the old forms of files and directories the types of today.
func (r *Reader) normaliseType(stored int64) error {
	h := &r.header
	switch h.Type {
	case typeSparse, typeRegOld, typeCont, TypeReg:
		h.Type = TypeReg
	default:
		return nil
	}
	if !strings.HasSuffix(h.Name, "/") {
		return nil
	}
	if stored > 0 { // for some readers that is a file, and for others what follows is the next entry
		return r.inEntry(ErrMalformed, "a name that ends in a slash, and %d bytes of contents", stored)
	}
	h.Type = TypeDir // as GNU tar does; old tars had no other way to say it
	return nil
}

// parseBlock sets the fields that a header block holds and returns the size
// field.
func (r *Reader) parseBlock(blk block) (stored int64, err error) {
	h := &r.header
	h.Linkname = string(blk.linkname())
	number := func(field []byte, what string, most int64) int64 {
		n, fieldErr := parseNumber(field)
		if fieldErr == nil && (n < 0 || n > most) {
			fieldErr = fmt.Errorf("%d is out of range", n)
		}
		if fieldErr != nil && err == nil {
			err = fmt.Errorf("%s: %w", what, fieldErr)
		}
		return n
	}
	h.Mode = uint32(number(blk.mode(), "mode", math.MaxInt64)) & 0o7777
	h.UID = uint32(number(blk.uid(), "uid", maxID))
	h.GID = uint32(number(blk.gid(), "gid", maxID))
	stored = number(blk.size(), "size", math.MaxInt64)
	mtime, mtimeErr := parseNumber(blk.mtime())
	if mtimeErr != nil && err == nil {
		err = fmt.Errorf("mtime: %w", mtimeErr)
	}
	h.Sec = mtime
	if blk.dialect() != v7 {
		h.Uname = intern(blk.uname(), r.owners.lastUser)
		h.Gname = intern(blk.gname(), r.owners.lastGroup)
		if h.Type == TypeChar || h.Type == TypeBlock {
			h.Devmajor = uint32(number(blk.devmajor(), "major device number", math.MaxUint32))
			h.Devminor = uint32(number(blk.devminor(), "minor device number", math.MaxUint32))
		}
	}
	return stored, err
}

// intern saves a copy of b if it is the same as last time.
func intern(b []byte, last string) string {
	if string(b) == last {
		return last
	}
	return string(b)
}

// checkStored fixes what is stored of the entry: nothing, if it is only a header.
func (r *Reader) checkStored(stored int64) error {
	h := &r.header
	h.DataOffset = r.src.pos
	switch h.Type {
	case TypeLink, TypeSymlink, TypeChar, TypeBlock, TypeDir, TypeFifo:
		stored = 0
	case TypeReg:
		h.Size = stored
	}
	if stored < 0 || stored > math.MaxInt64-h.DataOffset-BlockSize {
		return r.inEntry(ErrMalformed, "size %d is out of range", stored)
	}
	h.PackedSize = stored
	r.left, r.logical, r.sparse = stored, 0, nil
	return nil
}

// account checks the finished header against the limits and the input's size.
func (r *Reader) account() error {
	h := &r.header
	switch {
	case h.Name == "":
		return r.inEntry(ErrMalformed, "no name")
	case len(h.Name) > r.limits.Name:
		return r.inEntry(ErrLimit, "a name of %d bytes, more than %d", len(h.Name), r.limits.Name)
	case len(h.Linkname) > r.limits.Linkname:
		return r.inEntry(ErrLimit, "a link target of %d bytes, more than %d", len(h.Linkname), r.limits.Linkname)
	case h.Size > r.limits.FileSize:
		return r.inEntry(ErrLimit, "a file of %d bytes, more than %d", h.Size, r.limits.FileSize)
	case r.src.size >= 0 && h.DataOffset+h.PackedSize > r.src.size:
		return r.inEntry(ErrTruncated, "contents")
	}
	kept := len(h.Name) + len(h.Linkname) + 16*len(h.Sparse)
	for _, x := range h.Xattrs {
		kept += len(x.Name) + len(x.Value)
	}
	for _, a := range h.ACLs {
		kept += len(a.Text)
	}
	for _, rec := range h.Records {
		kept += len(rec.Key) + len(rec.Value)
	}
	r.metadata += int64(kept + r.owners.learn(h))
	if r.metadata > r.limits.Metadata {
		return EntryError(h.Name, r.tooMuchMetadata())
	}
	return nil
}

func (r *Reader) tooMuchMetadata() error {
	return fmt.Errorf("%w: more than %d bytes of names and attributes in the archive", ErrLimit, r.limits.Metadata)
}

// Read reads the contents of the current entry, holes as zeros.
func (r *Reader) Read(p []byte) (int, error) {
	h := &r.header
	if h.Sparse == nil {
		return r.readStored(p[:min(int64(len(p)), r.left)])
	}
	rest := h.Size - r.logical
	if r.err != nil || rest == 0 {
		return 0, r.readEnd()
	}
	p = p[:min(int64(len(p)), rest)]
	if len(r.sparse) == 0 || r.logical < r.sparse[0].Offset {
		if len(r.sparse) > 0 {
			p = p[:min(int64(len(p)), r.sparse[0].Offset-r.logical)]
		}
		clear(p)
		r.logical += int64(len(p))
		return len(p), nil
	}
	end := r.sparse[0].Offset + r.sparse[0].Length
	n, err := r.readStored(p[:min(int64(len(p)), end-r.logical)])
	r.logical += int64(n)
	if r.logical == end {
		r.sparse = r.sparse[1:]
	}
	return n, err
}

func (r *Reader) readStored(p []byte) (int, error) {
	if r.err != nil || r.left == 0 {
		return 0, r.readEnd()
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.src.read(p)
	r.left -= int64(n)
	if err != nil {
		r.err = r.inEntry(truncated(err), "contents")
		return n, r.err
	}
	return n, nil
}

// WritePacked writes the first n bytes, or all, of what is stored of the current entry's contents,
// PackedSize bytes, to w: without the holes of a sparse file. Nothing of them must have been read, and
// the rest cannot be.
func (r *Reader) WritePacked(w io.Writer, n int64) error {
	if r.err != nil {
		return r.err
	}
	n = min(n, r.left)
	if err := r.src.copyTo(w, n); err != nil {
		r.err = r.inEntry(truncated(err), "contents")
		return r.err
	}
	if err := r.src.advance(r.left - n); err != nil {
		r.err = r.inEntry(truncated(err), "contents")
		return r.err
	}
	r.left, r.logical, r.sparse = 0, r.header.Size, nil
	return nil
}

func (r *Reader) readEnd() error {
	if r.err != nil {
		return r.err
	}
	return io.EOF
}

// truncated turns the end of the input, where there should be more, into ErrTruncated.
func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrTruncated
	}
	return err
}

// inEntry is an error about the current entry.
func (r *Reader) inEntry(err error, format string, args ...any) error {
	return entryError(err, r.header.Name, format, args...)
}

// after is an error about what follows the current entry.
func (r *Reader) after(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if !r.started {
		return fmt.Errorf("%w: %s", err, what)
	}
	return fmt.Errorf("%w: %s, after entry %s", err, what, Quote(r.header.Name))
}

func entryError(err error, name, format string, args ...any) error {
	return EntryError(name, fmt.Errorf("%w: %s", err, fmt.Sprintf(format, args...)))
}

// EntryError says which entry an error is about.
func EntryError(name string, err error) error {
	return fmt.Errorf("tar entry %s: %w", Quote(name), err)
}

// Quote makes a name of hostile origin fit for an error's line: quoted, and its middle left out if it
// is long.
func Quote(name string) string {
	const most = 300
	if len(name) <= most {
		return strconv.Quote(name)
	}
	return strconv.Quote(name[:most/2]) + "…" + strconv.Quote(name[len(name)-most/2:])
}

func malformed(name, format string, args ...any) error {
	return entryError(ErrMalformed, name, format, args...)
}

func limit(name, format string, args ...any) error {
	return entryError(ErrLimit, name, format, args...)
}
