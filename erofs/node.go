package erofs

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"iter"
	"strings"
)

// Node is one inode of an image.
type Node struct {
	NID      uint64 // place in the image; st_ino when it is mounted
	Mode     uint32 // st_mode
	UID, GID uint32
	Nlink    uint32
	Sec      int64
	Nsec     uint32
	Rdev     uint32 // packed, see Major and Minor
	Size     int64  // st_size

	image  *Image
	offset int64 // of the inode
	layout byte
	bits   uint8 // chunked: log2 of the chunk's blocks
	block  int64 // flat: where the whole blocks begin
	xattrs int64 // bytes of extended attributes
}

// DirEntry is one name of a directory in an image.
type DirEntry struct {
	Name string
	NID  uint64
	Type uint32 // Mode & ModeType of the inode
}

// Node returns the inode of the given number.
func (im *Image) Node(nid uint64) (*Node, error) {
	n := &Node{NID: nid, image: im, offset: int64(nid << inodeSlotBits)}
	if err := n.load(); err != nil {
		return nil, fmt.Errorf("erofs: inode %d: %w", nid, err)
	}
	return n, nil
}

func (n *Node) load() error {
	im := n.image
	if n.NID > uint64(im.size>>inodeSlotBits) || n.offset < im.inodeStart {
		return fmt.Errorf("%w: no such inode", ErrCorrupt)
	}
	var b [inodeSize]byte
	if err := im.readAt(b[:], n.offset); err != nil {
		return err
	}
	d, err := decodeInode(b[:])
	if err != nil {
		return err
	}
	n.Mode, n.Nlink, n.UID, n.GID = uint32(d.mode), d.nlink, d.uid, d.gid
	n.Sec, n.Nsec, n.Size = d.sec, d.nsec, int64(d.size)
	n.layout, n.xattrs = d.layout, xattrAreaSize(d.xattrCount)
	if d.size > maxFileSize || n.Nsec >= 1e9 || n.Nlink == 0 {
		return fmt.Errorf("%w: size, time or link count", ErrCorrupt)
	}
	return n.loadData(d.union)
}

// loadData takes the type-dependent field of an inode, and makes sure that all
// that belongs to the inode lies inside the image.
func (n *Node) loadData(union uint32) error {
	ok := false
	switch n.Mode & ModeType {
	case ModeRegular:
		switch n.layout {
		case layoutPlain:
			ok = n.Size == 0 && union == 0
		case layoutChunked:
			n.bits = uint8(union & maxChunkBits)
			ok = n.Size > 0 && union&^maxChunkBits == chunkIndexes
		}
	case ModeDir:
		n.block = int64(union)
		ok = n.Size > 0 && (n.layout == layoutPlain || n.layout == layoutInline)
	case ModeSymlink:
		n.block = int64(union)
		ok = n.Size > 0 && n.Size <= MaxTarget && (n.layout == layoutPlain || n.layout == layoutInline)
	case ModeChar, ModeBlock:
		n.Rdev = union
		ok = n.Size == 0 && n.layout == layoutPlain
	case ModeFifo, ModeSocket:
		ok = n.Size == 0 && n.layout == layoutPlain && union == 0
	}
	if !ok {
		return fmt.Errorf("%w: mode %#o, layout %d, size %d", ErrCorrupt, n.Mode, n.layout, n.Size)
	}
	inline, end := n.inline(), n.offset+n.footprint()
	blocks := n.wholeBlocks()
	size := n.image.size
	switch {
	case end > size:
		return fmt.Errorf("%w: it ends outside the image", ErrCorrupt)
	case inline > 0 && (end-inline)>>n.image.super.blockBits != (end-1)>>n.image.super.blockBits:
		return fmt.Errorf("%w: inline data crosses a block", ErrCorrupt)
	case blocks > 0 && (blocks > size || n.block<<n.image.super.blockBits < n.image.inodeStart || n.block<<n.image.super.blockBits > size-blocks):
		return fmt.Errorf("%w: its blocks lie outside the image", ErrCorrupt)
	}
	return nil
}

// inline returns the bytes of data behind the inode.
func (n *Node) inline() int64 {
	if n.layout != layoutInline {
		return 0
	}
	return n.Size & (n.image.BlockSize() - 1)
}

