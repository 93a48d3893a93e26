package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	gopath "path" // the package has a type of that name

	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// ExtractOptions of Extract. The zero value is right for a layer.
type ExtractOptions struct {
	Limits Limits
	// UserNamespace makes what root of a user namespace can make, for overlayfs with the option "userxattr":
	// devices are left out, and attributes that only the machine's root can set.
	UserNamespace bool
}

// Extract makes files, in the empty directory dir, of the tar of a layer: the same tree that an
// index of the tar shows, with whiteouts and opaque directories as overlayfs wants them. dir itself
// gets the owner, mode, time and attributes of the layer's root. The tar is scanned before anything
// is made, so the errors are those of Scan, or the file system's with the path they are about; in
// the second case the caller removes what is there. Nothing is synced.
func Extract(ctx context.Context, tar *holes.Tar, dir *os.File, opts ExtractOptions) error {
	tree, err := Scan(io.NewSectionReader(tar, 0, tar.Size()), opts.Limits)
	if err != nil {
		return err
	}
	return materialize(ctx, tree, tar, dir, opts.UserNamespace)
}

// Materialize makes files, in the empty directory dir, of a tree that was scanned from tar. Extract
// says the rest. Every name is made and reached below dir through directory descriptors that
// follow no link.
func Materialize(ctx context.Context, tree *Tree, tar *holes.Tar, dir *os.File) error {
	return materialize(ctx, tree, tar, dir, false)
}

func materialize(ctx context.Context, tree *Tree, tar *holes.Tar, dir *os.File, userNamespace bool) error {
	if err := tree.place(tar.Map); err != nil {
		return err
	}
	root, err := sys.OpenBeneath(dir, ".", sys.OpenDirectory)
	if err != nil {
		return err
	}
	defer root.Close()
	m := &materializer{devices: tar.Devices, root: root, userNamespace: userNamespace, names: make(map[*erofs.Inode]int), first: make(map[*erofs.Inode]string)}
	m.countNames(tree.Root)
	if err := m.entries(ctx, root, "", tree.Root); err != nil {
		return err
	}
	return wrapPath(".", m.setMetadata(root, tree.Root))
}

type materializer struct {
	devices []*os.File // what extents point into
	root    *os.File
	names   map[*erofs.Inode]int    // how many names a file has
	first   map[*erofs.Inode]string // the first of several names
	// userNamespace is as in [ExtractOptions].
	userNamespace bool
	copySlow      bool // the kernel does not copy from the tar by itself
}

func (m *materializer) countNames(dir *erofs.Inode) {
	for _, e := range dir.Entries {
		if e.Inode.Mode&erofs.ModeType == erofs.ModeDir {
			m.countNames(e.Inode)
		} else {
			m.names[e.Inode]++
		}
	}
}

func (m *materializer) entries(ctx context.Context, dir *os.File, dirPath string, inode *erofs.Inode) error {
	for _, e := range inode.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := m.entry(ctx, dir, dirPath, e); err != nil {
			return err
		}
	}
	return nil
}

func (m *materializer) entry(ctx context.Context, dir *os.File, dirPath string, e erofs.Entry) error {
	at := gopath.Join(dirPath, e.Name)
	if e.Inode.Mode&erofs.ModeType == erofs.ModeDir {
		return m.directory(ctx, dir, at, e)
	}
	if first, ok := m.first[e.Inode]; ok {
		err := m.link(first, dir, e.Name)
		if m.userNamespace && errors.Is(err, fs.ErrNotExist) {
			return nil // a device that was left out
		}
		return wrapPath(at, err)
	}
	if m.names[e.Inode] > 1 {
		m.first[e.Inode] = at
	}
	return wrapPath(at, m.file(dir, e))
}

