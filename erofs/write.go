package erofs

import (
	"cmp"
	"fmt"
	"hash"
	"io"
	"slices"
)

// Write writes an image of the tree below root to w and returns its length in
// bytes. The same tree, devices and options give the same bytes.
//
// w must be empty: ranges that are not written must read as zeros (spilled
// sparse data is left sparse). Nothing is synced. The superblock is written
// last. Write puts the Entries and Xattrs of the tree in order, in place.
//
// Errors about the tree name the path and wrap ErrName, ErrDuplicate, ErrTree,
// ErrInode, ErrXattr, ErrExtent or ErrLimit; others come from w or from a
// Device's Data.
func Write(w io.WriterAt, root *Inode, devices []Device, opts Options) (size int64, err error) {
	opts.BlockBits = cmp.Or(opts.BlockBits, DefaultBlockBits)
	opts.MaxSize = cmp.Or(opts.MaxSize, DefaultMaxSize)
	opts.MaxSpill = cmp.Or(opts.MaxSpill, DefaultMaxSpill)
	if opts.BlockBits < 9 || opts.BlockBits > 12 {
		return 0, fmt.Errorf("erofs: block size 2^%d: %w", opts.BlockBits, ErrUnsupported)
	}
	if err := checkDevices(devices, opts); err != nil {
		return 0, err
	}
	l := newLayout(devices, opts)
	if err := l.run(root); err != nil {
		return 0, err
	}
	if err := l.write(w); err != nil {
		return 0, err
	}
	return l.end, nil
}

func checkDevices(devices []Device, opts Options) error {
	if len(devices) > MaxDevices {
		return fmt.Errorf("erofs: %d devices: %w of %d", len(devices), ErrLimit, MaxDevices)
	}
	for i, d := range devices {
		if d.Size < 0 || d.Size > maxBlocks<<opts.BlockBits {
			return fmt.Errorf("erofs: device %d of %d bytes: %w of %d", i+1, d.Size, ErrLimit, int64(maxBlocks)<<opts.BlockBits)
		}
		if len(d.Tag) > deviceTagSize {
			return fmt.Errorf("erofs: device %d: tag %q: %w of %d bytes", i+1, d.Tag, ErrLimit, deviceTagSize)
		}
	}
	return nil
}

// write writes what has been laid out, in the order of the image but for the
// superblock.
func (l *layout) write(w io.WriterAt) error {
	super := superBlock{
		blockBits: l.opts.BlockBits,
		rootNID:   uint16(l.nodes[0].nid()),
		inodes:    uint64(len(l.nodes)),
		blocks:    uint32(l.end >> l.opts.BlockBits),
		devices:   uint16(len(l.devices)),
	}
	out := newStream(w, deviceTable, super.newDigest())
	out.put(l.deviceTable())
	out.padTo(l.inodeStart)
	l.writeInodes(out)
	out.padTo(roundUp(l.cursor, l.blockSize))
	l.writeBlocks(out)
	out.padTo(l.metaEnd)
	out.flush()
	if out.err != nil {
		return fmt.Errorf("erofs: write: %w", out.err)
	}
	if err := l.writeSpilled(w); err != nil {
		return err
	}
	super.uuid = imageUUID(out.digest)
	head := make([]byte, deviceTable)
	super.encode(head[superOffset:])
	if _, err := w.WriteAt(head, 0); err != nil {
		return fmt.Errorf("erofs: write: %w", err)
	}
	return nil
}

func (l *layout) deviceTable() []byte {
	table := make([]byte, deviceSlot*len(l.devices))
	next := l.end >> l.opts.BlockBits // where a device would follow the image
	for i, d := range l.devices {
		blocks := roundUp(d.Size, l.blockSize) >> l.opts.BlockBits
		info := DeviceInfo{Tag: d.Tag, Blocks: uint32(blocks)}
		info.encode(table[i*deviceSlot:], next)
		next += blocks
	}
	return table
}

func (l *layout) writeSpilled(w io.WriterAt) error {
	if l.end == l.metaEnd {
		return nil
	}
	// The last chunk may end with a hole: set the length of the image first.
	if _, err := w.WriteAt([]byte{0}, l.end-1); err != nil {
		return fmt.Errorf("erofs: write: %w", err)
	}
	for _, index := range l.spilled {
		if err := l.nodes[index].plan.copySpilled(w); err != nil {
			return l.wrap(err, index, "")
		}
	}
	return nil
}

func (n *node) nid() uint64 { return uint64(n.offset >> inodeSlotBits) }

