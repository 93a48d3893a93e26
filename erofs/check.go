package erofs

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
)

// Check proves that the image is sound: every inode, directory, target,
// attribute and chunk index is well formed and inside the image or its device;
// nothing overlaps; every directory has one name and right "." and "..";
// link counts and the number of inodes are right; and all metadata has the
// digest that the UUID is made of. It does not look into devices.
// The error says what is wrong with which path.
func (im *Image) Check(ctx context.Context) error {
	c := &checker{image: im, inodes: map[uint64]*links{}, room: im.size}
	err := im.walk(func(path string, n, parent *Node) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.visit(n, parent); err != nil {
			return fmt.Errorf("erofs: check %q: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.finish(); err != nil {
		return fmt.Errorf("erofs: check: %w", err)
	}
	return nil
}

// links counts the names of an inode; the subdirectories' ".." are names of a
// directory.
type links struct {
	found, want uint32
}

// span is a range of the image that belongs to one inode.
type span struct{ start, end int64 }

type checker struct {
	image       *Image
	inodes      map[uint64]*links
	meta, spill []span
	room        int64 // bytes of the image that no span has taken
}

func (c *checker) visit(n, parent *Node) error {
	isDir := n.Mode&ModeType == ModeDir
	if isDir && parent.NID != n.NID {
		c.inodes[parent.NID].found++
	}
	if known := c.inodes[n.NID]; known != nil {
		if known.found++; isDir {
			return fmt.Errorf("%w: directory with two names", ErrCorrupt)
		}
		return nil
	}
	known := &links{found: 1, want: n.Nlink}
	c.inodes[n.NID] = known
	if isDir {
		known.found++
		if err := c.dots(n, parent); err != nil {
			return err
		}
	}
	start := n.block << c.image.super.blockBits
	if err := c.take(&c.meta, n.offset, n.footprint()); err != nil {
		return err
	}
	if err := c.take(&c.meta, start, n.wholeBlocks()); err != nil {
		return err
	}
	return c.contents(n)
}

// dots checks the entries "." and ".." of a directory.
func (c *checker) dots(n, parent *Node) error {
	for name, want := range map[string]uint64{".": n.NID, "..": parent.NID} {
		entry, err := n.find(name)
		if err != nil {
			return err
		}
		if entry.NID != want || entry.Type != ModeDir {
			return fmt.Errorf("%w: %q leads to inode %d", ErrCorrupt, name, entry.NID)
		}
	}
	return nil
}

// contents checks what only some kinds of inodes have. It comes after the
// inode's space has been taken, so that all this takes linear time.
func (c *checker) contents(n *Node) error {
	if _, err := n.Xattrs(); err != nil {
		return err
	}
	switch n.Mode & ModeType {
	case ModeSymlink:
		_, err := n.Readlink()
		return err
	case ModeRegular:
		extents, err := n.Extents()
		if err != nil {
			return err
		}
		for _, e := range extents {
			if e.Device != 0 {
				continue
			}
			if err := c.take(&c.spill, e.Physical, roundUp(e.Length, c.image.BlockSize())); err != nil {
				return err
			}
		}
	}
	return nil
}

// take books a range of the image.
func (c *checker) take(spans *[]span, start, length int64) error {
	if length == 0 {
		return nil
	}
	if c.room -= length; c.room < 0 || start < c.image.inodeStart {
		return fmt.Errorf("%w: %d bytes at %d belong to something else", ErrCorrupt, length, start)
	}
	*spans = append(*spans, span{start: start, end: start + length})
	return nil
}

// finish checks what can be said only when all inodes are known.
func (c *checker) finish() error {
	for nid, l := range c.inodes {
		if l.found != l.want {
			return fmt.Errorf("%w: inode %d has %d links, not %d", ErrCorrupt, nid, l.found, l.want)
		}
	}
	if len(c.inodes) != int(c.image.super.inodes) {
		return fmt.Errorf("%w: %d inodes, not %d", ErrCorrupt, len(c.inodes), c.image.super.inodes)
	}
	metaEnd, err := disjoint(c.meta, c.image.inodeStart)
	if err != nil {
		return err
	}
	metaEnd = roundUp(metaEnd, c.image.BlockSize())
	end, err := disjoint(c.spill, metaEnd)
	if err != nil {
		return err
	}
	if end != c.image.size {
		return fmt.Errorf("%w: %d bytes are used of %d", ErrCorrupt, end, c.image.size)
	}
	digest := c.image.super.newDigest()
	section := io.NewSectionReader(c.image.r, deviceTable, metaEnd-deviceTable)
	if _, err := io.Copy(digest, section); err != nil {
		return err
	}
	if imageUUID(digest) != c.image.super.uuid {
		return fmt.Errorf("%w: the metadata does not have the digest in the superblock's UUID", ErrCorrupt)
	}
	return nil
}

// disjoint sorts spans that must begin after start, and returns their end.
func disjoint(spans []span, start int64) (end int64, err error) {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	end = start
	for _, s := range spans {
		if s.start < end {
			return 0, fmt.Errorf("%w: two inodes use the bytes at %d", ErrCorrupt, s.start)
		}
		end = s.end
	}
	return end, nil
}