// directory gets its metadata when all its entries are made: its time would not last otherwise,
// and a default ACL or a set-group-ID bit would come to the entries.
func (m *materializer) directory(ctx context.Context, dir *os.File, at string, e erofs.Entry) error {
	if err := sys.MakeDir(dir, e.Name, 0o700); err != nil {
		return wrapPath(at, err)
	}
	made, err := sys.OpenBeneath(dir, e.Name, sys.OpenDirectory)
	if err != nil {
		return wrapPath(at, err)
	}
	defer made.Close()
	if err := m.entries(ctx, made, at, e.Inode); err != nil {
		return err
	}
	return wrapPath(at, m.setMetadata(made, e.Inode))
}

func (m *materializer) link(first string, dir *os.File, name string) error {
	parent, err := sys.OpenBeneath(m.root, gopath.Dir(first), sys.OpenDirectory)
	if err != nil {
		return err
	}
	defer parent.Close()
	return sys.LinkEntry(parent, gopath.Base(first), dir, name)
}

func (m *materializer) file(dir *os.File, e erofs.Entry) error {
	inode := e.Inode
	switch inode.Mode & erofs.ModeType {
	case erofs.ModeChar, erofs.ModeBlock:
		if m.userNamespace && !isWhiteoutInode(inode) {
			return nil
		}
	default:
	}
	switch inode.Mode & erofs.ModeType {
	case erofs.ModeRegular:
		return m.regular(dir, e)
	case erofs.ModeSymlink:
		if err := sys.MakeSymlink(dir, e.Name, inode.Target); err != nil {
			return err
		}
	default:
		err := sys.MakeNode(dir, e.Name, inode.Mode&erofs.ModeType|0o600, erofs.Major(inode.Rdev), erofs.Minor(inode.Rdev))
		if err != nil {
			return err
		}
	}
	made, err := sys.OpenBeneath(dir, e.Name, sys.OpenNoFollow)
	if err != nil {
		return err
	}
	defer made.Close()
	return m.setMetadata(made, inode)
}

func (m *materializer) regular(dir *os.File, e erofs.Entry) (err error) {
	f, err := sys.CreateEntry(dir, e.Name, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	end := int64(0)
	for _, extent := range e.Inode.Extents {
		if err := m.copyExtent(f, extent); err != nil {
			return err
		}
		end = extent.Logical + extent.Length
	}
	if end < e.Inode.Size {
		if err := f.Truncate(e.Inode.Size); err != nil {
			return err
		}
	}
	return m.setMetadata(f, e.Inode)
}

func (m *materializer) copyExtent(f *os.File, extent erofs.Extent) error {
	from := m.devices[extent.Device-tarDevice]
	if !m.copySlow {
		n, err := sys.CopyRange(f, extent.Logical, from, extent.Physical, extent.Length)
		if err == nil && n < extent.Length {
			return tarfile.ErrTruncated
		}
		if !errors.Is(err, sys.ErrNoCopy) {
			return err
		}
		m.copySlow = true
	}
	n, err := io.Copy(io.NewOffsetWriter(f, extent.Logical), io.NewSectionReader(from, extent.Physical, extent.Length))
	if err == nil && n < extent.Length {
		return tarfile.ErrTruncated
	}
	return err
}

// setMetadata gives a file all that an inode has but its contents. The order matters: chown takes
// away set-user-ID bits and capabilities, and an ACL changes permission bits.
func (m *materializer) setMetadata(f *os.File, inode *erofs.Inode) error {
	if err := sys.ChownFile(f, inode.UID, inode.GID); err != nil {
		return err
	}
	for _, x := range inode.Xattrs {
		if m.userNamespace {
			if x.Name = inUserNamespace(x.Name); x.Name == "" {
				continue
			}
		}
		if err := sys.SetHandleXattr(f, x.Name, x.Value); err != nil {
			return err
		}
	}
	if inode.Mode&erofs.ModeType != erofs.ModeSymlink {
		if err := sys.ChmodFile(f, inode.Mode&0o7777); err != nil {
			return err
		}
	}
	return sys.SetMtime(f, inode.Sec, inode.Nsec)
}

func wrapPath(at string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("extract %q: %w", at, err)
}
