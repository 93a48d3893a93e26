// Package layer turns the tar of an image's layer into the tree that the kernel
// mounts, and back.
package layer

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// Errors of Scan, wrapped with the entry they are about. A tar that is damaged
// gives tarfile.ErrMalformed or tarfile.ErrTruncated.
var (
	// ErrUnsafe is an entry that would reach out of the tree or through a link.
	ErrUnsafe = errors.New("unsafe entry")
	// ErrLink is a hard link to what is not in the tar or cannot have two names.
	ErrLink = errors.New("bad hard link")
	// ErrUnsupported is an entry of a kind that no file on Linux has.
	ErrUnsupported = errors.New("not supported")
	// ErrLimit is tarfile.ErrLimit.
	ErrLimit = tarfile.ErrLimit
)

// Scan reads the tar of a layer, from where r is to its end, and returns the tree
// that extracting it entry by entry would make. It keeps names and metadata, and
// passes over contents (tarfile.Reader says how an input can spare reading them).
//
// docs/format.md, "From a tar to an index", has the rules in full.
func Scan(r io.Reader, limits Limits) (*Tree, error) {
	return ScanContents(r, limits, nil)
}

// ScanContents is Scan that shows contents on the way: for each entry that has some stored, visit is
// told where they lie in the tar, in bytes, and as many of their first bytes as it says are written to
// what it returns. An error of that writer ends the scan.
func ScanContents(r io.Reader, limits Limits, visit func(offset, length int64) (io.Writer, int64)) (*Tree, error) {
	limits = limits.WithDefaults()
	s := &scan{reader: tarfile.NewReader(r, limits.Limits), limits: limits}
	s.root = s.newDir(nil)
	for {
		h, err := s.reader.Next()
		if errors.Is(err, io.EOF) {
			return s.finish()
		}
		if err != nil {
			return nil, err
		}
		s.tree.Entries++
		if err := s.add(h); err != nil {
			return nil, tarfile.EntryError(h.Name, err)
		}
		if visit == nil || h.PackedSize == 0 {
			continue
		}
		if w, n := visit(h.DataOffset, h.PackedSize); n > 0 {
			if err := s.reader.WritePacked(w, n); err != nil {
				return nil, err
			}
		}
	}
}

// scan is the tree while its tar is read.
type scan struct {
	reader *tarfile.Reader
	limits Limits
	tree   Tree
	root   *node
	names  int // made so far: of entries, of parents they imply, of whiteouts
	path   path
	target path
	acls   []pendingACL
	slab   []slot // room for what comes next
}

// slot is what most entries need, allocated many at a time.
type slot struct {
	node   node
	inode  erofs.Inode
	extent [1]erofs.Extent
}

func (s *scan) newSlot() *slot {
	if len(s.slab) == 0 {
		s.slab = make([]slot, 64)
	}
	next := &s.slab[0]
	s.slab = s.slab[1:]
	return next
}

// newDir makes a directory with the inode given, or the one of a directory that
// the tar has no entry of.
func (s *scan) newDir(inode *erofs.Inode) *node {
	if inode == nil {
		inode = &erofs.Inode{Mode: erofs.ModeDir | 0o755}
	}
	return &node{inode: inode, dir: &directory{}}
}

func (s *scan) count() error {
	if s.names++; s.names > s.limits.Entries {
		return fmt.Errorf("%w: more than %d names in the tree", ErrLimit, s.limits.Entries)
	}
	return nil
}

// add puts an entry into the tree, over what was there before it.
func (s *scan) add(h *tarfile.Header) error {
	if h.Type == tarfile.TypeVolume {
		return nil
	}
	p, err := parsePath(s.path, h.Name, &s.limits)
	if err != nil {
		return err
	}
	s.path = p
	if h.Size > s.limits.TotalSize-s.tree.Size {
		return fmt.Errorf("%w: files of more than %d bytes together", ErrLimit, s.limits.TotalSize)
	}
	s.tree.Size += h.Size
	if isMarker, err := s.marker(p); isMarker {
		return err
	}
	if len(p) == 0 && h.Type != tarfile.TypeDir {
		return fmt.Errorf("%w: the root is not a directory", ErrUnsafe)
	}
	if h.Type == tarfile.TypeLink {
		return s.addLink(p, h.Linkname)
	}
	next := s.newSlot()
	inode, err := s.fillInode(next, h)
	if err != nil {
		return err
	}
	if len(p) == 0 {
		s.root.inode = inode
		return nil
	}
	parent, err := s.parent(p)
	if err != nil {
		return err
	}
	name := p[len(p)-1]
	child := &next.node
	child.inode = inode
	if h.Type == tarfile.TypeDir {
		if old := parent.dir.children[name]; old != nil && old.isDir() {
			old.inode = inode // new metadata, the same contents
			return nil
		}
		child.dir = &directory{}
	}
	return s.put(parent, name, child)
}

// put sets a name of a directory, and drops what it was before.
func (s *scan) put(parent *node, name string, child *node) error {
	if parent.dir.children == nil {
		parent.dir.children = make(map[string]*node)
	}
	if parent.dir.children[name] == nil {
		if err := s.count(); err != nil {
			return err
		}
	}
	parent.dir.children[name] = child
	return nil
}

// parent returns the directory that p lies in, made if the tar had no entry of it.
func (s *scan) parent(p path) (*node, error) {
	dir := s.root
	for i, name := range p[:len(p)-1] {
		child := dir.dir.children[name]
		if child == nil {
			if strings.HasPrefix(name, WhiteoutPrefix) && !isMetadata(name) {
				return nil, fmt.Errorf("%w: below the whiteout %s", ErrUnsafe, p[:i+1].quote())
			}
			child = s.newDir(nil)
			if err := s.put(dir, name, child); err != nil {
				return nil, err
			}
		}
		if !child.isDir() {
			return nil, notDir(child, p[:i+1])
		}
		dir = child
	}
	return dir, nil
}

func notDir(n *node, p path) error {
	if n.isSymlink() {
		return fmt.Errorf("%w: below the symbolic link %s", ErrUnsafe, p.quote())
	}
	return fmt.Errorf("%w: below %s, which is not a directory", ErrUnsafe, p.quote())
}

// finish makes a Tree of what was read.
func (s *scan) finish() (*Tree, error) {
	if err := s.resolveLinks(s.root); err != nil {
		return nil, err
	}
	if err := s.resolveACLs(); err != nil {
		return nil, err
	}
	s.root.emit()
	size, err := s.reader.Size()
	if err != nil {
		return nil, fmt.Errorf("tar: behind its last entry: %w", err)
	}
	s.tree.Root, s.tree.TarSize = s.root.inode, size
	return &s.tree, nil
}
