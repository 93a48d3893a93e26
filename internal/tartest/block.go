// Package tartest makes tars for tests: byte by byte, to be as odd as the format allows, and of real
// files with the programs that people use.
package tartest

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
)

const blockSize = 512

// Offsets of a header's fields, and the magic strings at AtMagic.
const (
	AtName     = 0
	AtMode     = 100
	AtUID      = 108
	AtGID      = 116
	AtSize     = 124
	AtTime     = 136
	AtType     = 156
	AtLinkname = 157
	AtMagic    = 257
	AtMajor    = 329
	AtMinor    = 337
	AtPrefix   = 345
	Ustar      = "ustar\x0000"
	GNU        = "ustar  \x00"
)

// Block makes a header block of fields by their offset, with a right checksum. It is a v7 header of
// mode 0644, and all else 0, where the fields say nothing else.
func Block(fields map[int]string) []byte {
	b := make([]byte, blockSize)
	for offset, value := range map[int]string{AtMode: "0000644\x00", AtUID: "0000000\x00", AtGID: "0000000\x00", AtSize: Octal(0), AtTime: Octal(0)} {
		copy(b[offset:], value)
	}
	for offset, value := range fields {
		copy(b[offset:], value)
	}
	return Seal(b)
}

// Octal is a number as it stands in the fields for size and time.
func Octal(n int64) string { return fmt.Sprintf("%011o\x00", n) }

// Base256 is a number in GNU's binary form, for a field of that width.
func Base256(n int64, width int) string {
	b := make([]byte, width)
	for i := range b {
		b[width-1-i] = byte(n >> min(8*i, 63))
	}
	b[0] |= 0x80
	return string(b)
}

// Seal puts the right checksum into the block at the beginning of b.
func Seal(b []byte) []byte {
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b[:blockSize] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// Body appends contents and padding to a header.
func Body(b []byte, contents string) []byte {
	b = append(b, contents...)
	return append(b, make([]byte, (blockSize-len(contents)%blockSize)%blockSize)...)
}

// File is a regular file's header and contents.
func File(name, contents string) []byte {
	return Body(Node(name, '0', map[int]string{AtSize: Octal(int64(len(contents)))}), contents)
}

// Dir is a directory of mode 0755.
func Dir(name string) []byte { return Node(name, '5', map[int]string{AtMode: "0000755\x00"}) }

// Symlink is a symbolic link.
func Symlink(name, target string) []byte { return Node(name, '2', map[int]string{AtLinkname: target}) }

// Link is a hard link.
func Link(name, target string) []byte { return Node(name, '1', map[int]string{AtLinkname: target}) }

// Device is a character ('3') or block ('4') device.
func Device(name string, kind byte, major, minor int) []byte {
	return Node(name, kind, map[int]string{AtMajor: fmt.Sprintf("%07o\x00", major), AtMinor: fmt.Sprintf("%07o\x00", minor)})
}

// Node is a ustar header of any type with more fields.
func Node(name string, kind byte, fields map[int]string) []byte {
	all := map[int]string{AtName: name, AtType: string(kind), AtMagic: Ustar}
	maps.Copy(all, fields)
	return Block(all)
}

// Ext is a header of the types x, g, L and K.
func Ext(kind, contents string) []byte {
	return Body(Block(map[int]string{AtName: "ext", AtSize: Octal(int64(len(contents))), AtType: kind, AtMagic: Ustar}), contents)
}

// PAX is an 'x' header of pairs of key and value.
func PAX(pairs ...string) []byte { return Ext("x", Records(pairs...)) }

// Records are the contents of a PAX header of pairs of key and value.
func Records(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		n := len(pairs[i]) + len(pairs[i+1]) + 3
		total := n + len(fmt.Sprint(n))
		total = n + len(fmt.Sprint(total))
		fmt.Fprintf(&b, "%d %s=%s\n", total, pairs[i], pairs[i+1])
	}
	return b.String()
}

// Join puts entries together.
func Join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// End is the end mark of a tar.
func End() []byte { return make([]byte, 2*blockSize) }
