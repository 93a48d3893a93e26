package layer

import (
	"bufio"
	"context"
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
	root  *step // to be written before the first entry
	epoch *time.Time
	names map[identity]string // the first name of each file that has several
	buf   []byte
	zeros []byte // a block of a sparse file
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
		names: make(map[identity]string),
		buf:   make([]byte, 256<<10), zeros: make([]byte, sparseUnit),
	}
}

func (p *packer) close() error {
	if err := p.tar.Close(); err != nil {
		return err
	}
	return p.out.Flush()
}

// entry begins an entry of the tar.
func (p *packer) entry(h *tarfile.Header) error {
	if root := p.root; root != nil {
		p.root = nil
		top := p.header(root)
		top.Type, top.Name = tarfile.TypeDir, rootName
		if err := p.tar.WriteHeader(top); err != nil {
			return err
		}
	}
	return p.tar.WriteHeader(h)
}

// rootName is what tar calls the directory it packs.
const rootName = "./"

// node writes the entry of a file, with its contents.
func (p *packer) node(ctx context.Context, s *step) error {
	if err := p.tryNode(ctx, s); err != nil {
		return fmt.Errorf("pack %q: %w", "/"+s.path, err)
	}
	return nil
}

func (p *packer) tryNode(ctx context.Context, s *step) error {
	if isSocket(s) {
		return nil
	}
	h := p.header(s)
	first, err := p.firstName(s)
	if err != nil {
		return err
	}
	if first != "" {
		h.Type, h.Linkname, h.Xattrs = tarfile.TypeLink, first, nil
		return p.entry(h)
	}
	switch s.stat.Type() {
	case erofs.ModeRegular:
		h.Type = tarfile.TypeReg
		return p.regular(ctx, s, h)
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
	return p.entry(h)
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
	st, own, err := s.inUpper()
	if err != nil {
		return identity{}, err
	}
	if !own {
		st = s.stat
	}
	return identity{!own, st.DevMajor, st.DevMinor, st.Ino}, nil
}

// regular opens the file by the handle that told what it is, so never a fifo that took its place.
func (p *packer) regular(ctx context.Context, s *step, h *tarfile.Header) error {
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
	if h.Sparse, err = p.sparse(ctx, s, f, st.Size); err != nil {
		return err
	}
	if err := p.entry(h); err != nil {
		return err
	}
	if h.Sparse == nil {
		return p.copy(ctx, f, tarfile.Segment{Length: st.Size})
	}
	for _, segment := range h.Sparse {
		if err := p.copy(ctx, f, segment); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) copy(ctx context.Context, f *os.File, segment tarfile.Segment) error {
	return p.read(ctx, f, segment, func(_ int64, piece []byte) error {
		_, err := p.tar.Write(piece)
		return err
	})
}

// read gives each piece of a segment, with its offset in the file. Pieces end with the segment, or
// at multiples of the buffer's size.
func (p *packer) read(ctx context.Context, f *os.File, segment tarfile.Segment, each func(at int64, piece []byte) error) error {
	for at, end := segment.Offset, segment.Offset+segment.Length; at < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		room := int64(len(p.buf))
		piece := p.buf[:min(room-at%room, end-at)]
		n, err := f.ReadAt(piece, at)
		if errors.Is(err, io.EOF) && n < len(piece) {
			return ErrChanged
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := each(at, piece); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}
