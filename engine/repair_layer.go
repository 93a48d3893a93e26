package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/fanout"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/store"
)

// replaceLayer makes a layer anew from another place, and puts it where the damaged one is, or was.
func (r *repair) replaceLayer(ctx context.Context, diffID image.Digest) error {
	return firstSource(ctx, r.tarSources(diffID), func(s source) error { return r.replaceFrom(ctx, diffID, s) })
}

func (r *repair) replaceFrom(ctx context.Context, diffID image.Digest, s source) (err error) {
	in, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer in.Close()
	staged, err := r.engine.stagePlain(ctx, r.watched(in, diffID), maxLayerSize)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, staged.abort()) }()
	if staged.diffID != diffID {
		return fmt.Errorf("%w: it is %s", ErrDiffID, staged.diffID)
	}
	lock, err := r.engine.Store.Exclusive(ctx)
	if err != nil {
		return err
	}
	if l, err := r.engine.Store.Layer(diffID); err == nil {
		if err := r.engine.Driver.Release(driverLayer(l)); err != nil {
			return errors.Join(err, lock.Unlock())
		}
	}
	return errors.Join(staged.stage.Replace(lock, diffID), lock.Unlock(), r.engine.Store.CollectLeftovers())
}

func (r *repair) watched(in io.Reader, d image.Digest) io.Reader {
	return &watchedReader{Reader: in, report: r.opts.Report, transfer: Transfer{Blob: d, State: Running}}
}

// mendTar finds the right bytes for what is wrong in a layer's tar, and writes them where they belong: into the
// layer's own file, or that of one it borrows from.
func (r *repair) mendTar(ctx context.Context, l store.Layer) (err error) {
	tar, err := l.OpenDamaged()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	p, err := r.engine.newPatch(tar, l.DiffID)
	if err != nil {
		return err
	}
	defer p.file.Close()
	if sums, sumsErr := l.Sums(); sumsErr == nil && sums != nil && sums.Size == tar.Map.Size {
		if err := p.findDamage(ctx, sums); err != nil {
			return err
		}
	}
	if err := r.fillPatch(ctx, p); err != nil {
		return err
	}
	if err := p.apply(); err != nil {
		return err
	}
	return emptyHoles(tar)
}

// fillPatch looks for the right bytes, until the tar with them has the digest it must have.
func (r *repair) fillPatch(ctx context.Context, p *patch) error {
	if ok, err := p.verify(ctx); ok || err != nil {
		return err // only what nobody looks at is wrong
	}
	if p.sums != nil {
		if err := r.engine.patchFromLayers(ctx, p); err != nil {
			return err
		}
		if ok, err := p.verify(ctx); ok || err != nil {
			return err
		}
	}
	err := store.ErrNoSource
	for s := range r.tarSources(p.diffID) {
		sourceErr := r.patchFrom(ctx, p, s)
		if sourceErr == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err = fmt.Errorf("%w; from %s: %w", err, s.name, sourceErr)
	}
	return err
}

// patchFrom takes just the spans that are damaged, if they are known and to be had, or else what differs.
func (r *repair) patchFrom(ctx context.Context, p *patch, s source) error {
	if p.sums != nil && s.at != nil {
		// If that does not do, the whole may.
		if err := p.fetchSpans(ctx, s); err == nil {
			if ok, err := p.verify(ctx); ok || err != nil {
				return err
			}
		}
	}
	in, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer in.Close()
	return p.compare(ctx, r.watched(in, p.diffID))
}

// patch is what is to be written to a tar.
type patch struct {
	tar    *holes.Tar
	diffID image.Digest
	sums   *store.Sums // nil if it has none
	bad    []int       // spans
	file   *os.File    // the right bytes, one stretch behind the other
	parts  []patchPart // by offset
	size   int64       // of file
}

type patchPart struct {
	offset, length int64 // in the tar
	at             int64 // in the file
}

func (e *Engine) newPatch(tar *holes.Tar, diffID image.Digest) (*patch, error) {
	file, err := e.Store.SpoolFile()
	if err != nil {
		return nil, err
	}
	return &patch{tar: tar, diffID: diffID, file: file}, nil
}