// writeInodes writes the inode area.
func (l *layout) writeInodes(out *stream) {
	order := make([]int32, len(l.nodes))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(l.nodes[a].offset, l.nodes[b].offset) })
	var data []byte
	for _, index := range order {
		n := &l.nodes[index]
		out.padTo(n.offset)
		out.buf = l.appendInode(out.buf, n, index)
		out.buf = appendXattrs(out.buf, n.in.Mode, n.in.Xattrs)
		switch n.layout {
		case layoutInline:
			data = l.appendFlat(data[:0], index)
			out.put(data[n.size&^(l.blockSize-1):])
		case layoutChunked:
			out.padTo(n.offset + inodeSize + roundUp(n.xattrs, chunkIndex))
			l.writeChunks(out, n)
		}
	}
}

// appendInode appends the fixed part of an inode.
func (l *layout) appendInode(b []byte, n *node, index int32) []byte {
	d := diskInode{
		layout: n.layout,
		mode:   uint16(n.in.Mode),
		size:   uint64(n.size),
		ino:    uint32(index) + 1,
		uid:    n.in.UID,
		gid:    n.in.GID,
		sec:    n.in.Sec,
		nsec:   n.in.Nsec,
		nlink:  n.nlink,
	}
	if n.xattrs > 0 {
		d.xattrCount = uint16((n.xattrs-xattrHeader)/4 + 1)
	}
	switch n.in.Mode & ModeType {
	case ModeDir, ModeSymlink:
		d.union = n.block
	case ModeRegular:
		if n.layout == layoutChunked {
			d.union = chunkIndexes | uint32(n.bits)
		}
	case ModeChar, ModeBlock:
		d.union = n.in.Rdev
	}
	b = append(b, make([]byte, inodeSize)...)
	d.encode(b[len(b)-inodeSize:])
	return b
}

func (l *layout) writeChunks(out *stream, n *node) {
	plan := n.plan
	if plan == nil {
		// It was found good when the inode was placed, and too cheap to keep.
		simple, _ := planChunks(n.in, l.devices, l.opts.BlockBits)
		plan = &simple
	}
	out.buf = plan.appendIndexes(out.buf, out.flushLarge)
}

// writeBlocks writes the whole blocks of directories and symlinks.
func (l *layout) writeBlocks(out *stream) {
	var data []byte
	for _, index := range l.pending {
		n := &l.nodes[index]
		out.padTo(int64(n.block) << l.opts.BlockBits)
		data = l.appendFlat(data[:0], index)
		if n.layout == layoutInline {
			data = data[:n.size&^(l.blockSize-1)]
		}
		out.put(data)
	}
}

// appendFlat appends the data of a directory or symlink.
func (l *layout) appendFlat(b []byte, index int32) []byte {
	if n := &l.nodes[index]; !n.isDir() {
		return append(b, n.in.Target...)
	}
	return l.appendDir(b, index)
}

// appendDir appends the contents of a directory.
func (l *layout) appendDir(b []byte, index int32) []byte {
	n := &l.nodes[index]
	start, block := len(b), &l.dirBlock
	dirNames(n.in.Entries, func(name string, entry int) {
		child := index
		switch entry {
		case dot:
		case dotDot:
			child = n.parent
		default:
			child = l.kids[int(n.firstKid)+entry]
		}
		if !block.fits(name, l.blockSize) {
			b = block.appendTo(b)
			b = append(b, make([]byte, int(roundUp(int64(len(b)-start), l.blockSize))-(len(b)-start))...)
		}
		target := &l.nodes[child]
		block.add(name, target.nid(), fileType(target.in.Mode))
	})
	return block.appendTo(b)
}

// stream writes bytes in ascending order, in large pieces, and digests them.
type stream struct {
	w      io.WriterAt
	offset int64 // of buf in the image
	buf    []byte
	digest hash.Hash
	err    error
}

const streamBuffer = 1 << 18

func newStream(w io.WriterAt, offset int64, digest hash.Hash) *stream {
	return &stream{w: w, offset: offset, digest: digest, buf: make([]byte, 0, streamBuffer+streamBuffer/4)}
}

func (s *stream) put(b []byte) {
	s.buf = s.flushLarge(append(s.buf, b...))
}

// padTo adds zeros up to an offset of the image.
func (s *stream) padTo(offset int64) {
	for missing := offset - s.offset - int64(len(s.buf)); missing > 0; {
		used, n := len(s.buf), int(min(missing, streamBuffer))
		s.buf = slices.Grow(s.buf, n)[:used+n]
		clear(s.buf[used:])
		s.buf = s.flushLarge(s.buf)
		missing -= int64(n)
	}
}

// flushLarge writes b when it is large, and returns what is left of it.
func (s *stream) flushLarge(b []byte) []byte {
	if len(b) < streamBuffer {
		return b
	}
	s.buf = b
	s.flush()
	return s.buf
}

func (s *stream) flush() {
	s.digest.Write(s.buf)
	if s.err == nil {
		_, s.err = s.w.WriteAt(s.buf, s.offset)
	}
	s.offset += int64(len(s.buf))
	s.buf = s.buf[:0]
}
