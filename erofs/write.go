package erofs

import "io"

// Write writes an image of the tree below root to w and returns its length in
// bytes. The same tree, devices and options give the same bytes.
//
// w must be empty: ranges that are not written must read as zeros (spilled
// sparse data is left sparse). Nothing is synced. Write puts the Entries and
// Xattrs of the tree in order, in place.
//
// Errors about the tree name the path and wrap ErrName, ErrDuplicate, ErrTree,
// ErrInode, ErrXattr, ErrExtent or ErrLimit; others come from w or from a
// Device's Data.
func Write(w io.WriterAt, root *Inode, devices []Device, opts Options) (size int64, err error) {
	return 0, ErrUnsupported
}