// wholeBlocks returns the bytes of data in blocks of a flat inode.
func (n *Node) wholeBlocks() int64 {
	switch n.layout {
	case layoutPlain:
		return roundUp(n.Size, n.image.BlockSize())
	case layoutInline:
		return n.Size - n.inline()
	}
	return 0
}

// footprint returns the bytes of the inode and all that follows it.
func (n *Node) footprint() int64 {
	size := inodeSize + n.xattrs
	if n.layout != layoutChunked {
		return size + n.inline()
	}
	count := (n.Size + 1<<n.chunkBits() - 1) >> n.chunkBits()
	return roundUp(size, chunkIndex) + count*chunkIndex
}

func (n *Node) chunkBits() uint8 { return n.image.super.blockBits + n.bits }

// readBlock reads one block of a flat inode into b, of which it returns what
// is used.
func (n *Node) readBlock(b []byte, index int64) ([]byte, error) {
	logical := index << n.image.super.blockBits
	used := min(n.Size-logical, int64(len(b)))
	offset := n.block<<n.image.super.blockBits + logical
	if n.layout == layoutInline && logical >= n.wholeBlocks() {
		offset = n.offset + inodeSize + n.xattrs
	}
	return b[:used], n.image.readAt(b[:used], offset)
}

// Lookup returns the inode of a name in a directory; the error wraps
// fs.ErrNotExist when there is none.
func (n *Node) Lookup(name string) (*Node, error) {
	entry, err := n.find(name)
	if err != nil {
		return nil, err
	}
	if !validName(name) {
		return nil, fmt.Errorf("erofs: %q: %w", name, fs.ErrNotExist)
	}
	return n.child(entry)
}

// find searches a name, "." and ".." included.
func (n *Node) find(name string) (DirEntry, error) {
	if n.Mode&ModeType != ModeDir {
		return DirEntry{}, fmt.Errorf("erofs: inode %d: %w: not a directory", n.NID, fs.ErrInvalid)
	}
	block := make([]byte, n.image.BlockSize())
	var entries []DirEntry
	low, high := int64(0), roundUp(n.Size, n.image.BlockSize())>>n.image.super.blockBits
	for low < high {
		middle := low + (high-low)/2
		var err error
		if entries, err = n.readEntries(block, middle, entries[:0]); err != nil {
			return DirEntry{}, err
		}
		switch {
		case name < entries[0].Name:
			high = middle
		case name > entries[len(entries)-1].Name:
			low = middle + 1
		default:
			for _, e := range entries {
				if e.Name == name {
					return e, nil
				}
			}
			high = low
		}
	}
	return DirEntry{}, fmt.Errorf("erofs: %q: %w", name, fs.ErrNotExist)
}

// readEntries appends the entries of one directory block, at least one.
func (n *Node) readEntries(block []byte, index int64, entries []DirEntry) ([]DirEntry, error) {
	b, err := n.readBlock(block, index)
	if err == nil {
		entries, err = parseDirBlock(b, entries)
	}
	if err != nil {
		return nil, fmt.Errorf("erofs: directory inode %d: %w", n.NID, err)
	}
	return entries, nil
}

// child loads the inode of an entry.
func (n *Node) child(entry DirEntry) (*Node, error) {
	child, err := n.image.Node(entry.NID)
	if err == nil && child.Mode&ModeType != entry.Type {
		return nil, fmt.Errorf("erofs: inode %d: %w: its directory entry %q has another type", child.NID, ErrCorrupt, entry.Name)
	}
	return child, err
}

// Entries yields the names of a directory in bytewise order, without "." and
// "..". After an error it ends.
func (n *Node) Entries() iter.Seq2[DirEntry, error] {
	return func(yield func(DirEntry, error) bool) {
		if n.Mode&ModeType != ModeDir {
			yield(DirEntry{}, fmt.Errorf("erofs: inode %d: %w: not a directory", n.NID, fs.ErrInvalid))
			return
		}
		block := make([]byte, n.image.BlockSize())
		var entries []DirEntry
		for index := range roundUp(n.Size, n.image.BlockSize()) >> n.image.super.blockBits {
			// The last entry of the block before stays: order is checked against it.
			known := entries[:0]
			if len(entries) > 0 {
				known = append(known, entries[len(entries)-1])
			}
			var err error
			if entries, err = n.readEntries(block, index, known); err != nil {
				yield(DirEntry{}, err)
				return
			}
			for _, e := range entries[len(known):] {
				if e.Name != "." && e.Name != ".." && !yield(e, nil) {
					return
				}
			}
		}
	}
}