// findDamage finds the spans that have not the checksum they should have.
func (p *patch) findDamage(ctx context.Context, sums *store.Sums) error {
	buf := make([]byte, store.SpanSize)
	for i, want := range sums.Spans {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		offset, length := sums.Span(i)
		_, err := p.tar.ReadAt(buf[:length], offset)
		if err != nil && !errors.Is(err, io.EOF) || castagnoli(buf[:length]) != want {
			p.bad = append(p.bad, i) // also what the disk does not give
		}
	}
	p.sums = sums
	return nil
}

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// add keeps bytes that belong at an offset; offsets ascend.
func (p *patch) add(offset int64, data []byte) error {
	if _, err := p.file.WriteAt(data, p.size); err != nil {
		return err
	}
	if n := len(p.parts); n > 0 && p.parts[n-1].offset+p.parts[n-1].length == offset {
		p.parts[n-1].length += int64(len(data))
	} else {
		p.parts = append(p.parts, patchPart{offset: offset, length: int64(len(data)), at: p.size})
	}
	p.size += int64(len(data))
	return nil
}

func (p *patch) reset() { p.parts, p.size = nil, 0 }

// fill finds for each damaged span bytes that have its checksum; where find has none, it stays as it is.
func (p *patch) fill(find func(span []byte, offset int64) error) error {
	p.reset()
	buf := make([]byte, store.SpanSize)
	for _, i := range p.bad {
		offset, length := p.sums.Span(i)
		span := buf[:length]
		if _, err := p.tar.ReadAt(span, offset); err != nil && !errors.Is(err, io.EOF) {
			clear(span)
		}
		if err := find(span, offset); err != nil {
			return err
		}
		if castagnoli(span) == p.sums.Spans[i] {
			if err := p.add(offset, span); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetchSpans gets the damaged spans, neighbours at once.
func (p *patch) fetchSpans(ctx context.Context, s source) error {
	var in io.ReadCloser
	next := int64(-1)
	defer func() {
		if in != nil {
			_ = in.Close() // only read
		}
	}()
	return p.fill(func(span []byte, offset int64) (err error) {
		if offset != next {
			if in != nil {
				_ = in.Close() // only read
			}
			if in, err = s.at(ctx, offset, p.stretch(offset)); err != nil {
				in = nil
				return err
			}
		}
		next = offset + int64(len(span))
		_, err = io.ReadFull(in, span)
		return err
	})
}

// stretch gives how many bytes from a span on are damaged without a gap.
func (p *patch) stretch(offset int64) (length int64) {
	for _, i := range p.bad {
		if start, n := p.sums.Span(i); start == offset+length {
			length += n
		}
	}
	return length
}

// compare reads the tar from another place, and keeps what differs; if that was not the tar, nothing.
func (p *patch) compare(ctx context.Context, in io.Reader) error {
	p.reset()
	sum := sha256.New()
	size := int64(0)
	err := fanout.Copy(ctx, in,
		func(s *fanout.Stream) error { _, err := s.WriteTo(sum); return err },
		func(s *fanout.Stream) (err error) { size, err = p.keepDifferences(s); return err })
	if err == nil && (image.DigestSum(sum) != p.diffID || size != p.tar.Map.Size) {
		err = fmt.Errorf("%w: it is %s", ErrDiffID, image.DigestSum(sum))
	}
	if err != nil {
		p.reset()
	}
	return err
}

// keepDifferences gives how long the other tar is.
func (p *patch) keepDifferences(in io.Reader) (offset int64, err error) {
	here, there := make([]byte, store.SpanSize), make([]byte, store.SpanSize)
	for {
		n, err := io.ReadFull(in, there)
		if offset+int64(n) > p.tar.Map.Size {
			return offset, fmt.Errorf("%w: it is longer", ErrDiffID)
		}
		if !p.has(there[:n], offset, here) {
			if err := p.add(offset, there[:n]); err != nil {
				return offset, err
			}
		}
		offset += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return offset, nil // if it was cut short, its digest says so
		}
		if err != nil {
			return offset, err
		}
	}
}

// has tells whether the tar has these bytes; buf is room for as many.
func (p *patch) has(want []byte, offset int64, buf []byte) bool {
	_, err := p.tar.ReadAt(buf[:len(want)], offset)
	return (err == nil || errors.Is(err, io.EOF)) && bytes.Equal(buf[:len(want)], want)
}

// verify tells whether the tar has its digest with what was found so far.
func (p *patch) verify(ctx context.Context) (bool, error) {
	sum := sha256.New()
	at := int64(0)
	for _, part := range append(p.parts, patchPart{offset: p.tar.Map.Size}) {
		readers := io.MultiReader(
			io.NewSectionReader(p.tar, at, part.offset-at),
			io.NewSectionReader(p.file, part.at, part.length))
		if _, err := io.Copy(sum, contextReader{ctx, readers}); err != nil {
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			return false, nil // what cannot be read is wrong
		}
		at = part.offset + part.length
	}
	return image.DigestSum(sum) == p.diffID, nil
}

// apply writes all where it belongs. It was verified; until it is on the disk, the tar is no more wrong than
// before.
func (p *patch) apply() error {
	buf := make([]byte, 256<<10)
	for _, part := range p.parts {
		for piece := range p.tar.Map.Pieces(part.offset, part.length) {
			from := part.at + piece.Offset - part.offset
			for done := int64(0); done < piece.Length; {
				n := min(piece.Length-done, int64(len(buf)))
				if _, err := p.file.ReadAt(buf[:n], from+done); err != nil {
					return err
				}
				if _, err := p.tar.Devices[piece.Device].WriteAt(buf[:n], piece.At+done); err != nil {
					return err
				}
				done += n
			}
		}
	}
	for _, device := range p.tar.Devices {
		if err := device.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// emptyHoles takes out of a file that is no tar what has come into its holes.
func emptyHoles(tar *holes.Tar) error {
	if tar.Map.Packed || tar.Map.Whole() {
		return nil
	}
	own := tar.Devices[0]
	err := eachStrayBlock(tar, func(at int64, here, there []byte) error {
		if bytes.Equal(here, there) {
			return nil
		}
		_, err := own.WriteAt(make([]byte, holes.BlockSize), at)
		return err
	})
	if err != nil {
		return err
	}
	err = sys.PunchHoles(own, func(yield func(sys.Range) bool) {
		for _, r := range tar.Map.Ranges {
			if !yield(sys.Range{Offset: int64(r.Start) * holes.BlockSize, Length: int64(r.Count) * holes.BlockSize}) {
				return
			}
		}
	})
	if errors.Is(err, sys.ErrNoPunch) {
		err = nil
	}
	return errors.Join(err, own.Sync())
}

// mendIndex makes the index of a layer again, and writes into the file what differs: it may be mounted.
func (r *repair) mendIndex(ctx context.Context, l store.Layer) (err error) {
	tar, err := l.OpenDamaged()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	tree, err := scanVerified(ctx, tar, l.DiffID)
	if err != nil {
		return err
	}
	made, err := r.engine.Store.SpoolFile()
	if err != nil {
		return err
	}
	defer made.Close()
	size, err := tree.WriteIndex(made, tar)
	if err != nil {
		return err
	}
	if err := tar.Index.Truncate(size); err != nil {
		return err
	}
	here, there := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < size; at += int64(len(here)) {
		n := min(size-at, int64(len(here)))
		if err := readBoth(tar.Index, made, at, here[:n], there[:n]); err != nil {
			return err
		}
		if bytes.Equal(here[:n], there[:n]) {
			continue
		}
		if _, err := tar.Index.WriteAt(there[:n], at); err != nil {
			return err
		}
	}
	return tar.Index.Sync()
}

// scanVerified makes a tree of a tar, if that has the right digest.
func scanVerified(ctx context.Context, tar io.Reader, diffID image.Digest) (tree *layer.Tree, err error) {
	var (
		sum     = sha256.New()
		scanErr error
	)
	err = fanout.Copy(ctx, tar,
		func(s *fanout.Stream) error { _, err := s.WriteTo(sum); return err },
		func(s *fanout.Stream) error {
			tree, scanErr = layer.Scan(s, layer.Limits{}) // what a damaged tar says is of no interest
			return nil
		})
	if err == nil && image.DigestSum(sum) != diffID {
		err = fmt.Errorf("%w: the tar is %s", store.ErrDigest, image.DigestSum(sum))
	}
	return tree, errors.Join(err, scanErr)
}

// mendSums makes the checksums of a layer's tar again.
func (r *repair) mendSums(ctx context.Context, l store.Layer) error {
	tar, err := l.OpenTar()
	if err != nil {
		return err
	}
	defer tar.Close()
	var sums store.Sums
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(sum, &sums), contextReader{ctx, tar}); err != nil {
		return err
	}
	if got := image.DigestSum(sum); got != l.DiffID {
		return fmt.Errorf("%w: the tar is %s", store.ErrDigest, got)
	}
	return l.ReplaceSums(&sums)
}
