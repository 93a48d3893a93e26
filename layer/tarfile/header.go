// Package tarfile reads and writes tar archives as they lie on disk: where
// each header and each piece of contents is, which bytes of a file are holes,
// and every name as the bytes it was stored as.
//
// It reads v7, POSIX ustar, GNU (long names, base-256 numbers, sparse files),
// star and PAX archives, and writes ustar with PAX records where ustar cannot
// hold a value. Sources: POSIX.1-2017 "pax" (ustar and pax interchange
// formats), the GNU tar manual "Basic Tar Format" and "Storing Sparse Files",
// star(5), and libarchive's tar(5).
package tarfile

import (
	"errors"
	"io"
)

// Errors a Reader or Writer returns, wrapped with the entry they are about.
var (
	ErrMalformed = errors.New("malformed tar")
	ErrTruncated = errors.New("tar is cut short")
	ErrLimit     = errors.New("limit exceeded")
)

// BlockSize is the unit of a tar: headers and contents start at its multiples.
const BlockSize = 512

// Types of entries. A Reader reports the old forms under the new ones: '\0',
// '7' (contiguous) and 'S' (GNU sparse) as TypeReg, and a regular entry whose
// name ends in a slash as TypeDir. Any other type byte is passed on as it is.
const (
	TypeReg     = '0'
	TypeLink    = '1' // hard link to the entry named Linkname
	TypeSymlink = '2'
	TypeChar    = '3'
	TypeBlock   = '4'
	TypeDir     = '5'
	TypeFifo    = '6'
	TypeVolume  = 'V' // GNU volume label: names the archive, is no file
)

// Header describes one entry.
type Header struct {
	Name     string // as stored, any bytes but NUL: "./etc/", "etc", "/etc"
	Type     byte
	Linkname string // of hard and symbolic links, as stored
	Mode     uint32 // permission bits, 07777
	UID, GID uint32
	Uname    string
	Gname    string
	Size     int64  // bytes of contents with the holes; 0 unless TypeReg
	Sec      int64  // mtime, seconds since 1970
	Nsec     uint32 // mtime, nanoseconds, 0 to 999999999

	Devmajor, Devminor uint32 // of TypeChar and TypeBlock

	// Xattrs are sorted by full name ("user.a") without duplicates. POSIX ACLs
	// stand among them in the kernel's binary form, as system.posix_acl_access
	// and system.posix_acl_default.
	Xattrs []Xattr
	// ACLs are those whose user or group names are not known yet;
	// Reader.ResolveACL turns them into an Xattr. A Writer does not take them.
	ACLs []ACL

	// Sparse is nil for a file stored whole, else its data segments,
	// ascending, none empty; what lies between them and up to Size is a hole.
	// It is not nil but empty for a file that is one hole.
	Sparse []Segment

	// Records are the PAX records of this entry that no field above holds, in
	// the order of the archive. A Writer writes them as well.
	Records []Record

	// Where the entry lies, in bytes from the start of the tar. A Writer
	// fills them in.
	Offset     int64 // its first header block, the one of a PAX header or long name if it has one
	DataOffset int64 // its stored contents, a multiple of BlockSize
	PackedSize int64 // bytes of stored contents: Size without the holes
}

// Segment is a run of data in a sparse file.
type Segment struct {
	Offset, Length int64 // in the file
}

// Xattr is an extended attribute.
type Xattr struct {
	Name  string // with its namespace: "user.a"
	Value []byte
}

// Record is a PAX record.
type Record struct {
	Key, Value string
}

// ACL is a POSIX ACL as text.
type ACL struct {
	Name string // of the xattr it will become: system.posix_acl_access or system.posix_acl_default
	Text string // as in acl(5): "user::rwx,user:lisa:rw-,..."
}

// Contents opens the contents of h, holes included, in the tar it was read from.
func (h *Header) Contents(tar io.ReaderAt) *io.SectionReader {
	if h.Sparse == nil {
		return io.NewSectionReader(tar, h.DataOffset, h.Size)
	}
	return io.NewSectionReader(newSparseContents(tar, h), 0, h.Size)
}

// End is the offset just behind the entry and its padding, where the next
// entry's header or the end of the archive is.
func (h *Header) End() int64 {
	return roundUp(h.DataOffset + h.PackedSize)
}

func roundUp(n int64) int64 {
	return (n + BlockSize - 1) &^ (BlockSize - 1)
}
