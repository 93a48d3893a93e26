package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
)

// Image is an opened image. It holds no state that changes: any number of
// goroutines may use it.
type Image struct {
	r          io.ReaderAt
	size       int64
	super      superBlock
	devices    []DeviceInfo
	inodeStart int64
}

// DeviceInfo is what the device table says of an extra device.
type DeviceInfo struct {
	Tag    string
	Blocks uint32 // of Image.BlockSize bytes
}

// Open reads the superblock and the device table of an image of size bytes.
// Only images as Write makes them are taken, others give ErrUnsupported or
// ErrCorrupt. r is read in small pieces, nothing is kept of it: give a
// bytes.Reader or a mapped file where many reads would be slow.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	im := &Image{r: r, size: size}
	if err := im.open(); err != nil {
		return nil, fmt.Errorf("erofs: open: %w", err)
	}
	return im, nil
}

func (im *Image) open() error {
	b := make([]byte, deviceTable)
	if err := im.readAt(b, 0); err != nil {
		return err
	}
	boot, super := b[:superOffset], b[superOffset:]
	if bytes.ContainsFunc(boot, func(r rune) bool { return r != 0 }) {
		return fmt.Errorf("%w: data before the superblock", ErrCorrupt)
	}
	var err error
	if im.super, err = decodeSuperBlock(super); err != nil {
		return err
	}
	blockBits := im.super.blockBits
	if int64(im.super.blocks)<<blockBits != im.size {
		return fmt.Errorf("%w: it has %d bytes, its superblock says %d", ErrCorrupt, im.size, int64(im.super.blocks)<<blockBits)
	}
	table := make([]byte, deviceSlot*int(im.super.devices))
	if err := im.readAt(table, deviceTable); err != nil {
		return err
	}
	for slot := range slices.Chunk(table, deviceSlot) {
		im.devices = append(im.devices, decodeDevice(slot))
	}
	im.inodeStart = inodeStart(len(im.devices), blockBits)
	if int64(im.super.rootNID)<<inodeSlotBits != im.inodeStart {
		return fmt.Errorf("%w: inode %d cannot be the root", ErrCorrupt, im.super.rootNID)
	}
	return nil
}

// readAt reads all of b, from inside the image.
func (im *Image) readAt(b []byte, offset int64) error {
	if offset < 0 || offset > im.size-int64(len(b)) {
		return fmt.Errorf("%w: %d bytes at %d of %d", ErrCorrupt, len(b), offset, im.size)
	}
	n, err := im.r.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// BlockSize returns the size of a block in bytes.
func (im *Image) BlockSize() int64 { return 1 << im.super.blockBits }

// Inodes returns the number of inodes.
func (im *Image) Inodes() uint64 { return im.super.inodes }

// UUID returns the image's UUID, a digest of its metadata. The mounted file
// system has it, too.
func (im *Image) UUID() [16]byte { return im.super.uuid }

// Devices returns the device table; extents of device n are in Devices()[n-1].
func (im *Image) Devices() []DeviceInfo { return slices.Clone(im.devices) }

// Root returns the root directory.
func (im *Image) Root() (*Node, error) {
	root, err := im.Node(uint64(im.super.rootNID))
	if err == nil && root.Mode&ModeType != ModeDir {
		return nil, fmt.Errorf("erofs: %w: the root is not a directory", ErrCorrupt)
	}
	return root, err
}

// Lookup returns the inode at a slash-separated path from the root ("", "." and
// "/" are the root itself). Symlinks are not followed, ".." is refused. The
// error wraps fs.ErrNotExist when there is none.
func (im *Image) Lookup(path string) (*Node, error) {
	n, err := im.Root()
	for name := range strings.SplitSeq(path, "/") {
		if err != nil {
			return nil, err
		}
		if name == "" || name == "." {
			continue
		}
		if n.Mode&ModeType != ModeDir {
			return nil, fmt.Errorf("erofs: %q: %w", path, fs.ErrNotExist)
		}
		n, err = n.Lookup(name)
	}
	return n, err
}

// WalkEntry is one step of a walk.
type WalkEntry struct {
	Path string
	Node *Node
}

// errStopped ends a walk whose consumer wants no more.
var errStopped = errors.New("stopped")

// Walk yields every path with its inode, each directory before its entries,
// entries in bytewise order; the root is ".", others have no leading slash.
// A file with hard links comes once for every name. After an error it ends.
func (im *Image) Walk() iter.Seq2[WalkEntry, error] {
	return func(yield func(WalkEntry, error) bool) {
		err := im.walk(func(path string, n, _ *Node) error {
			if !yield(WalkEntry{Path: path, Node: n}, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(WalkEntry{}, err)
		}
	}
}

// walker walks an image without trusting it: no directory twice, and no more
// entries than have room in the image.
type walker struct {
	visit   func(path string, n, parent *Node) error
	seen    map[uint64]struct{}
	entries int64 // that may still come
}

// walk calls visit for every name; parent is the directory, the root's is the
// root itself.
func (im *Image) walk(visit func(path string, n, parent *Node) error) error {
	root, err := im.Root()
	if err != nil {
		return err
	}
	if err := visit(".", root, root); err != nil {
		return err
	}
	w := &walker{visit: visit, seen: map[uint64]struct{}{}, entries: im.size / direntSize}
	return w.dir("", root)
}

func (w *walker) dir(path string, dir *Node) error {
	if _, again := w.seen[dir.NID]; again || len(path) > MaxPath {
		return fmt.Errorf("erofs: %q: %w: directory loop", path, ErrCorrupt)
	}
	w.seen[dir.NID] = struct{}{}
	if path != "" {
		path += "/"
	}
	for entry, err := range dir.Entries() {
		if err != nil {
			return fmt.Errorf("%w (%q)", err, path)
		}
		if w.entries--; w.entries < 0 {
			return fmt.Errorf("erofs: %q: %w: directories overlap", path, ErrCorrupt)
		}
		child, err := dir.child(entry)
		if err != nil {
			return fmt.Errorf("%w (%q)", err, path+entry.Name)
		}
		if err := w.visit(path+entry.Name, child, dir); err != nil {
			return err
		}
		if entry.Type == ModeDir {
			if err := w.dir(path+entry.Name, child); err != nil {
				return err
			}
		}
	}
	return nil
}
