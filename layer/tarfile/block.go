package tarfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
)

// block is a header block. The offsets are those of POSIX "ustar interchange
// format", the GNU tar manual's struct oldgnu_header, and star(5).
type block []byte

func (b block) name() []byte     { return cstring(b[0:100]) }
func (b block) mode() []byte     { return b[100:108] }
func (b block) uid() []byte      { return b[108:116] }
func (b block) gid() []byte      { return b[116:124] }
func (b block) size() []byte     { return b[124:136] }
func (b block) mtime() []byte    { return b[136:148] }
func (b block) checksum() []byte { return b[148:156] }
func (b block) typeflag() byte   { return b[156] }
func (b block) linkname() []byte { return cstring(b[157:257]) }
func (b block) uname() []byte    { return cstring(b[265:297]) }
func (b block) gname() []byte    { return cstring(b[297:329]) }
func (b block) devmajor() []byte { return b[329:337] }
func (b block) devminor() []byte { return b[337:345] }

type dialect int

const (
	v7 dialect = iota
	posix
	star
	gnu
)

func (b block) dialect() dialect {
	switch {
	case string(b[257:265]) == "ustar  \x00":
		return gnu
	case string(b[257:263]) != "ustar\x00":
		return v7
	case string(b[508:512]) == "tar\x00":
		return star
	default:
		return posix
	}
}

// path joins prefix and name.
func (b block) path() string {
	var prefix []byte
	switch b.dialect() {
	case posix:
		prefix = cstring(b[345:500])
	case star:
		prefix = cstring(b[345:476])
	case v7, gnu:
	}
	if len(prefix) == 0 {
		return string(b.name())
	}
	return string(prefix) + "/" + string(b.name())
}

// sumsOK compares the checksum field with the sum of the block's bytes, the
// field's own counted as spaces. Old tars summed them as signed chars.
func (b block) sumsOK() bool {
	want, err := parseNumber(b.checksum())
	if err != nil {
		return false
	}
	var unsigned int64
	for i := 0; i < BlockSize; i += 8 {
		word := binary.LittleEndian.Uint64(b[i:])
		// Add neighbouring bytes into four 16-bit lanes, then those into one.
		lanes := word&0x00ff00ff00ff00ff + word>>8&0x00ff00ff00ff00ff
		unsigned += int64(lanes * 0x0001000100010001 >> 48)
	}
	for _, c := range b.checksum() {
		unsigned += ' ' - int64(c)
	}
	if unsigned == want {
		return true
	}
	signed := unsigned
	for i, c := range b {
		if c >= 0x80 && (i < 148 || i >= 156) {
			signed -= 0x100
		}
	}
	return signed == want
}

func isZero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
	}
	return true
}

func cstring(b []byte) []byte {
	before, _, _ := bytes.Cut(b, []byte{0})
	return before
}

// parseNumber reads a numeric field: octal digits between spaces and NULs, or
// GNU's base-256, a big-endian two's complement marked by the first bit.
func parseNumber(field []byte) (int64, error) {
	if field[0]&0x80 != 0 {
		return parseBase256(field)
	}
	digits := bytes.TrimLeft(field, " \x00")
	if end := bytes.IndexAny(digits, " \x00"); end >= 0 {
		if len(bytes.Trim(digits[end:], " \x00")) != 0 {
			return 0, fmt.Errorf("number %q", field)
		}
		digits = digits[:end]
	}
	var n int64
	for _, c := range digits {
		if c < '0' || c > '7' {
			return 0, fmt.Errorf("number %q", field)
		}
		n = n<<3 | int64(c-'0') // 12 octal digits cannot overflow
	}
	return n, nil
}

func parseBase256(field []byte) (int64, error) {
	var invert byte // all ones if the number is negative
	if field[0]&0x40 != 0 {
		invert = 0xff
	}
	var n uint64
	for i, c := range field {
		c ^= invert
		if i == 0 {
			c &= 0x7f
		}
		if n > math.MaxUint64>>8 {
			return 0, fmt.Errorf("number %x does not fit 64 bits", field)
		}
		n = n<<8 | uint64(c)
	}
	if n > math.MaxInt64 {
		return 0, fmt.Errorf("number %x does not fit 64 bits", field)
	}
	if invert != 0 {
		return ^int64(n), nil
	}
	return int64(n), nil
}
