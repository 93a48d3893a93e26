package holes

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

const (
	magic      = "tarnhole"
	version    = 1
	flagPacked = 1

	headSize   = 40
	lenderSize = 36
	sumSize    = 4
	maxRange   = 4 * binary.MaxVarintLen32 // bytes of an encoded range
	minRange   = 4
)

// MaxRanges bounds how many ranges a map has, and so the memory it takes: 4 Mi.
const MaxRanges = 1 << 22

// MaxEncoded is the length of the longest encoded map.
const MaxEncoded = headSize + MaxLenders*lenderSize + MaxRanges*maxRange + sumSize

// Encode gives the content of a file "holes" (docs/format.md).
func (m *Map) Encode() []byte {
	size := headSize + len(m.Lenders)*lenderSize + len(m.Ranges)*(minRange+2) + sumSize
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
	p := newPredictor(m)
	for _, r := range m.Ranges {
		b = binary.AppendUvarint(b, uint64(r.Start-p.end))
		b = binary.AppendUvarint(b, uint64(r.Count))
		b = binary.AppendUvarint(b, uint64(r.Device))
		b = binary.AppendUvarint(b, uint64(r.At-p.at(r.Device, r.Start)))
		p.learn(r)
	}
	return order.AppendUint32(b, checksum(b))
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Peek reads of an encoded map only what it begins with: the size of the tar and the generation of the
// layer's own file. Nothing proves that they are right. Errors wrap ErrDamaged, or are r's.
func Peek(r io.Reader) (size int64, generation uint32, err error) {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, err
	}
	order := binary.LittleEndian
	if size = int64(order.Uint64(head[16:])); string(head[:len(magic)]) != magic || size < 0 {
		return 0, 0, fmt.Errorf("%w: it does not begin as one", ErrDamaged)
	}
	return size, order.Uint32(head[24:]), nil
}

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
		len(body) < headSize+int(lenders)*lenderSize+int(ranges)*minRange {
		return nil, fmt.Errorf("%w: its parts do not fit", ErrDamaged)
	}
	m := &Map{Size: int64(order.Uint64(b[16:])), Generation: order.Uint32(b[24:]), Packed: flags == flagPacked}
	rest := body[headSize:]
	for ; lenders > 0; lenders-- {
		m.Lenders = append(m.Lenders, TarID{DiffID: [32]byte(rest), Generation: order.Uint32(rest[32:])})
		rest = rest[lenderSize:]
	}
	if err := m.decodeRanges(rest, ranges); err != nil {
		return nil, err
	}
	if err := m.Prepare(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Map) decodeRanges(b []byte, count uint32) error {
	m.Ranges = make([]Range, 0, count)
	p := newPredictor(m)
	for range count {
		var numbers [4]uint32
		for i := range numbers {
			n, length := binary.Uvarint(b)
			if length <= 0 || n > math.MaxUint32 || length > 1 && b[length-1] == 0 {
				return fmt.Errorf("%w: a number that is none", ErrDamaged)
			}
			numbers[i], b = uint32(n), b[length:]
		}
		r := Range{Start: p.end + numbers[0], Count: numbers[1], Device: numbers[2]}
		if r.Start < p.end || int(r.Device) > len(m.Lenders) {
			return fmt.Errorf("%w: range %d is out of order, or of no lender", ErrDamaged, len(m.Ranges))
		}
		r.At = p.at(r.Device, r.Start) + numbers[3]
		m.Ranges = append(m.Ranges, r)
		p.learn(r)
	}
	if len(b) > 0 {
		return fmt.Errorf("%w: its parts do not fit", ErrDamaged)
	}
	return nil
}

// predictor guesses where a range begins, so that what is written is small: most ranges of a device
// are as far from each other there as in the tar.
type predictor struct {
	end  uint32   // of the last range
	last []uint32 // of each device: At - Start of its last range, modulo 2^32
}

func newPredictor(m *Map) *predictor { return &predictor{last: make([]uint32, 1+len(m.Lenders))} }

func (p *predictor) at(device, start uint32) uint32 { return start + p.last[device] }

func (p *predictor) learn(r Range) {
	p.end = r.end()
	p.last[r.Device] = r.At - r.Start
}
