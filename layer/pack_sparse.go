package layer

import (
	"bytes"
	"context"
	"os"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/layer/tarfile"
)

const (
	// sparseUnit is the block in which holes are told from data, whatever the file system's is.
	sparseUnit = 4096
	// maxSegments is how many segments a file is stored in. Of one with more, the smallest holes
	// are stored too.
	maxSegments = 1 << 16
)

// sparse lists the segments of a file that are worth storing, or gives nil if it is stored whole.
//
// The same file must always give the same list, and what lseek(2) calls data is not always the same:
// a preallocated block that nobody wrote is a hole until someone reads it. So a file that has all
// its blocks is stored whole, as GNU tar does it (and st_blocks counts what is not on the disk
// yet), and of others a block is data if it is not zero.
func (p *packer) sparse(ctx context.Context, s *step, f *os.File, size int64) ([]tarfile.Segment, error) {
	if size < sparseUnit {
		return nil, nil
	}
	own, ok, err := s.inUpper()
	if err != nil || ok && int64(own.Blocks) >= (size+511)/512 { //nolint:gosec // 2^63 blocks of 512 bytes are no file.
		return nil, err
	}
	ranges, err := sys.DataRanges(f, size)
	if err != nil || len(ranges) == 1 && ranges[0].Length == size {
		return nil, err
	}
	all := []tarfile.Segment{}
	for _, r := range ranges {
		err := p.read(ctx, f, widen(tarfile.Segment(r), sparseUnit, size), func(at int64, piece []byte) error {
			for ; len(piece) > 0; at, piece = at+sparseUnit, piece[min(len(piece), sparseUnit):] {
				block := piece[:min(len(piece), sparseUnit)]
				if !bytes.Equal(block, p.zeros[:len(block)]) {
					all = appendSegment(all, tarfile.Segment{Offset: at, Length: int64(len(block))})
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	all = coarsen(all, size)
	if len(all) == 1 && all[0].Length == size {
		return nil, nil
	}
	return all, nil
}

// coarsen rounds segments to larger and larger units until they are few enough.
func coarsen(all []tarfile.Segment, size int64) []tarfile.Segment {
	for unit := int64(2 * sparseUnit); len(all) > maxSegments; unit *= 2 {
		var fewer []tarfile.Segment
		for _, segment := range all {
			fewer = appendSegment(fewer, widen(segment, unit, size))
		}
		all = fewer
	}
	return all
}

// widen rounds a segment to whole units of a file of size bytes.
func widen(s tarfile.Segment, unit, size int64) tarfile.Segment {
	start := s.Offset &^ (unit - 1)
	end := min((s.Offset+s.Length+unit-1)&^(unit-1), size)
	return tarfile.Segment{Offset: start, Length: end - start}
}

// appendSegment joins a segment to the one before it if they touch or overlap.
func appendSegment(all []tarfile.Segment, s tarfile.Segment) []tarfile.Segment {
	if last := len(all) - 1; last >= 0 && all[last].Offset+all[last].Length >= s.Offset {
		all[last].Length = max(all[last].Length, s.Offset+s.Length-all[last].Offset)
		return all
	}
	return append(all, s)
}
