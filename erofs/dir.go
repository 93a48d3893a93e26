package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A directory is a sequence of blocks; each begins with its entries (struct
// erofs_dirent), the names follow. All names of a directory, "." and ".."
// among them, ascend bytewise over all blocks.

// dirNames calls yield for every name of a directory in order; index is that
// of the entry, or dot or dotDot.
func dirNames(entries []Entry, yield func(name string, index int)) {
	special, names := []int{dot, dotDot}, []string{".", ".."}
	for i, e := range entries {
		for len(special) > 0 && names[0] < e.Name {
			yield(names[0], special[0])
			special, names = special[1:], names[1:]
		}
		yield(e.Name, i)
	}
	for i, name := range names {
		yield(name, special[i])
	}
}

const (
	dot    = -1
	dotDot = -2
)

// dirSize returns the size of a directory with the given entries.
func dirSize(entries []Entry, blockSize int64) int64 {
	var whole, used int64
	dirNames(entries, func(name string, _ int) {
		need := direntSize + int64(len(name))
		if used+need > blockSize {
			whole, used = whole+blockSize, 0
		}
		used += need
	})
	return whole + used
}

// dirBlock collects the entries of one block.
type dirBlock struct {
	entries []byte // name offsets are relative to the first name
	names   []byte
}

func (b *dirBlock) fits(name string, blockSize int64) bool {
	return int64(len(b.entries)+len(b.names)+direntSize+len(name)) <= blockSize
}

func (b *dirBlock) add(name string, nid uint64, fileType byte) {
	b.entries = binary.LittleEndian.AppendUint64(b.entries, nid)
	b.entries = binary.LittleEndian.AppendUint16(b.entries, uint16(len(b.names)))
	b.entries = append(b.entries, fileType, 0)
	b.names = append(b.names, name...)
}

// appendTo appends the block without padding and empties it.
func (b *dirBlock) appendTo(out []byte) []byte {
	for at := 8; at < len(b.entries); at += direntSize {
		offset := b.entries[at:]
		binary.LittleEndian.PutUint16(offset, binary.LittleEndian.Uint16(offset)+uint16(len(b.entries)))
	}
	out = append(append(out, b.entries...), b.names...)
	b.entries, b.names = b.entries[:0], b.names[:0]
	return out
}

// parseDirBlock checks one block of a directory and appends its entries, "."
// and ".." included. It is strict: names follow each other without gaps and
// ascend, and after the last comes NUL or the end.
func parseDirBlock(b []byte, entries []DirEntry) ([]DirEntry, error) {
	if len(b) < direntSize {
		return nil, fmt.Errorf("%w: directory block of %d bytes", ErrCorrupt, len(b))
	}
	nameStart := int(binary.LittleEndian.Uint16(b[8:]))
	if nameStart < direntSize || nameStart%direntSize != 0 || nameStart >= len(b) {
		return nil, fmt.Errorf("%w: directory block with names at %d", ErrCorrupt, nameStart)
	}
	count := nameStart / direntSize
	for i := range count {
		entry := b[i*direntSize:]
		start, end := int(binary.LittleEndian.Uint16(entry[8:])), len(b)
		if i+1 < count {
			end = int(binary.LittleEndian.Uint16(entry[direntSize+8:]))
		} else if zero := bytes.IndexByte(b[min(start, end):], 0); zero >= 0 {
			end = start + zero
		}
		if start < nameStart || end > len(b) || start >= end || end-start > MaxName {
			return nil, fmt.Errorf("%w: directory name at %d to %d", ErrCorrupt, start, end)
		}
		name := string(b[start:end])
		mode := modeType(entry[10])
		switch {
		case !validName(name) && name != "." && name != ".." || mode == 0 || entry[11] != 0:
			return nil, fmt.Errorf("%w: directory entry %q of type %d", ErrCorrupt, name, entry[10])
		case len(entries) > 0 && entries[len(entries)-1].Name >= name:
			return nil, fmt.Errorf("%w: directory entry %q is out of order", ErrCorrupt, name)
		}
		entries = append(entries, DirEntry{Name: name, NID: binary.LittleEndian.Uint64(entry), Type: mode})
	}
	return entries, nil
}
