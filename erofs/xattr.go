package erofs

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

const (
	xattrHeader = 12 // struct erofs_xattr_ibody_header
	xattrEntry  = 4  // struct erofs_xattr_entry
	maxXattrs   = xattrHeader + 4*(1<<16-2)
)

// xattrPrefix is one of EROFS_XATTR_INDEX_*: names are stored without it.
type xattrPrefix struct {
	index  byte
	prefix string
	whole  bool // the prefix is the whole name
	on     func(fileType uint32) bool
}

// xattrPrefixes says which attributes there are, and on which kinds of files
// Linux lets them be set and read (xattr(7), acl(5)): an image with others
// would list attributes that cannot be read, and overlayfs could not copy the
// file up.
func xattrPrefixes() [5]xattrPrefix {
	all := func(uint32) bool { return true }
	return [...]xattrPrefix{
		{index: 1, prefix: "user.", on: func(t uint32) bool { return t == ModeRegular || t == ModeDir }},
		{index: 2, prefix: "system.posix_acl_access", whole: true, on: func(t uint32) bool { return t != ModeSymlink }},
		{index: 3, prefix: "system.posix_acl_default", whole: true, on: func(t uint32) bool { return t == ModeDir }},
		{index: 4, prefix: "trusted.", on: all},
		{index: 6, prefix: "security.", on: all},
	}
}

// SupportsXattr reports whether a file of this mode (only its type matters) can
// have an extended attribute of this name: trusted.*, security.*, user.* on
// regular files and directories, and the two POSIX ACLs where Linux has them.
// Write refuses others.
func SupportsXattr(mode uint32, name string) bool {
	_, _, ok := splitXattr(mode, name)
	return ok
}

func splitXattr(mode uint32, name string) (index byte, suffix string, ok bool) {
	for _, p := range xattrPrefixes() {
		suffix, found := strings.CutPrefix(name, p.prefix)
		if found && p.whole == (suffix == "") && len(name) <= MaxName && strings.IndexByte(suffix, 0) < 0 {
			return p.index, suffix, p.on(mode & ModeType)
		}
	}
	return 0, "", false
}

func joinXattr(mode uint32, index byte, suffix string) (name string, ok bool) {
	for _, p := range xattrPrefixes() {
		if p.index == index {
			name = p.prefix + suffix
			return name, SupportsXattr(mode, name)
		}
	}
	return "", false
}

// sortXattrs puts the attributes in order, checks them, and returns the size
// of their area after the inode.
func sortXattrs(mode uint32, xattrs []Xattr) (int64, error) {
	if len(xattrs) == 0 {
		return 0, nil
	}
	slices.SortStableFunc(xattrs, func(a, b Xattr) int { return cmp.Compare(a.Name, b.Name) })
	size := int64(xattrHeader)
	for i, x := range xattrs {
		_, suffix, ok := splitXattr(mode, x.Name)
		switch {
		case !ok:
			return 0, fmt.Errorf("%w: %q cannot be set on a file of this kind", ErrXattr, x.Name)
		case len(x.Value) > MaxXattrValue:
			return 0, fmt.Errorf("%w: value of %q has %d bytes, more than %d", ErrXattr, x.Name, len(x.Value), MaxXattrValue)
		case i > 0 && xattrs[i-1].Name == x.Name:
			return 0, fmt.Errorf("%w: %q occurs twice", ErrXattr, x.Name)
		}
		size += roundUp(int64(xattrEntry+len(suffix)+len(x.Value)), 4)
	}
	if size > maxXattrs {
		return 0, fmt.Errorf("%w: they take %d bytes together, more than %d", ErrXattr, size, maxXattrs)
	}
	return size, nil
}

// appendXattrs appends the area of attributes that sortXattrs accepted.
func appendXattrs(b []byte, mode uint32, xattrs []Xattr) []byte {
	if len(xattrs) == 0 {
		return b
	}
	b = append(b, make([]byte, xattrHeader)...)
	for _, x := range xattrs {
		index, suffix, _ := splitXattr(mode, x.Name)
		b = append(b, byte(len(suffix)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(x.Value)))
		b = append(b, suffix...)
		b = append(b, x.Value...)
		used := xattrEntry + len(suffix) + len(x.Value)
		b = append(b, make([]byte, int(roundUp(int64(used), 4))-used)...)
	}
	return b
}

// parseXattrs is the inverse of appendXattrs, and strict.
func parseXattrs(b []byte, mode uint32) ([]Xattr, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) <= xattrHeader || [xattrHeader]byte(b) != [xattrHeader]byte{} {
		return nil, fmt.Errorf("%w: header of the extended attributes", ErrCorrupt)
	}
	var xattrs []Xattr
	for rest := b[xattrHeader:]; len(rest) > 0; {
		if len(rest) < xattrEntry {
			return nil, fmt.Errorf("%w: extended attributes are cut off", ErrCorrupt)
		}
		nameLen, valueLen := int(rest[0]), int(binary.LittleEndian.Uint16(rest[2:]))
		used := xattrEntry + nameLen + valueLen
		whole := int(roundUp(int64(used), 4))
		if whole > len(rest) {
			return nil, fmt.Errorf("%w: extended attributes are cut off", ErrCorrupt)
		}
		name, ok := joinXattr(mode, rest[1], string(rest[xattrEntry:xattrEntry+nameLen]))
		if !ok {
			return nil, fmt.Errorf("%w: extended attribute of index %d", ErrCorrupt, rest[1])
		}
		if len(xattrs) > 0 && xattrs[len(xattrs)-1].Name >= name {
			return nil, fmt.Errorf("%w: extended attribute %q is out of order", ErrCorrupt, name)
		}
		xattrs = append(xattrs, Xattr{Name: name, Value: slices.Clone(rest[xattrEntry+nameLen : used])})
		rest = rest[whole:]
	}
	return xattrs, nil
}
