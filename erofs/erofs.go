// Package erofs writes, reads and checks EROFS images that hold metadata only:
// the index of a layer. The data of regular files stays where it is, in extra
// devices (the layer's tar), and the index says where.
//
// The on-disk format is that of the Linux kernel (fs/erofs/erofs_fs.h and
// Documentation/filesystems/erofs.rst); docs/format.md, section "index.erofs",
// says which part of it is used and with which values.
package erofs

import (
	"errors"
	"io"
)

// Limits of the format and of Linux that the writer enforces.
const (
	MaxName    = 255     // bytes in one name (EROFS_NAME_LEN)
	MaxTarget  = 4095    // bytes in a symlink's target (PATH_MAX less the NUL)
	MaxPath    = 1 << 16 // bytes in a path below the root; a limit of ours, so that readers need no more memory
	MaxDevices = 4096    // extra devices; a limit of ours, the format's is 65535
	MaxMajor   = 1<<12 - 1
	MaxMinor   = 1<<20 - 1
	// MaxXattrValue is the longest value of an extended attribute, one byte
	// less than Linux's own limit (e_value_size is 16 bits wide).
	MaxXattrValue = 1<<16 - 1
)

// Defaults for the zero values in Options.
const (
	DefaultBlockBits = 9
	DefaultMaxSize   = 1 << 30
	DefaultMaxSpill  = 4 << 30
)

// Errors of Write wrap one of these, and name the path; errors of a reader
// wrap ErrCorrupt, or what its io.ReaderAt returned.
var (
	ErrName        = errors.New("bad name")
	ErrDuplicate   = errors.New("name occurs twice in its directory")
	ErrTree        = errors.New("not a tree")
	ErrInode       = errors.New("bad inode")
	ErrXattr       = errors.New("bad extended attribute")
	ErrExtent      = errors.New("bad extent")
	ErrLimit       = errors.New("limit exceeded")
	ErrCorrupt     = errors.New("damaged EROFS image")
	ErrUnsupported = errors.New("EROFS feature not supported")
)

// File types in Inode.Mode, as in st_mode (inode(7)).
const (
	ModeType    = 0o170000
	ModeSocket  = 0o140000
	ModeSymlink = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeFifo    = 0o010000
)

// Inode is one file of the tree to write. The same *Inode under several names
// is a file with hard links; a directory may have one name only.
type Inode struct {
	Mode     uint32   // st_mode: type and permission bits
	UID, GID uint32   // owner
	Sec      int64    // mtime, seconds since the epoch, may be negative
	Nsec     uint32   // mtime, nanoseconds, below 1e9
	Rdev     uint32   // character and block devices: as MakeDev returns it
	Size     int64    // regular files: bytes
	Extents  []Extent // regular files: where the data lies, ascending by Logical, gaps are holes
	Target   string   // symlinks
	Xattrs   []Xattr  // any order
	Entries  []Entry  // directories: any order, without "." and ".."
}

// Entry is one name in a directory.
type Entry struct {
	Name  string
	Inode *Inode
}

// Xattr is an extended attribute with its full name ("user.a"). SupportsXattr
// says which names are possible. The values of
// system.posix_acl_access and system.posix_acl_default are in the form of
// getxattr(2).
type Xattr struct {
	Name  string
	Value []byte
}

// Extent says where a part of a regular file lies: Length bytes from the
// file's offset Logical are found at the byte offset Physical of Device.
// Devices are counted from 1; in what a reader returns, device 0 is the image
// itself (spilled data).
type Extent struct {
	Logical, Length int64
	Device          uint16
	Physical        int64
}

// Device is one extra device that extents point into.
type Device struct {
	// Size in bytes; it is rounded up to whole blocks.
	Size int64
	// Data is read only where extents have to be spilled, and may be nil
	// when none has.
	Data io.ReaderAt
	// Tag names the device in the device table, at most 64 bytes; the hex
	// digits of a sha256 fit. May be empty.
	Tag string
}

// Options of Write. The zero value is right for a layer's index.
type Options struct {
	// BlockBits is log2 of the block size, 9 to 12; 0 is DefaultBlockBits.
	// With anything but 9 the data of most tars would be spilled: for tests.
	BlockBits uint8
	// MaxSize limits the bytes of metadata; 0 is DefaultMaxSize.
	MaxSize int64
	// MaxSpill limits the bytes of file data copied into the image because
	// the format cannot point at them; 0 is DefaultMaxSpill.
	MaxSpill int64
}

// MakeDev packs a device number as the kernel's new_encode_dev does
// (include/linux/kdev_t.h). Numbers above MaxMajor and MaxMinor are cut.
func MakeDev(major, minor uint32) uint32 {
	major &= MaxMajor
	minor &= MaxMinor
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

// Major returns the major number of a packed device number.
func Major(rdev uint32) uint32 { return rdev >> 8 & MaxMajor }

// Minor returns the minor number of a packed device number.
func Minor(rdev uint32) uint32 { return rdev&0xff | rdev>>12&0xfff00 }
