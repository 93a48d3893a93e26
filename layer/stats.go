package layer

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/tarnfs/tarn/erofs"
)

// Counts is what a layer does to the layers below. Files are of all kinds but directories, and
// count once for each of their names.
type Counts struct {
	Added, Changed, Deleted int
	Bytes                   int64 // of the layer's regular files, holes included, each once
}

// Stats counts what the layer of an index does to those of the indexes below it, the topmost first.
// It reads nothing but the indexes.
func Stats(index *erofs.Image, below []*erofs.Image) (Counts, error) {
	s := &counting{sized: make(map[uint64]bool)}
	root, err := index.Root()
	if err != nil {
		return Counts{}, err
	}
	lower, err := mergedRoot(below)
	if err != nil {
		return Counts{}, err
	}
	if err := s.directory(root, lower, false, 0); err != nil {
		return Counts{}, fmt.Errorf("count a layer's files: %w", err)
	}
	return s.Counts, nil
}

// maxDepth is more than any tree that Scan takes has; only a damaged index has loops.
const maxDepth = 1 << 15

// merged is a directory of several layers, as overlayfs shows it: the topmost first.
type merged []*erofs.Node

func mergedRoot(images []*erofs.Image) (merged, error) {
	var m merged
	for _, image := range images {
		root, err := image.Root()
		if err != nil {
			return nil, err
		}
		m = append(m, root)
		if opaque, err := isOpaque(root); err != nil || opaque {
			return m, err
		}
	}
	return m, nil
}

// lookup finds name: a file, or, if it is a directory, all that are merged. Both are nil if there
// is nothing.
func (m merged) lookup(name string) (file *erofs.Node, dir merged, err error) {
	for _, layer := range m {
		node, err := layer.Lookup(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if node.Mode&erofs.ModeType != erofs.ModeDir {
			if dir == nil && !isWhiteoutNode(node) {
				file = node
			}
			return file, dir, nil
		}
		dir = append(dir, node)
		if opaque, err := isOpaque(node); err != nil || opaque {
			return nil, dir, err
		}
	}
	return nil, dir, nil
}

// files counts the files of m and below, but not those whose name is in except.
func (m merged) files(except map[string]bool, depth int) (int, error) {
	if depth > maxDepth {
		return 0, erofs.ErrCorrupt
	}
	total := 0
	seen := make(map[string]bool)
	for _, layer := range m {
		for entry, err := range layer.Entries() {
			if err != nil {
				return 0, err
			}
			if seen[entry.Name] || except[entry.Name] {
				continue
			}
			seen[entry.Name] = true
			n, err := m.filesAt(entry.Name, depth)
			if err != nil {
				return 0, err
			}
			total += n
		}
	}
	return total, nil
}

// filesAt counts the files at name and below.
func (m merged) filesAt(name string, depth int) (int, error) {
	file, dir, err := m.lookup(name)
	switch {
	case err != nil:
		return 0, err
	case file != nil:
		return 1, nil
	case dir != nil:
		return dir.files(nil, depth+1)
	}
	return 0, nil
}

type counting struct {
	Counts
	sized map[uint64]bool // files with several names whose bytes are counted
}

// directory counts a directory of the layer over the one below. hidden: nothing of that shows
// through.
func (s *counting) directory(dir *erofs.Node, below merged, hidden bool, depth int) error {
	if depth > maxDepth {
		return erofs.ErrCorrupt
	}
	opaque, err := isOpaque(dir)
	if err != nil {
		return err
	}
	hidden = hidden || opaque
	present := make(map[string]bool)
	for entry, err := range dir.Entries() {
		if err != nil {
			return err
		}
		node, err := dir.Lookup(entry.Name)
		if err != nil {
			return err
		}
		present[entry.Name] = true
		if err := s.entry(entry.Name, node, below, hidden, depth); err != nil {
			return err
		}
	}
	if hidden {
		n, err := below.files(present, depth)
		s.Deleted += n
		return err
	}
	return nil
}

func (s *counting) entry(name string, node *erofs.Node, below merged, hidden bool, depth int) error {
	file, dir, err := below.lookup(name)
	if err != nil {
		return err
	}
	if node.Mode&erofs.ModeType == erofs.ModeDir {
		if file != nil {
			s.Deleted++
		}
		return s.directory(node, dir, hidden, depth+1)
	}
	lost, err := dir.files(nil, depth+1)
	if err != nil {
		return err
	}
	s.Deleted += lost
	switch {
	case isWhiteoutNode(node) && file != nil:
		s.Deleted++
	case isWhiteoutNode(node):
	case file != nil:
		s.Changed++
	default:
		s.Added++
	}
	if node.Mode&erofs.ModeType == erofs.ModeRegular && !s.sized[node.NID] {
		s.Bytes += node.Size
		if node.Nlink > 1 {
			s.sized[node.NID] = true
		}
	}
	return nil
}

func isWhiteoutNode(n *erofs.Node) bool {
	return n.Mode&erofs.ModeType == erofs.ModeChar && n.Rdev == erofs.MakeDev(0, 0)
}

func isOpaque(n *erofs.Node) (bool, error) {
	xattrs, err := n.Xattrs()
	if err != nil {
		return false, err
	}
	for _, x := range xattrs {
		if x.Name == XattrOpaque && string(x.Value) == "y" {
			return true, nil
		}
	}
	return false, nil
}
