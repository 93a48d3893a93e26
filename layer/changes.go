package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// ChangeKind says what became of a path. It is the letter that people are shown.
type ChangeKind byte

// The kinds of changes.
const (
	Added   ChangeKind = 'A'
	Changed ChangeKind = 'C'
	Deleted ChangeKind = 'D'
)

// String is the letter.
func (k ChangeKind) String() string { return string(rune(k)) }

// Change is one path that is not as it was.
type Change struct {
	Path string // from the root, with a leading slash
	Kind ChangeKind
}

// ChangesOptions of Changes.
type ChangesOptions struct {
	// Exclude names paths from the root ("etc/hosts") that are left out with all below them.
	Exclude []string
	// Owner is as in [PackOptions].
	Owner func(uid, gid uint32) (uint32, uint32)
}

// Changes tells what differs between src.Lower and the merged tree, in bytewise order of paths. It is
// what Docker tells: of a deleted directory only itself; the directories above a change as Changed;
// a directory of which just the time differs not at all; the root never. What is in the upper but
// in nothing different from below is not told either.
func Changes(ctx context.Context, src PackSource, opts ChangesOptions) ([]Change, error) {
	walk, top, err := newWalk(src, opts.Exclude)
	if err != nil {
		return nil, err
	}
	defer top.close()
	walk.tellHidden, walk.owner = true, opts.Owner
	c := &changes{walk: walk, kinds: make(map[string]ChangeKind)}
	if err := walk.directory(ctx, top, func(s *step) error { return c.step(ctx, s) }); err != nil {
		return nil, err
	}
	return c.sorted(), nil
}

type changes struct {
	walk  *walk
	kinds map[string]ChangeKind
}

func (c *changes) sorted() []Change {
	all := make([]Change, 0, len(c.kinds))
	for path, kind := range c.kinds {
		all = append(all, Change{"/" + path, kind})
	}
	slices.SortFunc(all, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return all
}

// note records a change, and with it the directories above.
func (c *changes) note(path string, kind ChangeKind) {
	c.kinds[path] = kind
	for {
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return
		}
		path = path[:i]
		if _, known := c.kinds[path]; known {
			return
		}
		c.kinds[path] = Changed
	}
}

func (c *changes) step(ctx context.Context, s *step) error {
	if s.kind != stepNode {
		below, err := s.parent.lowerHas(s.name)
		if below {
			c.note(s.path, Deleted)
		}
		return err
	}
	kind, err := c.compare(ctx, s)
	if err != nil {
		return fmt.Errorf("compare %q: %w", "/"+s.path, err)
	}
	if kind != 0 {
		c.note(s.path, kind)
	}
	return nil
}

// compare says how a file differs from the one below; 0: it doesn't.
func (c *changes) compare(ctx context.Context, s *step) (ChangeKind, error) {
	if s.parent.lower == nil {
		return Added, nil
	}
	handle, err := sys.OpenBeneath(s.parent.lower, s.name, sys.OpenNoFollow)
	if errors.Is(err, fs.ErrNotExist) {
		return Added, nil
	}
	if err != nil {
		return 0, err
	}
	defer handle.Close()
	below, err := c.walk.describe(handle, false)
	if err != nil {
		return 0, err
	}
	if below.stat.IsWhiteout() {
		return Added, nil
	}
	if !c.walk.sameMetadata(s, below) {
		return Changed, nil
	}
	same, err := sameContents(ctx, s, below)
	if err != nil || same {
		return 0, err
	}
	return Changed, nil
}

// sameMetadata compares all that is not in the contents, for directories without the time.
func (w *walk) sameMetadata(a, b *step) bool {
	x, y := &a.stat, &b.stat
	same := x.Mode == y.Mode && x.UID == y.UID && x.GID == y.GID &&
		x.RdevMajor == y.RdevMajor && x.RdevMinor == y.RdevMinor &&
		(x.IsDir() || x.Size == y.Size && x.Sec == y.Sec && x.Nsec == y.Nsec)
	return same && slices.EqualFunc(w.shown(a.xattrs), w.shown(b.xattrs), func(a, b tarfile.Xattr) bool {
		return a.Name == b.Name && bytes.Equal(a.Value, b.Value)
	})
}

// shown leaves out what overlayfs shows in one view and hides in another.
func (w *walk) shown(xattrs []tarfile.Xattr) []tarfile.Xattr {
	return slices.DeleteFunc(slices.Clone(xattrs), func(x tarfile.Xattr) bool { return strings.HasPrefix(x.Name, w.marks.overlay) })
}

// sameContents compares two files of the same kind and size.
func sameContents(ctx context.Context, a, b *step) (bool, error) {
	switch a.stat.Type() {
	case erofs.ModeSymlink:
		x, err := sys.ReadLinkFD(a.handle)
		if err != nil {
			return false, err
		}
		y, err := sys.ReadLinkFD(b.handle)
		return x == y, err
	case erofs.ModeRegular:
		if a.marks.metacopy && !a.marks.redirect {
			return true, nil // only its metadata was written
		}
		return sameBytes(ctx, a.contents, b.handle)
	}
	return true, nil
}

func sameBytes(ctx context.Context, a, b *os.File) (bool, error) {
	x, err := sys.Reopen(a, syscall.O_RDONLY|syscall.O_NOCTTY)
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := sys.Reopen(b, syscall.O_RDONLY|syscall.O_NOCTTY)
	if err != nil {
		return false, err
	}
	defer y.Close()
	const piece = 64 << 10
	p, q := make([]byte, piece), make([]byte, piece)
	for ctx.Err() == nil {
		n, err := io.ReadFull(x, p)
		m, err2 := io.ReadFull(y, q)
		if !bytes.Equal(p[:n], q[:m]) {
			return false, nil
		}
		switch {
		case isEnd(err) && isEnd(err2):
			return true, nil
		case err != nil || err2 != nil:
			return false, errors.Join(err, err2)
		}
	}
	return false, ctx.Err()
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
