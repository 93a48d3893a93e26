package layer

import (
	"fmt"
	"strings"

	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// tarDevice is the number of the tar among the index's devices: of the layer's own file, once the
// tree is placed; those of lenders follow.
const tarDevice = 1

// fillInode makes the inode of an entry, in the space of next.
func (s *scan) fillInode(next *slot, h *tarfile.Header) (*erofs.Inode, error) {
	inode := &next.inode
	*inode = erofs.Inode{Mode: h.Mode, UID: h.UID, GID: h.GID, Sec: h.Sec, Nsec: h.Nsec}
	switch h.Type {
	case tarfile.TypeReg:
		inode.Mode |= erofs.ModeRegular
		inode.Size = h.Size
		inode.Extents = extents(next.extent[:0], h)
	case tarfile.TypeDir:
		inode.Mode |= erofs.ModeDir
	case tarfile.TypeSymlink:
		inode.Mode = erofs.ModeSymlink | 0o777 // Linux knows no other
		inode.Target = h.Linkname
		if h.Linkname == "" {
			return nil, fmt.Errorf("%w: a symbolic link to nothing", ErrUnsafe)
		}
	case tarfile.TypeFifo:
		inode.Mode |= erofs.ModeFifo
	case tarfile.TypeChar, tarfile.TypeBlock:
		inode.Mode |= erofs.ModeChar
		if h.Type == tarfile.TypeBlock {
			inode.Mode = h.Mode | erofs.ModeBlock
		}
		if h.Devmajor > erofs.MaxMajor || h.Devminor > erofs.MaxMinor {
			return nil, fmt.Errorf("%w: device %d:%d", ErrUnsupported, h.Devmajor, h.Devminor)
		}
		inode.Rdev = erofs.MakeDev(h.Devmajor, h.Devminor)
	default:
		return nil, fmt.Errorf("%w: type %q", ErrUnsupported, h.Type)
	}
	for _, acl := range h.ACLs {
		s.acls = append(s.acls, pendingACL{h.Name, inode, acl})
	}
	var err error
	inode.Xattrs, err = xattrs(inode.Mode, h.Xattrs)
	return inode, err
}

func extents(room []erofs.Extent, h *tarfile.Header) []erofs.Extent {
	if h.Sparse == nil {
		if h.Size == 0 {
			return nil
		}
		return append(room, erofs.Extent{Length: h.Size, Device: tarDevice, Physical: h.DataOffset})
	}
	all := make([]erofs.Extent, 0, len(h.Sparse))
	physical := h.DataOffset
	for _, segment := range h.Sparse {
		all = append(all, erofs.Extent{Logical: segment.Offset, Length: segment.Length, Device: tarDevice, Physical: physical})
		physical += segment.Length
	}
	return all
}

// xattrs returns those attributes that Linux lets a file of this mode have. The
// ones that would steer overlayfs are escaped, so that it only shows them.
func xattrs(mode uint32, stored []tarfile.Xattr) ([]erofs.Xattr, error) {
	if len(stored) == 0 {
		return nil, nil
	}
	kept := make([]erofs.Xattr, 0, len(stored)+1)
	for _, x := range stored {
		name := x.Name
		if after, ok := strings.CutPrefix(name, xattrOverlay); ok {
			name = xattrEscape + after
		}
		if len(name) > erofs.MaxName || len(x.Value) > erofs.MaxXattrValue {
			return nil, fmt.Errorf("%w: extended attribute %.40q with a name of %d and a value of %d bytes",
				ErrLimit, name, len(name), len(x.Value))
		}
		if erofs.SupportsXattr(mode, name) {
			kept = append(kept, erofs.Xattr{Name: name, Value: x.Value})
		}
	}
	return kept, nil
}

// pendingACL waits until the whole tar has told whose numbers its owners have.
type pendingACL struct {
	entry string
	inode *erofs.Inode
	acl   tarfile.ACL
}

func (s *scan) resolveACLs() error {
	for _, p := range s.acls {
		x, err := s.reader.ResolveACL(p.acl)
		if err != nil {
			return tarfile.EntryError(p.entry, err)
		}
		p.inode.Xattrs = append(p.inode.Xattrs, erofs.Xattr(x))
	}
	return nil
}
