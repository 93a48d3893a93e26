package logfile

import (
	"encoding/binary"
	"hash/crc32"
	"time"
)

// The format "local": see docs/format.md, "A log of the kind local".
const (
	fileMagic  = "TARNLOG1"
	headerSize = 32      // of a file, and of a chunk
	maxChunk   = 1 << 20 // the longest content of a chunk
	sumAt      = headerSize - 4
)

// marker is what the headers of one file have in common, and nobody who writes what is between them knows.
type marker [8]byte

// fileHeader gives the header of a file.
func fileHeader(m marker) []byte {
	b := append(make([]byte, 0, headerSize), fileMagic...)
	b = append(b, m[:]...)
	return seal(b[:headerSize])
}

// parseFileHeader reads the header of a file.
func parseFileHeader(b []byte) (m marker, ok bool) {
	copy(m[:], b[len(fileMagic):])
	return m, string(b[:len(fileMagic)]) == fileMagic && sealed(b)
}

// chunk is the header of a chunk.
type chunk struct {
	time   int64 // nanoseconds since 1970
	number uint32
	length uint32
	stream Stream
	inside inside
}

// inside tells which streams are inside a line.
type inside uint8

func bit(s Stream) inside { return 1 << (s - 1) }

func (i inside) has(s Stream) bool { return i&bit(s) != 0 }

// put says that a stream's last byte was this one.
func (i *inside) put(s Stream, last byte) {
	*i &^= bit(s)
	if last != '\n' {
		*i |= bit(s)
	}
}

func (c *chunk) append(b []byte, m marker) []byte {
	b = append(b, m[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(c.time))
	b = binary.LittleEndian.AppendUint32(b, c.number)
	b = binary.LittleEndian.AppendUint32(b, c.length)
	b = append(b, byte(c.stream), byte(c.inside), 0, 0)
	return seal(b[:headerSize])
}

// parseChunk reads the header of a chunk; b has headerSize bytes.
func parseChunk(b []byte, m marker) (c chunk, ok bool) {
	c = chunk{
		time:   int64(binary.LittleEndian.Uint64(b[8:])),
		number: binary.LittleEndian.Uint32(b[16:]),
		length: binary.LittleEndian.Uint32(b[20:]),
		stream: Stream(b[24]), inside: inside(b[25]),
	}
	ok = marker(b[:8]) == m && sealed(b) && c.length > 0 && c.length <= maxChunk && (c.stream == Stdout || c.stream == Stderr)
	return c, ok
}

func unixTime(nanoseconds int64) time.Time { return time.Unix(0, nanoseconds) }

// seal puts the checksum at the end of a header.
func seal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[sumAt:], crc32.ChecksumIEEE(b[:sumAt]))
	return b
}

func sealed(b []byte) bool {
	return binary.LittleEndian.Uint32(b[sumAt:]) == crc32.ChecksumIEEE(b[:sumAt])
}
