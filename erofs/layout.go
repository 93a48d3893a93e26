package erofs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// node is the place of one inode in the image.
type node struct {
	in       *Inode
	name     string // its first name
	parent   int32  // directory of that name, an index of layout.nodes
	firstKid int32  // directories: its entries are kids[firstKid:]
	nlink    uint32
	pathLen  int32
	layout   byte
	bits     uint8      // chunked: log2 of the chunk's blocks
	plan     *chunkPlan // chunked: nil when it is one extent, or a hole
	offset   int64      // of the inode
	block    uint32     // flat: where its whole blocks begin
	size     int64      // i_size
	xattrs   int64      // bytes of extended attributes
}

func (n *node) isDir() bool { return n.in.Mode&ModeType == ModeDir }

// layout decides where everything lies: inodes from inodeStart, in the order in
// which a depth-first walk looks at them (all children of a directory, then
// the children of its first subdirectory), then whole blocks of directories
// and symlinks in the same order, then spilled data.
type layout struct {
	devices   []Device
	opts      Options
	blockSize int64

	nodes  []node
	kids   []int32 // entries of all visited directories, indexes of nodes
	byNode map[*Inode]int32
	gaps   []gap // holes in the inode area, for inodes to come

	inodeStart int64
	cursor     int64   // end of the inode area
	blocks     int64   // whole blocks of directories and symlinks so far
	pending    []int32 // nodes with block addresses, relative until the end
	spilled    []int32 // nodes with spilled chunks
	spillData  int64
	metaEnd    int64
	end        int64

	dirBlock dirBlock // scratch space for writing
}

// gap is free space inside one block.
type gap struct{ start, end int64 }

// maxGaps bounds the search for a gap; newer ones replace older ones.
const maxGaps = 8

func newLayout(devices []Device, opts Options) *layout {
	start := inodeStart(len(devices), opts.BlockBits)
	return &layout{
		devices: devices, opts: opts, blockSize: 1 << opts.BlockBits,
		byNode: make(map[*Inode]int32), inodeStart: start, cursor: start,
	}
}

// run lays out the tree.
func (l *layout) run(root *Inode) error {
	if root == nil || root.Mode&ModeType != ModeDir {
		return fmt.Errorf("erofs: %q: %w: the root is not a directory", "/", ErrTree)
	}
	if _, err := l.add(root, "", 0); err != nil {
		return l.wrap(err, 0, "")
	}
	stack := []int32{0}
	var subdirs []int32
	for len(stack) > 0 {
		dir := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		var err error
		if subdirs, err = l.visit(dir, subdirs[:0]); err != nil {
			return err
		}
		slices.Reverse(subdirs)
		stack = append(stack, subdirs...)
	}
	return l.finish()
}

// visit places the children of a directory and appends its subdirectories.
func (l *layout) visit(dir int32, subdirs []int32) ([]int32, error) {
	l.nodes[dir].firstKid = int32(len(l.kids))
	for _, entry := range l.nodes[dir].in.Entries {
		index, seen := l.byNode[entry.Inode]
		if seen {
			if l.nodes[index].isDir() {
				return nil, l.wrap(fmt.Errorf("%w: the directory has a second name, %q", ErrTree, l.path(index, "")), dir, entry.Name)
			}
			l.nodes[index].nlink++
		} else {
			var err error
			if index, err = l.add(entry.Inode, entry.Name, dir); err != nil {
				return nil, l.wrap(err, dir, entry.Name)
			}
			if l.nodes[index].isDir() {
				subdirs = append(subdirs, index)
			}
		}
		l.kids = append(l.kids, index)
	}
	l.nodes[dir].nlink += uint32(len(subdirs))
	return subdirs, nil
}

// add checks an inode and places it.
func (l *layout) add(in *Inode, name string, parent int32) (int32, error) {
	index := int32(len(l.nodes))
	n := node{in: in, name: name, parent: parent, nlink: 1}
	if err := checkInode(in); err != nil {
		return 0, err
	}
	if index > 0 {
		n.pathLen = l.nodes[parent].pathLen + 1 + int32(len(name))
	}
	if n.isDir() && n.pathLen > MaxPath {
		return 0, fmt.Errorf("%w: the path is longer than %d bytes", ErrLimit, MaxPath)
	}
	var err error
	if n.xattrs, err = sortXattrs(in.Mode, in.Xattrs); err != nil {
		return 0, err
	}
	var after int64 // bytes behind the inode: inline data or chunk indexes
	switch in.Mode & ModeType {
	case ModeDir:
		n.nlink = 2
		if err = sortEntries(in.Entries); err == nil {
			n.size = dirSize(in.Entries, l.blockSize)
			after = l.placeFlat(&n, index)
		}
	case ModeSymlink:
		n.size = int64(len(in.Target))
		after = l.placeFlat(&n, index)
	case ModeRegular:
		n.size = in.Size
		after, err = l.placeChunks(&n, index)
	}
	if err != nil {
		return 0, err
	}
	n.offset = l.allocate(inodeSize+n.xattrs+after, n.layout == layoutInline)
	if used := l.cursor + l.blocks*l.blockSize; used > l.opts.MaxSize {
		return 0, fmt.Errorf("%w: the metadata is larger than %d bytes", ErrLimit, l.opts.MaxSize)
	}
	l.nodes = append(l.nodes, n)
	l.byNode[in] = index
	return index, nil
}

