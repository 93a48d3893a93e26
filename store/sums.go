package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// fileSums has the checksums of a layer's tar, span by span: the diffID says that a tar is
// damaged, these say where. It can be lost: then more is fetched than need be to mend the layer.
const fileSums = "sums"

// SpanSize is the length in bytes of the stretches of a tar that have a checksum of their own.
const SpanSize = 64 << 10

const (
	sumsMagic   = "tarnsums"
	sumsVersion = 1
	sumsHead    = 24
)

// Sums are the CRC-32C of the spans of a tar, in order. The last span may be shorter.
type Sums struct {
	Size  int64 // of the tar
	Spans []uint32
}

// Span says where a span lies in the tar, in bytes.
func (s *Sums) Span(i int) (offset, length int64) {
	offset = int64(i) * SpanSize
	return offset, min(SpanSize, s.Size-offset)
}

// Write adds what follows of the tar. It never fails.
func (s *Sums) Write(p []byte) (int, error) {
	written := len(p)
	table := crc32.MakeTable(crc32.Castagnoli)
	for len(p) > 0 {
		room := SpanSize - int(s.Size%SpanSize)
		if room == SpanSize {
			s.Spans = append(s.Spans, 0)
		}
		part := p[:min(room, len(p))]
		last := &s.Spans[len(s.Spans)-1]
		*last = crc32.Update(*last, table, part)
		s.Size += int64(len(part))
		p = p[len(part):]
	}
	return written, nil
}

// Encode gives the content of a file "sums" (docs/format.md).
func (s *Sums) Encode() []byte {
	order := binary.LittleEndian
	b := append(make([]byte, 0, sumsHead+4*len(s.Spans)+4), sumsMagic...)
	b = order.AppendUint32(b, sumsVersion)
	b = order.AppendUint32(b, SpanSize)
	b = order.AppendUint64(b, uint64(s.Size))
	for _, sum := range s.Spans {
		b = order.AppendUint32(b, sum)
	}
	return order.AppendUint32(b, castagnoli(b))
}

// decodeSums reads and checks what Encode gives. Errors wrap ErrDamaged.
func decodeSums(b []byte) (*Sums, error) {
	order := binary.LittleEndian
	body := len(b) - 4
	if body < sumsHead || castagnoli(b[:body]) != order.Uint32(b[body:]) || string(b[:len(sumsMagic)]) != sumsMagic {
		return nil, fmt.Errorf("%s: %w: wrong checksum", fileSums, ErrDamaged)
	}
	s := &Sums{Size: int64(order.Uint64(b[16:]))}
	if order.Uint32(b[8:]) != sumsVersion || order.Uint32(b[12:]) != SpanSize ||
		s.Size < 0 || s.Size > math.MaxInt64-SpanSize || (s.Size+SpanSize-1)/SpanSize != int64(body-sumsHead)/4 || body%4 != 0 {
		return nil, fmt.Errorf("%s: %w: its parts do not fit", fileSums, ErrDamaged)
	}
	for at := sumsHead; at < body; at += 4 {
		s.Spans = append(s.Spans, order.Uint32(b[at:]))
	}
	return s, nil
}

// maxSums is the length of the sums of the longest tar, 2 TiB.
const maxSums = sumsHead + 4*(2<<40/SpanSize) + 4

// Sums gives the checksums of the layer's tar; nil if it has none. Errors may wrap ErrDamaged.
func (l Layer) Sums() (*Sums, error) {
	f, err := os.Open(filepath.Join(l.dir, fileSums))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // documented
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSums+1))
	if err != nil {
		return nil, err
	}
	return decodeSums(b)
}

// WriteSums gives the staged layer the checksums of its tar.
func (ls *LayerStage) WriteSums(s *Sums) error { return ls.writeSmall(fileSums, s.Encode()) }

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
