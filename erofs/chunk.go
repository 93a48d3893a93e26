package erofs

import (
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"math"
	"math/bits"
)

// maxFileSize keeps sums of offsets far from overflow.
const maxFileSize = 1 << 60

// spillAlign is the boundary on which the spill area and its larger chunks
// begin, so that holes in them are holes on disk.
const spillAlign = 4096

// chunkPlan says how the data of one regular file is expressed: an array of
// chunks of equal size, each of which is a hole, lies in a device, or is
// spilled, that is copied into the image.
type chunkPlan struct {
	extents    []Extent // merged
	size       int64    // of the file
	blockBits  uint8
	bits       uint8 // chunks have 1<<bits blocks
	spillData  int64 // bytes of data in spilled chunks
	spillSpan  int64 // bytes of image that spilled chunks take, holes included
	spillStart int64 // where the first one lies in the image
}

// planChunks checks the extents of a file and chooses the chunk size.
func planChunks(in *Inode, devices []Device, blockBits uint8) (chunkPlan, error) {
	if in.Size > maxFileSize {
		return chunkPlan{}, fmt.Errorf("%w: size %d", ErrLimit, in.Size)
	}
	extents, err := mergeExtents(in, devices)
	if err != nil {
		return chunkPlan{}, err
	}
	plan := chunkPlan{extents: extents, size: in.Size, blockBits: blockBits}
	whole := min(maxChunkBits, bits.Len64(uint64(in.Size-1)>>blockBits))
	// One aligned extent, or none, is the common case: one chunk, unless the
	// file is larger than the largest chunk.
	if len(extents) == 0 || plan.contiguous() {
		plan.bits = uint8(whole)
		return plan, nil
	}
	best := int64(math.MaxInt64)
	for candidate := whole; candidate >= 0; candidate-- {
		trial := plan
		trial.bits = uint8(candidate)
		if trial.count()*chunkIndex > best {
			break
		}
		if cost := trial.measure(); cost <= best {
			plan, best = trial, cost
		}
	}
	return plan, nil
}

// mergeExtents returns the extents without empty ones, adjacent ones joined.
func mergeExtents(in *Inode, devices []Device) ([]Extent, error) {
	var end int64
	merged := in.Extents[:0:0]
	for i, e := range in.Extents {
		switch {
		case e.Length == 0:
			continue
		case e.Logical < end || e.Length < 0 || e.Length > in.Size || e.Logical > in.Size-e.Length:
			return nil, fmt.Errorf("%w: extent %d (%d+%d) out of order or outside the file's %d bytes", ErrExtent, i, e.Logical, e.Length, in.Size)
		case e.Device == 0 || int(e.Device) > len(devices):
			return nil, fmt.Errorf("%w: extent %d in device %d of %d", ErrExtent, i, e.Device, len(devices))
		case e.Physical < 0 || e.Length > devices[e.Device-1].Size || e.Physical > devices[e.Device-1].Size-e.Length:
			return nil, fmt.Errorf("%w: extent %d (%d+%d) outside device %d of %d bytes", ErrExtent, i, e.Physical, e.Length, e.Device, devices[e.Device-1].Size)
		}
		end = e.Logical + e.Length
		if len(in.Extents) == 1 {
			return in.Extents, nil
		}
		if n := len(merged); n > 0 {
			last := &merged[n-1]
			if last.Device == e.Device && last.Logical+last.Length == e.Logical && last.Physical+last.Length == e.Physical {
				last.Length += e.Length
				continue
			}
		}
		merged = append(merged, e)
	}
	return merged, nil
}

func (p *chunkPlan) contiguous() bool {
	e := p.extents[0]
	return len(p.extents) == 1 && e.Logical == 0 && e.Length == p.size && p.aligned(e)
}

// aligned reports whether blocks of the file are blocks of the device.
func (p *chunkPlan) aligned(e Extent) bool {
	return (e.Physical-e.Logical)&(1<<p.blockBits-1) == 0
}

func (p *chunkPlan) chunkBits() uint8 { return p.blockBits + p.bits }

// count returns the number of chunks.
func (p *chunkPlan) count() int64 {
	return (p.size + 1<<p.chunkBits() - 1) >> p.chunkBits()
}

