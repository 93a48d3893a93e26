package erofs

import (
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"math"
	"math/bits"
	"slices"
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
	devices    []Device
	size       int64 // of the file
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
	plan := chunkPlan{extents: extents, devices: devices, size: in.Size, blockBits: blockBits}
	plan.splitPartial()
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

// aligned reports whether blocks of the file are whole blocks of the device.
func (p *chunkPlan) aligned(e Extent) bool {
	blockSize := int64(1) << p.blockBits
	return (e.Physical-e.Logical)&(blockSize-1) == 0 && roundUp(e.Physical+e.Length, blockSize) <= p.devices[e.Device-1].Size
}

// splitPartial cuts off the parts of extents that lie in a last, partial block
// of a device, where reads would fail: they will have to be spilled, the rest
// of their extents need not.
func (p *chunkPlan) splitPartial() {
	var split []Extent
	for i, e := range p.extents {
		whole := p.devices[e.Device-1].Size &^ (1<<p.blockBits - 1)
		if first := whole - e.Physical; first > 0 && first < e.Length {
			if split == nil {
				split = slices.Clone(p.extents[:i])
			}
			split = append(split, Extent{e.Logical, first, e.Device, e.Physical})
			e = Extent{e.Logical + first, e.Length - first, e.Device, whole}
		}
		if split != nil {
			split = append(split, e)
		}
	}
	if split != nil {
		p.extents = split
	}
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

// appendIndexes appends the array of chunk indexes, handing b to flush as it
// grows.
func (p *chunkPlan) appendIndexes(b []byte, flush func([]byte) []byte) []byte {
	extents, next, spill := p.extents, int64(0), p.spillStart
	put := func(device uint16, block int64) {
		b = binary.LittleEndian.AppendUint16(b, 0)
		b = binary.LittleEndian.AppendUint16(b, device)
		b = flush(binary.LittleEndian.AppendUint32(b, uint32(block)))
		next++
	}
	putUntil := func(end int64) {
		for next < end {
			start := next << p.chunkBits()
			for len(extents) > 0 && extents[0].Logical+extents[0].Length <= start {
				extents = extents[1:]
			}
			if len(extents) == 0 || extents[0].Logical > start {
				put(0, nullBlock)
				continue
			}
			put(extents[0].Device, (extents[0].Physical+start-extents[0].Logical)>>p.blockBits)
		}
	}
	for first, last := range p.spilled() {
		putUntil(first)
		for next <= last {
			span := p.span(next, next)
			put(0, spill>>p.blockBits)
			spill += span
		}
	}
	putUntil(p.count())
	return b
}

// copySpilled copies the data of spilled chunks into the image.
func (p *chunkPlan) copySpilled(w io.WriterAt) error {
	for piece := range p.spilledPieces() {
		data := p.devices[piece.Device-1].Data
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