// Readlink returns the target of a symlink.
func (n *Node) Readlink() (string, error) {
	if n.Mode&ModeType != ModeSymlink {
		return "", fmt.Errorf("erofs: inode %d: %w: not a symlink", n.NID, fs.ErrInvalid)
	}
	target := make([]byte, 0, n.Size)
	block := make([]byte, n.image.BlockSize())
	for index := int64(0); int64(len(target)) < n.Size; index++ {
		b, err := n.readBlock(block, index)
		if err != nil {
			return "", fmt.Errorf("erofs: symlink inode %d: %w", n.NID, err)
		}
		target = append(target, b...)
	}
	if strings.IndexByte(string(target), 0) >= 0 {
		return "", fmt.Errorf("erofs: symlink inode %d: %w: NUL in its target", n.NID, ErrCorrupt)
	}
	return string(target), nil
}

// Xattrs returns all extended attributes, in bytewise order of their names.
func (n *Node) Xattrs() ([]Xattr, error) {
	b := make([]byte, n.xattrs)
	if err := n.image.readAt(b, n.offset+inodeSize); err != nil {
		return nil, fmt.Errorf("erofs: inode %d: %w", n.NID, err)
	}
	xattrs, err := parseXattrs(b, n.Mode)
	if err != nil {
		return nil, fmt.Errorf("erofs: inode %d: %w", n.NID, err)
	}
	return xattrs, nil
}

// Extents returns where the data of a regular file lies, ascending, adjacent
// ones merged, gaps are holes. The last one ends at Size at the latest.
func (n *Node) Extents() ([]Extent, error) {
	if n.Mode&ModeType != ModeRegular {
		return nil, fmt.Errorf("erofs: inode %d: %w: not a regular file", n.NID, fs.ErrInvalid)
	}
	if n.layout != layoutChunked {
		return nil, nil
	}
	var extents []Extent
	var buf [512]byte
	end := n.offset + n.footprint()
	start := n.offset + roundUp(inodeSize+n.xattrs, chunkIndex)
	logical := int64(0)
	for start < end {
		b := buf[:min(end-start, int64(len(buf)))]
		if err := n.image.readAt(b, start); err != nil {
			return nil, fmt.Errorf("erofs: inode %d: %w", n.NID, err)
		}
		start += int64(len(b))
		for ; len(b) > 0; b = b[chunkIndex:] {
			e, err := n.chunk(b, logical)
			if err != nil {
				return nil, fmt.Errorf("erofs: inode %d: chunk at %d: %w", n.NID, logical, err)
			}
			if e.Length > 0 {
				extents = appendExtent(extents, e)
			}
			logical += 1 << n.chunkBits()
		}
	}
	return extents, nil
}

// chunk decodes one chunk index; a hole has no length.
func (n *Node) chunk(b []byte, logical int64) (Extent, error) {
	advise, device := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:])
	block := binary.LittleEndian.Uint32(b[4:])
	if advise != 0 || int(device) > len(n.image.devices) || block == nullBlock && device != 0 {
		return Extent{}, fmt.Errorf("%w: advise %d, device %d", ErrCorrupt, advise, device)
	}
	if block == nullBlock {
		return Extent{}, nil
	}
	blocks := n.image.super.blocks
	if device > 0 {
		blocks = n.image.devices[device-1].Blocks
	}
	blockBits := n.image.super.blockBits
	length := min(n.Size-logical, 1<<n.chunkBits())
	if used := roundUp(length, 1<<blockBits) >> blockBits; used > int64(blocks) || int64(block) > int64(blocks)-used {
		return Extent{}, fmt.Errorf("%w: block %d of device %d, which has %d", ErrCorrupt, block, device, blocks)
	}
	return Extent{Logical: logical, Length: length, Device: device, Physical: int64(block) << blockBits}, nil
}

func appendExtent(extents []Extent, e Extent) []Extent {
	if len(extents) > 0 {
		last := &extents[len(extents)-1]
		if last.Device == e.Device && last.Logical+last.Length == e.Logical && last.Physical+last.Length == e.Physical {
			last.Length += e.Length
			return extents
		}
	}
	return append(extents, e)
}