func checkInode(in *Inode) error {
	if in == nil {
		return fmt.Errorf("%w: it is nil", ErrInode)
	}
	switch {
	case fileType(in.Mode) == 0 || in.Mode > 1<<16-1:
		return fmt.Errorf("%w: mode %#o", ErrInode, in.Mode)
	case in.Nsec >= 1e9:
		return fmt.Errorf("%w: %d nanoseconds", ErrInode, in.Nsec)
	case in.Mode&ModeType == ModeRegular && in.Size < 0:
		return fmt.Errorf("%w: size %d", ErrInode, in.Size)
	case in.Mode&ModeType == ModeSymlink && (in.Target == "" || len(in.Target) > MaxTarget || strings.IndexByte(in.Target, 0) >= 0):
		return fmt.Errorf("%w: a symlink's target has 1 to %d bytes and no NUL, not %d", ErrInode, MaxTarget, len(in.Target))
	}
	return nil
}

// placeFlat gives a directory or symlink its whole blocks, and returns how many
// bytes follow the inode inline.
func (l *layout) placeFlat(n *node, index int32) int64 {
	tail := n.size & (l.blockSize - 1)
	whole := n.size >> l.opts.BlockBits
	n.layout = layoutInline
	if tail == 0 || inodeSize+n.xattrs+tail > l.blockSize {
		n.layout = layoutPlain
		whole = roundUp(n.size, l.blockSize) >> l.opts.BlockBits
		tail = 0
	}
	if whole > 0 {
		n.block = uint32(l.blocks)
		l.blocks += whole
		l.pending = append(l.pending, index)
	}
	return tail
}

// placeChunks chooses the chunks of a regular file, and returns how many bytes
// their indexes take behind the inode, which end on a multiple of 8.
func (l *layout) placeChunks(n *node, index int32) (int64, error) {
	if n.size == 0 {
		n.layout = layoutPlain
		return 0, nil
	}
	plan, err := planChunks(n.in, l.devices, l.opts.BlockBits)
	if err != nil {
		return 0, err
	}
	n.layout, n.bits = layoutChunked, plan.bits
	if len(plan.extents) > 0 && !plan.contiguous() {
		kept := plan
		n.plan = &kept
	}
	if plan.spillSpan > 0 {
		l.spillData += plan.spillData
		if l.spillData > l.opts.MaxSpill {
			return 0, fmt.Errorf("%w: more than %d bytes of data would have to be copied into the index", ErrLimit, l.opts.MaxSpill)
		}
		l.spilled = append(l.spilled, index)
	}
	padding := roundUp(n.xattrs, chunkIndex) - n.xattrs
	return padding + plan.count()*chunkIndex, nil
}

// allocate finds room for an inode and what follows it.
func (l *layout) allocate(size int64, oneBlock bool) int64 {
	size = roundUp(size, inodeSlot)
	for i := range l.gaps {
		g := &l.gaps[i]
		if g.end-g.start >= size {
			offset := g.start
			g.start += size
			if g.end-g.start < inodeSize {
				l.gaps = slices.Delete(l.gaps, i, i+1)
			}
			return offset
		}
	}
	inBlock := l.cursor & (l.blockSize - 1)
	if oneBlock && inBlock+size > l.blockSize {
		end := l.cursor - inBlock + l.blockSize
		if end-l.cursor >= inodeSize {
			if len(l.gaps) == maxGaps {
				l.gaps = slices.Delete(l.gaps, 0, 1)
			}
			l.gaps = append(l.gaps, gap{start: l.cursor, end: end})
		}
		l.cursor = end
	}
	offset := l.cursor
	l.cursor += size
	return offset
}

// finish turns relative block addresses into final ones and places the spilled
// data.
func (l *layout) finish() error {
	blockArea := roundUp(l.cursor, l.blockSize)
	for _, index := range l.pending {
		l.nodes[index].block += uint32(blockArea >> l.opts.BlockBits)
	}
	l.metaEnd = blockArea + l.blocks*l.blockSize
	l.end = l.metaEnd
	for _, index := range l.spilled {
		plan := l.nodes[index].plan
		l.end = roundUp(l.end, min(spillAlign, int64(1)<<plan.chunkBits()))
		plan.spillStart = l.end
		l.end += plan.spillSpan
		if l.end>>l.opts.BlockBits > maxBlocks {
			return l.wrap(fmt.Errorf("%w: the index would be larger than %d blocks", ErrLimit, int64(maxBlocks)), index, "")
		}
	}
	return nil
}

// wrap names the path in an error: that of an inode, or of a name in it.
func (l *layout) wrap(err error, index int32, name string) error {
	return fmt.Errorf("erofs: %q: %w", l.path(index, name), err)
}

// path returns the path of an inode, or of a name in it.
func (l *layout) path(index int32, name string) string {
	parts := []string{}
	if name != "" {
		parts = append(parts, name)
	}
	for index != 0 && index < int32(len(l.nodes)) {
		parts = append(parts, l.nodes[index].name)
		index = l.nodes[index].parent
	}
	slices.Reverse(parts)
	return "/" + strings.Join(parts, "/")
}

// sortEntries puts the entries in order and checks their names.
func sortEntries(entries []Entry) error {
	byName := func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(entries, byName) {
		slices.SortStableFunc(entries, byName)
	}
	for i, e := range entries {
		if !validName(e.Name) {
			return fmt.Errorf("%w: %q (%d bytes) in it", ErrName, e.Name[:min(len(e.Name), MaxName)], len(e.Name))
		}
		if i > 0 && entries[i-1].Name == e.Name {
			return fmt.Errorf("%w: %q in it", ErrDuplicate, e.Name)
		}
	}
	return nil
}

func validName(name string) bool {
	return name != "" && len(name) <= MaxName && name != "." && name != ".." && strings.IndexByte(name, 0) < 0 && strings.IndexByte(name, '/') < 0
}
