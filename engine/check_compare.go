package engine

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/store"
)

// rewritten is a file that is written again, from its beginning to its end but for the holes in it, and
// must come out as it is.
type rewritten struct {
	ctx  context.Context //nolint:containedctx // lives exactly as long as the one comparison
	want *os.File
	size int64
	done []sys.Range // what has been written
	buf  []byte
}

// WriteAt implements io.WriterAt; it fails where the file has something else.
func (s *rewritten) WriteAt(p []byte, offset int64) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	if offset+int64(len(p)) > s.size {
		return 0, errDiffers
	}
	if len(s.buf) < len(p) {
		s.buf = make([]byte, len(p))
	}
	if _, err := s.want.ReadAt(s.buf[:len(p)], offset); err != nil {
		return 0, err
	}
	if !bytes.Equal(s.buf[:len(p)], p) {
		return 0, fmt.Errorf("%w between bytes %d and %d", errDiffers, offset, offset+int64(len(p))-1)
	}
	s.written(offset, int64(len(p)))
	return len(p), nil
}

// written joins stretches that follow each other, which is what a writer makes.
func (s *rewritten) written(offset, length int64) {
	if n := len(s.done); n > 0 && s.done[n-1].Offset+s.done[n-1].Length == offset {
		s.done[n-1].Length += length
		return
	}
	s.done = append(s.done, sys.Range{Offset: offset, Length: length})
}

// finish makes sure that all that was not written is zero.
func (s *rewritten) finish() error {
	slices.SortFunc(s.done, func(a, b sys.Range) int { return cmp.Compare(a.Offset, b.Offset) })
	end := int64(0)
	for _, r := range append(s.done, sys.Range{Offset: s.size}) {
		zero, err := isZero(s.want, sys.Range{Offset: end, Length: r.Offset - end})
		if err != nil {
			return err
		}
		if !zero {
			return fmt.Errorf("%w between bytes %d and %d", errDiffers, end, r.Offset-1)
		}
		end = max(end, r.Offset+r.Length)
	}
	return nil
}

func isZero(f io.ReaderAt, r sys.Range) (bool, error) {
	buf := make([]byte, max(0, min(r.Length, 256<<10)))
	for r.Length > 0 {
		part := buf[:min(r.Length, int64(len(buf)))]
		if _, err := f.ReadAt(part, r.Offset); err != nil {
			return false, err
		}
		if len(bytes.Trim(part, "\x00")) > 0 {
			return false, nil
		}
		r.Offset += int64(len(part))
		r.Length -= int64(len(part))
	}
	return true, nil
}

// checkHoles makes sure that where a file that is no tar has a hole, there are zeros, or what the
// tar has there: disks give whole blocks back, so that something of it may be left. Anything else has
// come there by damage, although nobody looks at it.
func checkHoles(ctx context.Context, tar *holes.Tar) error {
	if tar.Map.Packed || tar.Map.Whole() {
		return nil
	}
	return eachStrayBlock(tar, func(at int64, here, there []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if len(bytes.Trim(here, "\x00")) > 0 && !bytes.Equal(here, there) {
			return fmt.Errorf("%w: something else than what is borrowed in the hole at %d", store.ErrDamaged, at)
		}
		return nil
	})
}

// eachStrayBlock has look see each block of data in the holes of a file that is no tar: what is there, and what the tar
// has there. Both are valid until look returns.
func eachStrayBlock(tar *holes.Tar, look func(at int64, here, there []byte) error) error {
	own := tar.Devices[0]
	data, err := sys.DataRanges(own, tar.Map.Size)
	if err != nil {
		return err
	}
	here, there := make([]byte, holes.BlockSize), make([]byte, holes.BlockSize)
	for at := range strayBlocks(tar.Map, data) {
		if err := readBoth(own, tar, at, here, there); err != nil {
			return err
		}
		if err := look(at, here, there); err != nil {
			return err
		}
	}
	return nil
}

// strayBlocks yields where there is data in the holes of a file that is no tar, block by block.
func strayBlocks(m *holes.Map, data []sys.Range) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for _, r := range m.Ranges {
			start, end := int64(r.Start)*holes.BlockSize, int64(r.Start+r.Count)*holes.BlockSize
			for len(data) > 0 && data[0].Offset+data[0].Length <= start {
				data = data[1:]
			}
			for _, d := range data {
				if d.Offset >= end {
					break
				}
				from := max(start, d.Offset/holes.BlockSize*holes.BlockSize)
				for at := from; at < min(end, d.Offset+d.Length); at += holes.BlockSize {
					if !yield(at) {
						return
					}
				}
			}
		}
	}
}

func readBoth(a, b io.ReaderAt, at int64, here, there []byte) error {
	if _, err := a.ReadAt(here, at); err != nil {
		return err
	}
	_, err := b.ReadAt(there, at)
	return err
}
