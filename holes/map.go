// Package holes knows where the bytes of a layer's tar lie.
//
// A layer keeps its tar byte for byte, but need not have all of it in a file of its own: stretches
// that lie in another layer of the store are borrowed from there. A [Map] says which, a [Tar] reads
// the tar as it arrived, and docs/format.md, section "Holes", has the rules and the format.
package holes

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
)

// BlockSize is the unit of everything here: a tar's, and so an index's.
const BlockSize = 512

// MaxLenders bounds how many tars a layer borrows from: each is a file that every mount of the layer
// keeps open.
const MaxLenders = 64

// ErrDamaged says that a map contradicts itself or the files it is about.
var ErrDamaged = errors.New("damaged map of holes")

// TarID names what a layer keeps of its tar. The same layer can be removed, leaving what others
// borrow of it, and come again: then there are two, and the second has another generation.
type TarID struct {
	DiffID     [32]byte // the SHA-256 of the uncompressed tar
	Generation uint32
}

// Range is a stretch of the tar that lies elsewhere than it would if nothing were borrowed.
// Everything is in blocks.
type Range struct {
	Start, Count uint32
	Device       uint32 // 0: the layer's own file; n: that of Map.Lenders[n-1]
	At           uint32 // in that file
}

func (r Range) end() uint32 { return r.Start + r.Count }

// Map says where each block of a tar lies. The zero value of all but Size is a tar in one piece.
type Map struct {
	Size       int64  // of the tar, in bytes
	Generation uint32 // of the layer's own file
	// Packed: what is in no range follows each other in the layer's own file. Otherwise it is where
	// it is in the tar, and the ranges are holes in the file.
	Packed  bool
	Lenders []TarID
	Ranges  []Range // ascending

	before []uint32 // of each range: blocks in ranges before it
}

// Whole tells whether the layer's own file is the tar.
func (m *Map) Whole() bool { return len(m.Ranges) == 0 }

// Prepare checks the map, and must be called once all fields are set. Errors wrap ErrDamaged.
func (m *Map) Prepare() error {
	if m.Size < 0 || m.Size/BlockSize >= math.MaxUint32 {
		return fmt.Errorf("%w: a tar of %d bytes", ErrDamaged, m.Size)
	}
	if len(m.Lenders) > MaxLenders {
		return fmt.Errorf("%w: %d lenders, the limit is %d", ErrDamaged, len(m.Lenders), MaxLenders)
	}
	m.before = make([]uint32, 0, len(m.Ranges))
	var sum, end uint64
	for i, r := range m.Ranges {
		switch {
		case r.Count == 0 || uint64(r.Start) < end:
			return fmt.Errorf("%w: range %d is empty or out of order", ErrDamaged, i)
		case uint64(r.Start)+uint64(r.Count) > uint64(m.Size/BlockSize):
			return fmt.Errorf("%w: range %d ends outside the tar", ErrDamaged, i)
		case int(r.Device) > len(m.Lenders):
			return fmt.Errorf("%w: range %d is of lender %d of %d", ErrDamaged, i, r.Device, len(m.Lenders))
		case uint64(r.At)+uint64(r.Count) > math.MaxUint32:
			return fmt.Errorf("%w: range %d lies outside any file", ErrDamaged, i)
		}
		m.before = append(m.before, uint32(sum))
		sum += uint64(r.Count)
		end = uint64(r.end())
	}
	return m.checkOwn()
}

// checkOwn checks that ranges that lie in the layer's own file are there, and not in a hole of it.
func (m *Map) checkOwn() error {
	size := m.OwnSize() / BlockSize
	for i, r := range m.Ranges {
		if r.Device != 0 {
			continue
		}
		if int64(r.At)+int64(r.Count) > size || !m.Packed && m.crosses(r.At, r.Count) {
			return fmt.Errorf("%w: range %d is not in the layer's own file", ErrDamaged, i)
		}
	}
	return nil
}

// crosses tells whether a stretch of the tar meets a range.
func (m *Map) crosses(start, count uint32) bool {
	next := m.after(start)
	return next < len(m.Ranges) && m.Ranges[next].Start < start+count
}

// after finds the first range that ends behind a block.
func (m *Map) after(block uint32) int {
	next, _ := slices.BinarySearchFunc(m.Ranges, block, func(r Range, block uint32) int {
		if r.end() <= block {
			return -1
		}
		return 1
	})
	return next
}

// Borrowed gives the number of bytes that lie elsewhere.
func (m *Map) Borrowed() int64 {
	if m.Whole() {
		return 0
	}
	last := len(m.Ranges) - 1
	return (int64(m.before[last]) + int64(m.Ranges[last].Count)) * BlockSize
}

// OwnSize gives the length of the layer's own file in bytes.
func (m *Map) OwnSize() int64 {
	if m.Packed {
		return m.Size - m.Borrowed()
	}
	return m.Size
}

// Piece is a stretch of the tar that lies in one piece. Everything is in bytes.
type Piece struct {
	Offset, Length int64 // in the tar
	Device         int   // as in Range
	At             int64 // in the device
}

// Pieces yields where a stretch of the tar lies, from its beginning to its end. What is outside
// the tar is left out.
func (m *Map) Pieces(offset, length int64) iter.Seq[Piece] {
	return func(yield func(Piece) bool) {
		end := min(offset+length, m.Size)
		next := m.after(uint32(min(offset/BlockSize, math.MaxUint32)))
		for offset < end {
			piece := m.piece(offset, end, next)
			if !yield(piece) {
				return
			}
			offset += piece.Length
			if next < len(m.Ranges) && offset >= int64(m.Ranges[next].end())*BlockSize {
				next++
			}
		}
	}
}

// piece gives the piece at offset; next is the first range that ends behind it.
func (m *Map) piece(offset, end int64, next int) Piece {
	if next == len(m.Ranges) {
		return Piece{Offset: offset, Length: end - offset, At: offset - m.shift(next)}
	}
	r := m.Ranges[next]
	start := int64(r.Start) * BlockSize
	if offset < start {
		return Piece{Offset: offset, Length: min(end, start) - offset, At: offset - m.shift(next)}
	}
	return Piece{
		Offset: offset, Length: min(end, int64(r.end())*BlockSize) - offset,
		Device: int(r.Device), At: int64(r.At)*BlockSize + offset - start,
	}
}

// shift is how many bytes nearer to the beginning than in the tar something lies in the layer's
// own file that comes before range next.
func (m *Map) shift(next int) int64 {
	switch {
	case !m.Packed || len(m.Ranges) == 0:
		return 0
	case next == len(m.Ranges):
		return m.Borrowed()
	}
	return int64(m.before[next]) * BlockSize
}

// Own yields what lies in the layer's own file, in the order of the tar, once: ranges of the tar that are
// borrowed from the layer itself are left out.
func (m *Map) Own() iter.Seq[Piece] {
	return func(yield func(Piece) bool) {
		offset := int64(0)
		for i, r := range m.Ranges {
			start := int64(r.Start) * BlockSize
			if start > offset && !yield(Piece{Offset: offset, Length: start - offset, At: offset - m.shift(i)}) {
				return
			}
			offset = int64(r.end()) * BlockSize
		}
		if offset < m.Size {
			yield(Piece{Offset: offset, Length: m.Size - offset, At: offset - m.shift(len(m.Ranges))})
		}
	}
}

// Holds tells whether a stretch of the layer's own file, in blocks, is there, and not a hole.
func (m *Map) Holds(at, count uint32) bool {
	return int64(at)+int64(count) <= m.OwnSize()/BlockSize && (m.Packed || !m.crosses(at, count))
}
