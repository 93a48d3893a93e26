package layer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// Tree is what a layer's tar holds, as overlayfs wants to see it: a whiteout is
// a character device 0:0, an opaque directory has trusted.overlay.opaque="y".
type Tree struct {
	// Root has the directory the layer is mounted as. Entries are sorted. Files'
	// extents point into device 1, the tar. An opaque root hides all layers below,
	// but overlayfs does not look at the root's xattrs: whoever stacks the layers
	// must not put others below it.
	Root    *erofs.Inode
	TarSize int64 // bytes of the whole tar, with all that follows its end mark
	Entries int   // headers in the tar
	Size    int64 // bytes of all headers' files, holes included

	placed *holes.Map // what extents point into, if it is not the tar as it arrived
}

// Opaque tells whether the layer hides all layers below it.
func (t *Tree) Opaque() bool {
	return slices.ContainsFunc(t.Root.Xattrs, func(x erofs.Xattr) bool { return x.Name == XattrOpaque })
}

// node is a name in the tree while it is built.
type node struct {
	inode *erofs.Inode
	dir   *directory // nil unless the inode is a directory
	link  *link      // of a hard link whose target has not come yet: there is no inode
}

// directory is what a tar said of a directory's contents so far.
type directory struct {
	children  map[string]*node
	whiteouts []string // names, perhaps also in children, perhaps twice
	opaque    bool
}

func (n *node) isDir() bool { return n.dir != nil }

func (n *node) isSymlink() bool {
	return n.inode != nil && n.inode.Mode&erofs.ModeType == erofs.ModeSymlink
}

// emit fills in the entries of the directory n and all below. What is only in
// the tree for hard links to it, AUFS's own files, is left out.
func (n *node) emit() {
	slices.Sort(n.dir.whiteouts)
	n.dir.whiteouts = slices.Compact(n.dir.whiteouts)
	entries := make([]erofs.Entry, 0, len(n.dir.children)+len(n.dir.whiteouts))
	whiteouts := false
	for name, child := range n.dir.children {
		if isMetadata(name) {
			continue
		}
		if child.isDir() {
			_, hidden := slices.BinarySearch(n.dir.whiteouts, name)
			child.dir.opaque = child.dir.opaque || hidden
			child.emit()
		}
		whiteouts = whiteouts || isWhiteoutInode(child.inode)
		entries = append(entries, erofs.Entry{Name: name, Inode: child.inode})
	}
	for _, name := range n.dir.whiteouts {
		if _, real := n.dir.children[name]; !real {
			entries = append(entries, erofs.Entry{Name: name, Inode: newWhiteout()})
			whiteouts = true
		}
	}
	if whiteouts {
		n.inode.Xattrs = append(n.inode.Xattrs, erofs.Xattr{Name: XattrOrigin})
	}
	slices.SortFunc(entries, func(a, b erofs.Entry) int { return strings.Compare(a.Name, b.Name) })
	n.inode.Entries = entries
	if n.dir.opaque {
		n.inode.Xattrs = append(n.inode.Xattrs, erofs.Xattr{Name: XattrOpaque, Value: []byte("y")})
	}
}

// path is the components of an entry's name.
type path []string

func (p path) String() string { return strings.Join(p, "/") }

func (p path) quote() string { return tarfile.Quote(p.String()) }

// parsePath splits name, without "." and empty components, into p's space. What
// would lead out of the tree, or would have to be resolved to know, is refused.
func parsePath(p path, name string, limits *Limits) (path, error) {
	p = p[:0]
	if strings.HasPrefix(name, "/") {
		return nil, fmt.Errorf("%w: an absolute name", ErrUnsafe)
	}
	for rest := name; rest != ""; {
		var component string
		component, rest, _ = strings.Cut(rest, "/")
		switch {
		case component == "" || component == ".":
			continue
		case component == "..":
			return nil, fmt.Errorf("%w: \"..\" in the name", ErrUnsafe)
		case len(component) > limits.Component:
			return nil, fmt.Errorf("%w: a component of %d bytes, more than %d", ErrLimit, len(component), limits.Component)
		}
		p = append(p, component)
	}
	return p, nil
}