// span returns the image bytes that the chunks first to last take: the file's
// last chunk is cut after its last block.
func (p *chunkPlan) span(first, last int64) int64 {
	end := min((last+1)<<p.chunkBits(), roundUp(p.size, 1<<p.blockBits))
	return end - first<<p.chunkBits()
}

// measure fills in the spill sizes of the plan and returns its cost in bytes:
// of the index array, of data stored again, and a little for address space.
func (p *chunkPlan) measure() int64 {
	p.spillSpan, p.spillData = 0, 0
	for first, last := range p.spilled() {
		p.spillSpan += p.span(first, last)
	}
	for piece := range p.spilledPieces() {
		p.spillData += piece.Length
	}
	return p.count()*chunkIndex + p.spillData + p.spillSpan/1024
}

// spilled yields the ranges of chunks that have to be spilled, ascending: those
// that are partly hole or have parts in different places.
func (p *chunkPlan) spilled() iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		chunkBits := p.chunkBits()
		inside := int64(1)<<chunkBits - 1
		next := int64(0) // chunks before it have been yielded
		emit := func(first, last int64) bool {
			first = max(first, next)
			if first > last {
				return true
			}
			next = last + 1
			return yield(first, last)
		}
		for _, e := range p.extents {
			end := e.Logical + e.Length
			first, last := e.Logical>>chunkBits, (end-1)>>chunkBits
			if !p.aligned(e) {
				if !emit(first, last) {
					return
				}
				continue
			}
			if e.Logical&inside != 0 && !emit(first, first) {
				return
			}
			if end&inside != 0 && end != p.size && !emit(last, last) {
				return
			}
		}
	}
}

// spilledPieces yields the parts of extents in spilled chunks; Device and
// Physical say where a part is now, Logical where it belongs in the spilled
// data of this file.
func (p *chunkPlan) spilledPieces() iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		rest := p.extents
		var before int64 // bytes of spilled data before this range
		for first, last := range p.spilled() {
			start := first << p.chunkBits()
			end := start + p.span(first, last)
			for len(rest) > 0 && rest[0].Logical+rest[0].Length <= start {
				rest = rest[1:]
			}
			for _, e := range rest {
				if e.Logical >= end {
					break
				}
				from := max(e.Logical, start)
				piece := Extent{
					Logical:  before + from - start,
					Length:   min(e.Logical+e.Length, end) - from,
					Device:   e.Device,
					Physical: e.Physical + from - e.Logical,
				}
				if !yield(piece) {
					return
				}
			}
			before += end - start
		}
	}
}

// appendIndexes appends the array of chunk indexes, handing b to flush when it
// has grown large.
func (p *chunkPlan) appendIndexes(b []byte, flush func([]byte) []byte) []byte {
	chunkBits := p.chunkBits()
	extents := p.extents
	spill := p.spillStart
	next, stop := iter.Pull2(p.spilled())
	defer stop()
	first, last, more := next()
	for chunk := range p.count() {
		if more && chunk > last {
			first, last, more = next()
		}
		start := chunk << chunkBits
		for len(extents) > 0 && extents[0].Logical+extents[0].Length <= start {
			extents = extents[1:]
		}
		device, block := uint16(0), uint32(nullBlock)
		switch {
		case more && chunk >= first:
			block = uint32(spill >> p.blockBits)
			spill += p.span(chunk, chunk)
		case len(extents) > 0 && extents[0].Logical <= start:
			device = extents[0].Device
			block = uint32((extents[0].Physical + start - extents[0].Logical) >> p.blockBits)
		}
		b = binary.LittleEndian.AppendUint16(b, 0)
		b = binary.LittleEndian.AppendUint16(b, device)
		b = binary.LittleEndian.AppendUint32(b, block)
		b = flush(b)
	}
	return b
}

// copySpilled copies the data of spilled chunks into the image.
func (p *chunkPlan) copySpilled(w io.WriterAt, devices []Device) error {
	for piece := range p.spilledPieces() {
		data := devices[piece.Device-1].Data
		if data == nil {
			return fmt.Errorf("%w: data of device %d is needed, but was not given", ErrExtent, piece.Device)
		}
		from := io.NewSectionReader(data, piece.Physical, piece.Length)
		n, err := io.Copy(io.NewOffsetWriter(w, p.spillStart+piece.Logical), from)
		if err == nil && n < piece.Length {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("copy %d bytes at %d of device %d: %w", piece.Length, piece.Physical, piece.Device, err)
		}
	}
	return nil
}
