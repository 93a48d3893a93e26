package layer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// packer writes the entries of files.
type packer struct {
	out   *bufio.Writer
	tar   *tarfile.Writer
	epoch *time.Time
	names map[identity]string // the first name of each file that has several
	buf   []byte
}

// identity tells two files from each other. Files of the upper are known by what they are there,
// wherever they were seen: the merged view may number them in another way.
type identity struct {
	merged       bool
	major, minor uint32
	ino          uint64
}

func newPacker(w io.Writer, opts PackOptions) *packer {
	out := bufio.NewWriterSize(w, 64<<10)
	return &packer{
		out: out, tar: tarfile.NewWriter(out), epoch: opts.SourceDateEpoch,
		names: make(map[identity]string), buf: make([]byte, 256<<10),
	}
}

func (p *packer) close() error {
	if err := p.tar.Close(); err != nil {
		return err
	}
	return p.out.Flush()
}

// node writes the entry of a file, with its contents.
func (p *packer) node(s *step) error {
	if err := p.tryNode(s); err != nil {
		return fmt.Errorf("pack %q: %w", "/"+s.path, err)
	}
	return nil
}

func (p *packer) tryNode(s *step) error {
	if s.stat.Type() == erofs.ModeSocket {
		return nil // a tar has none, and without its process it would be of no use
	}
	h := p.header(s)
	first, err := p.firstName(s)
	if err != nil {
		return err
	}
	if first != "" {
		h.Type, h.Linkname = tarfile.TypeLink, first
		return p.tar.WriteHeader(h)
	}
	switch s.stat.Type() {
	case erofs.ModeRegular:
		h.Type = tarfile.TypeReg
		return p.regular(s, h)
	case erofs.ModeDir:
		h.Type, h.Name = tarfile.TypeDir, h.Name+"/"
	case erofs.ModeSymlink:
		h.Type = tarfile.TypeSymlink
		if h.Linkname, err = sys.ReadLinkFD(s.handle); err != nil {
			return err
		}
	case erofs.ModeFifo:
		h.Type = tarfile.TypeFifo
	case erofs.ModeChar:
		h.Type, h.Devmajor, h.Devminor = tarfile.TypeChar, s.stat.RdevMajor, s.stat.RdevMinor
	case erofs.ModeBlock:
		h.Type, h.Devmajor, h.Devminor = tarfile.TypeBlock, s.stat.RdevMajor, s.stat.RdevMinor
	default:
		return fmt.Errorf("%w: mode %#o", ErrUnsupported, s.stat.Mode)
	}
	return p.tar.WriteHeader(h)
}

// header has what all kinds of files have. Names of owners are left out: they are a host's.
func (p *packer) header(s *step) *tarfile.Header {
	h := &tarfile.Header{
		Name: s.path, Mode: s.stat.Mode & 0o7777, UID: s.stat.UID, GID: s.stat.GID,
		Sec: s.stat.Sec, Nsec: s.stat.Nsec, Xattrs: s.xattrs,
	}
	if p.epoch != nil && time.Unix(h.Sec, int64(h.Nsec)).After(*p.epoch) {
		h.Sec, h.Nsec = p.epoch.Unix(), uint32(p.epoch.Nanosecond()) //nolint:gosec // below 1e9.
	}
	return h
}

// firstName returns the name under which the file of s was written before, or "".
func (p *packer) firstName(s *step) (string, error) {
	if s.stat.IsDir() || s.stat.Nlink < 2 {
		return "", nil
	}
	id, err := identify(s)
	if err != nil {
		return "", err
	}
	first, ok := p.names[id]
	if !ok {
		p.names[id] = s.path
	}
	return first, nil
}

func identify(s *step) (identity, error) {
	st := s.stat
	merged := s.parent.plain
	if merged && s.parent.upper != nil {
		there, err := sys.StatAt(s.parent.upper, s.name)
		switch {
		case err == nil && there.Type() == st.Type():
			st, merged = there, false
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return identity{}, err
		}
	}
	return identity{merged, st.DevMajor, st.DevMinor, st.Ino}, nil
}

// regular opens the file by the handle that told what it is, so never a fifo that took its place.
func (p *packer) regular(s *step, h *tarfile.Header) error {
	st, err := sys.StatFile(s.contents)
	if err != nil {
		return err
	}
	if s.contents != s.handle && (!st.IsRegular() || st.Size != s.stat.Size) {
		return ErrChanged // the merged view has another file there by now
	}
	f, err := sys.Reopen(s.contents, syscall.O_RDONLY|syscall.O_NOCTTY)
	if err != nil {
		return err
	}
	defer f.Close()
	h.Size = st.Size
	ranges, err := sys.DataRanges(f, st.Size)
	if err != nil {
		return err
	}
	if h.Sparse = segments(ranges, st.Size); h.Sparse == nil {
		ranges = []sys.Range{{Offset: 0, Length: st.Size}}
	} else {
		ranges = ranges[:0]
		for _, segment := range h.Sparse {
			ranges = append(ranges, sys.Range(segment))
		}
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	for _, r := range ranges {
		n, err := io.CopyBuffer(writerOnly{p.tar}, readerOnly{io.NewSectionReader(f, r.Offset, r.Length)}, p.buf)
		if err != nil {
			return err
		}
		if n < r.Length {
			return ErrChanged
		}
	}
	return nil
}

// sparseUnit is the smallest hole that is kept. File systems find holes by their blocks, which are
// of different sizes; with this one most agree about the same file.
const sparseUnit = 4096

// segments rounds the data of a file to sparseUnit. nil: there is no hole.
func segments(ranges []sys.Range, size int64) []tarfile.Segment {
	all := []tarfile.Segment{}
	for _, r := range ranges {
		start := r.Offset &^ (sparseUnit - 1)
		end := min((r.Offset+r.Length+sparseUnit-1)&^(sparseUnit-1), size)
		if last := len(all) - 1; last >= 0 && all[last].Offset+all[last].Length >= start {
			all[last].Length = end - all[last].Offset
			continue
		}
		all = append(all, tarfile.Segment{Offset: start, Length: end - start})
	}
	if size < sparseUnit || len(all) == 1 && all[0].Length == size {
		return nil
	}
	return all
}

// These keep io.CopyBuffer to its buffer.
type (
	writerOnly struct{ io.Writer }
	readerOnly struct{ io.Reader }
)
