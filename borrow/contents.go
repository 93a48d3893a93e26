// Package borrow finds which blocks of a new layer's tar lie in the tars of other layers.
//
// The keys of contents lead to places worth looking at; what is borrowed is what was compared byte by
// byte. docs/format.md, section "What is borrowed", has the rules, and says what the numbers are.
package borrow

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"slices"

	"github.com/tarnfs/tarn/holes"
)

const (
	// MinContents is from how many bytes on contents of files get a key.
	MinContents = 2048
	// keyed is how many of the first bytes it depends on.
	keyed = 16 << 10
)

// Contents are the stretches of a tar with the contents of files, with their keys.
type Contents struct {
	list []content // ascending
	crc  *crc32.Table
}

// content is what a tar stores of one file.
type content struct {
	start  uint32 // block
	length int64  // bytes
	sum    uint32 // CRC-32C of the first bytes
}

func (c content) count() uint32 { return uint32((c.length + holes.BlockSize - 1) / holes.BlockSize) }
func (c content) end() uint32   { return c.start + c.count() }
func (c content) keyed() bool   { return c.length >= MinContents }

// key is how contents are found in tables.
func (c content) key() uint64 { return uint64(c.sum)<<32 | uint64(uint32(c.length)) }

// Observe is told where contents lie, in bytes, in the order of the tar, and gives the writer that
// wants to see so many of their first bytes.
func (c *Contents) Observe(offset, length int64) (io.Writer, int64) {
	next := content{start: uint32(offset / holes.BlockSize), length: length}
	c.list = append(c.list, next)
	if !next.keyed() {
		return nil, 0
	}
	if c.crc == nil {
		c.crc = crc32.MakeTable(crc32.Castagnoli)
	}
	return (*lastSum)(c), keyed
}

// lastSum adds to the sum of the contents observed last.
type lastSum Contents

func (s *lastSum) Write(p []byte) (int, error) {
	last := &s.list[len(s.list)-1]
	last.sum = crc32.Update(last.sum, s.crc, p)
	return len(p), nil
}

// byKey gives those contents that have a key, in the order of key and place.
func (c *Contents) byKey() []content {
	var list []content
	for _, one := range c.list {
		if one.keyed() {
			list = append(list, one)
		}
	}
	slices.SortFunc(list, func(a, b content) int {
		return cmp.Or(cmp.Compare(a.key(), b.key()), cmp.Compare(a.start, b.start))
	})
	return list
}

// Common gives how many bytes of contents seem to be in the other tar, too.
func (c *Contents) Common(other *Contents) (bytes int64) {
	theirs := other.byKey()
	for _, one := range c.byKey() {
		for len(theirs) > 0 && theirs[0].key() < one.key() {
			theirs = theirs[1:]
		}
		if len(theirs) > 0 && theirs[0].key() == one.key() {
			bytes += one.length
		}
	}
	return bytes
}

const (
	tableMagic   = "tarncont"
	tableVersion = 1
	tableHead    = 16
	tableEntry   = 12
)

// ErrTable says that a table is damaged.
var ErrTable = errors.New("damaged table of contents")

// Table gives the content of a layer's file "contents" (docs/format.md).
func (c *Contents) Table() []byte {
	list := c.byKey()
	order := binary.LittleEndian
	b := append(make([]byte, 0, tableHead+len(list)*tableEntry+4), tableMagic...)
	b = order.AppendUint32(b, tableVersion)
	b = order.AppendUint32(b, uint32(len(list)))
	for _, one := range list {
		b = order.AppendUint64(b, one.key())
		b = order.AppendUint32(b, one.start)
	}
	return order.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// CheckTable says whether b is a whole table. Errors wrap ErrTable.
func CheckTable(b []byte) error {
	body := len(b) - 4
	if body < tableHead || crc32.Checksum(b[:body], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(b[body:]) {
		return fmt.Errorf("%w: wrong checksum", ErrTable)
	}
	last := entry{}
	for batch, err := range readTable(bufio.NewReader(bytes.NewReader(b[:body]))) {
		if err != nil {
			return err
		}
		for ; len(batch) > 0; batch = batch[tableEntry:] {
			e := entryAt(batch)
			if e.key < last.key {
				return fmt.Errorf("%w: out of order", ErrTable)
			}
			last = e
		}
	}
	return nil
}

// entry is one line of a table.
type entry struct {
	key   uint64
	start uint32
}

func entryAt(b []byte) entry {
	return entry{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:])}
}

// readTable yields the entries of a table, many at once, each tableEntry bytes. What a damaged one
// yields before the error is as good as any other: bytes decide.
func readTable(in *bufio.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var head [tableHead]byte
		_, err := io.ReadFull(in, head[:])
		order := binary.LittleEndian
		if err != nil || string(head[:8]) != tableMagic || order.Uint32(head[8:]) != tableVersion {
			yield(nil, fmt.Errorf("%w: it does not begin as one", ErrTable))
			return
		}
		most := in.Size() / tableEntry
		for left := int(order.Uint32(head[12:])); left > 0; {
			batch, err := in.Peek(min(left, most) * tableEntry)
			if err != nil {
				yield(nil, fmt.Errorf("%w: it is cut short", ErrTable))
				return
			}
			if !yield(batch, nil) {
				return
			}
			_, _ = in.Discard(len(batch)) // they are in the buffer
			left -= len(batch) / tableEntry
		}
	}
}

// Place is where a tar has the contents of a file, in bytes.
type Place struct {
	Key            uint64
	Offset, Length int64
}

// Places yields what a table says of contents shorter than 4 GiB, in the order of keys. The error, which is
// the last thing yielded, wraps ErrTable, or is table's.
func Places(table io.Reader) iter.Seq2[Place, error] {
	return func(yield func(Place, error) bool) {
		for batch, err := range readTable(bufio.NewReader(table)) {
			if err != nil {
				yield(Place{}, err)
				return
			}
			for ; len(batch) > 0; batch = batch[tableEntry:] {
				e := entryAt(batch)
				if !yield(Place{e.key, int64(e.start) * holes.BlockSize, int64(uint32(e.key))}, nil) {
					return
				}
			}
		}
	}
}
