package erofs

import (
	"context"
	"io"
	"iter"
)

// Image is an opened image. It holds no state that changes: any number of
// goroutines may use it.
type Image struct {
	r    io.ReaderAt
	size int64
}

// Node is one inode of an image.
type Node struct {
	NID      uint64 // place in the image; st_ino when it is mounted
	Mode     uint32
	UID, GID uint32
	Nlink    uint32
	Sec      int64
	Nsec     uint32
	Rdev     uint32 // packed, see Major and Minor
	Size     int64  // st_size

	image *Image
}

// DirEntry is one name of a directory in an image.
type DirEntry struct {
	Name string
	NID  uint64
	Type uint32 // Mode & ModeType of the inode
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
func Open(r io.ReaderAt, size int64) (*Image, error) { return nil, ErrUnsupported }

// BlockSize returns the size of a block in bytes.
func (im *Image) BlockSize() int64 { return 0 }

// Inodes returns the number of inodes.
func (im *Image) Inodes() uint64 { return 0 }

// Devices returns the device table; extents of device n are in Devices()[n-1].
func (im *Image) Devices() []DeviceInfo { return nil }

// Root returns the root directory.
func (im *Image) Root() (*Node, error) { return nil, ErrUnsupported }

// Node returns the inode of the given number.
func (im *Image) Node(nid uint64) (*Node, error) { return nil, ErrUnsupported }

// Lookup returns the inode at a slash-separated path from the root ("" and "/"
// are the root itself). Symlinks are not followed, ".." is refused. The error
// wraps fs.ErrNotExist when there is none.
func (im *Image) Lookup(path string) (*Node, error) { return nil, ErrUnsupported }

// Walk yields every path with its inode, each directory before its entries,
// entries in bytewise order; the root is ".", others have no leading slash.
// A file with hard links comes once for every name. After an error it ends.
func (im *Image) Walk() iter.Seq2[WalkEntry, error] { return nil }

// WalkEntry is one step of a walk.
type WalkEntry struct {
	Path string
	Node *Node
}

// Check proves that the image is sound; see docs/format.md for the invariants.
// The error says what is wrong with which path.
func (im *Image) Check(ctx context.Context) error { return ErrUnsupported }

// Lookup returns the inode of a name in a directory; the error wraps
// fs.ErrNotExist when there is none.
func (n *Node) Lookup(name string) (*Node, error) { return nil, ErrUnsupported }

// Entries yields the names of a directory in bytewise order, without "." and
// "..". After an error it ends.
func (n *Node) Entries() iter.Seq2[DirEntry, error] { return nil }

// Readlink returns the target of a symlink.
func (n *Node) Readlink() (string, error) { return "", ErrUnsupported }

// Xattrs returns all extended attributes, in bytewise order of their names.
func (n *Node) Xattrs() ([]Xattr, error) { return nil, ErrUnsupported }

// Extents returns where the data of a regular file lies, ascending, adjacent
// ones merged, gaps are holes. The last one ends at Size at the latest.
func (n *Node) Extents() ([]Extent, error) { return nil, ErrUnsupported }

// Data returns the contents of a regular file, holes included. devices are the
// extra devices in the order of the device table.
func (n *Node) Data(devices []io.ReaderAt) (*io.SectionReader, error) { return nil, ErrUnsupported }
