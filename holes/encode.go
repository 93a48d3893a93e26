package holes

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

const (
	magic      = "tarnhole"
	version    = 1
	flagPacked = 1

	headSize   = 40
	lenderSize = 36
	rangeSize  = 16
	sumSize    = 4
)

// MaxRanges bounds how many ranges a map has, and so the memory it takes: 4 Mi.
const MaxRanges = 1 << 22

// MaxEncoded is the length of the longest encoded map.
const MaxEncoded = headSize + MaxLenders*lenderSize + MaxRanges*rangeSize + sumSize

// Encode gives the content of a file "holes" (docs/format.md).
func (m *Map) Encode() []byte {
	size := headSize + len(m.Lenders)*lenderSize + len(m.Ranges)*rangeSize + sumSize
	b := append(make([]byte, 0, size), magic...)
	order := binary.LittleEndian
	flags := uint32(0)
	if m.Packed {
		flags = flagPacked
	}
	b = order.AppendUint32(b, version)
	b = order.AppendUint32(b, flags)
	b = order.AppendUint64(b, uint64(m.Size))
	b = order.AppendUint32(b, m.Generation)
	b = order.AppendUint32(b, uint32(len(m.Lenders)))
	b = order.AppendUint32(b, uint32(len(m.Ranges)))
	b = order.AppendUint32(b, 0)
	for _, id := range m.Lenders {
		b = append(b, id.DiffID[:]...)
		b = order.AppendUint32(b, id.Generation)
	}
	for _, r := range m.Ranges {
		b = order.AppendUint32(b, r.Start)
		b = order.AppendUint32(b, r.Count)
		b = order.AppendUint32(b, r.Device)
		b = order.AppendUint32(b, r.At)
	}
	return order.AppendUint32(b, checksum(b))
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Decode reads and checks what Encode gives. Errors wrap ErrDamaged.
func Decode(b []byte) (*Map, error) {
	order := binary.LittleEndian
	if len(b) < headSize+sumSize || !bytes.HasPrefix(b, []byte(magic)) {
		return nil, fmt.Errorf("%w: it does not begin as one", ErrDamaged)
	}
	body := b[:len(b)-sumSize]
	if order.Uint32(b[len(body):]) != checksum(body) {
		return nil, fmt.Errorf("%w: wrong checksum", ErrDamaged)
	}
	if v := order.Uint32(b[8:]); v != version {
		return nil, fmt.Errorf("%w: version %d, this is %d", ErrDamaged, v, version)
	}
	flags, lenders, ranges := order.Uint32(b[12:]), order.Uint32(b[28:]), order.Uint32(b[32:])
	if lenders > MaxLenders || ranges > MaxRanges || flags&^flagPacked != 0 || order.Uint32(b[36:]) != 0 ||
		len(body) != headSize+int(lenders)*lenderSize+int(ranges)*rangeSize {
		return nil, fmt.Errorf("%w: its parts do not fit", ErrDamaged)
	}
	m := &Map{Size: int64(order.Uint64(b[16:])), Generation: order.Uint32(b[24:]), Packed: flags == flagPacked}
	rest := body[headSize:]
	for ; lenders > 0; lenders-- {
		m.Lenders = append(m.Lenders, TarID{DiffID: [32]byte(rest), Generation: order.Uint32(rest[32:])})
		rest = rest[lenderSize:]
	}
	m.Ranges = make([]Range, 0, ranges)
	for ; len(rest) > 0; rest = rest[rangeSize:] {
		m.Ranges = append(m.Ranges, Range{
			Start: order.Uint32(rest), Count: order.Uint32(rest[4:]),
			Device: order.Uint32(rest[8:]), At: order.Uint32(rest[12:]),
		})
	}
	if err := m.Prepare(); err != nil {
		return nil, err
	}
	return m, nil
}
