package layer

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tarnfs/tarn/layer/tarfile"
)

// What is wrong with the target of a hard link.
var (
	errItself    = errors.New("it is the link itself")
	errDirectory = errors.New("it is a directory")
	errLoop      = errors.New("the links go in a loop")
	errAbsent    = errors.New("it is not in this layer")
)

// link is a hard link to a name that the tar did not have when the link came.
type link struct {
	name, target string // as the tar has them
	awaited      string // the name whose file it will be: target, or what a link of that name waits for
}

func (l *link) fail(err error) error { return tarfile.EntryError(l.name, linkError(l.target, err)) }

func linkError(target string, err error) error {
	return fmt.Errorf("%w to %s: %w", ErrLink, tarfile.Quote(target), err)
}

// addLink gives the file that target names now a second name. If there is none
// yet, the name it will have at the end of the tar counts.
func (s *scan) addLink(p path, target string) error {
	to, err := parsePath(s.target, target, &s.limits)
	if err != nil {
		return linkError(target, err)
	}
	s.target = to
	if slices.Equal(p, to) {
		return linkError(target, errItself)
	}
	found, err := s.lookup(to)
	if err != nil {
		return linkError(target, err)
	}
	parent, err := s.parent(p)
	if err != nil {
		return err
	}
	child := &node{}
	switch {
	case found == nil:
		child.link = &link{name: p.String(), target: target, awaited: target}
	case found.link != nil:
		child.link = &link{name: p.String(), target: target, awaited: found.link.awaited}
	default:
		child.inode = found.inode
	}
	return s.put(parent, p[len(p)-1], child)
}

// lookup returns the node named p, or nil if there is none. A directory is an
// error, and so is a path through something else.
func (s *scan) lookup(p path) (*node, error) {
	n := s.root
	for i, name := range p {
		child := n.dir.children[name]
		if child == nil {
			return nil, nil
		}
		if i < len(p)-1 && !child.isDir() {
			return nil, notDir(child, p[:i+1])
		}
		n = child
	}
	if n.isDir() {
		return nil, errDirectory
	}
	return n, nil
}

// resolveLinks finds the files of the links in dir and below whose targets came
// later than they did. AUFS's own links concern nobody.
func (s *scan) resolveLinks(dir *node) error {
	names := make([]string, 0, len(dir.dir.children))
	for name, child := range dir.dir.children {
		if !isMetadata(name) && (child.link != nil || child.isDir()) {
			names = append(names, name)
		}
	}
	slices.Sort(names) // the same tar, the same error
	for _, name := range names {
		child := dir.dir.children[name]
		if child.isDir() {
			if err := s.resolveLinks(child); err != nil {
				return err
			}
		} else if err := s.resolveLink(child); err != nil {
			return err
		}
	}
	return nil
}

// resolveLink follows a chain of links to its file and gives it to all of them.
func (s *scan) resolveLink(n *node) error {
	var chain []*node
	seen := make(map[*node]bool)
	first := n.link
	for n.link != nil {
		if seen[n] {
			return first.fail(errLoop)
		}
		seen[n] = true
		chain = append(chain, n)
		to, err := parsePath(s.target, n.link.awaited, &s.limits)
		if err != nil {
			return first.fail(err)
		}
		s.target = to
		target, err := s.lookup(to)
		if err == nil && target == nil {
			err = errAbsent
		}
		if err != nil {
			return first.fail(err)
		}
		n = target
	}
	for _, linked := range chain {
		linked.inode, linked.link = n.inode, nil
	}
	return nil
}
