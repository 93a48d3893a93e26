package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/tarnfs/tarn/layer/tarfile"
)

// Errors of Pack, PackTree and Changes, wrapped with the path they are about.
var (
	// ErrChanged is a file that something else wrote to while it was read.
	ErrChanged = errors.New("changed while it was read (stop or pause the container, then try again)")
	// ErrReserved is a file whose name would mean a deletion in a layer.
	ErrReserved = errors.New("a layer cannot hold a name that begins with " + WhiteoutPrefix + " (rename or remove it)")
	// ErrMount is a mount below the tree to be read.
	ErrMount = errors.New("another file system is mounted there")
	// ErrNoMerged is a file whose contents only the merged view has.
	ErrNoMerged = errors.New("the merged view is needed to read it")
)

// PackSource is an overlay's upper directory, and what is needed to know what it means. All are
// directories, used by descriptor only; O_PATH will do.
type PackSource struct {
	// Upper is what was written.
	Upper *os.File
	// Lower is the tree below alone, without the upper. nil: there is none.
	Lower *os.File
	// Merged is the whole overlay. It is looked at for renamed directories and for files of which
	// the upper has just the metadata, and may be nil where there are none.
	Merged *os.File
}

// PackOptions of Pack and PackTree.
type PackOptions struct {
	// SourceDateEpoch replaces all later modification times
	// (https://reproducible-builds.org/specs/source-date-epoch/). nil: they stay.
	SourceDateEpoch *time.Time
	// Exclude names paths from the root ("etc/hosts") that are left out with all below them.
	Exclude []string
}

// Pack writes the tar of a layer: what has to be applied to src.Lower to get the merged tree. The
// same tree gives the same bytes. The time it takes goes by what the upper holds and by renamed
// directories, not by what lies below.
//
// The tree may be in use: what vanishes is left out, what comes may be; a file that gets shorter
// while it is read is ErrChanged. After an error what was written is no layer.
//
// docs/format.md, "From an upper to a tar", has the rules in full.
func Pack(ctx context.Context, w io.Writer, src PackSource, opts PackOptions) error {
	walk, top, err := newWalk(src, opts.Exclude)
	if err != nil {
		return err
	}
	defer top.close()
	p := newPacker(w, opts)
	if err := p.changedRoot(src, top); err != nil {
		return err
	}
	if err := walk.directory(ctx, top, p.layerStep); err != nil {
		return err
	}
	return p.close()
}

// PackTree writes a tar of all that is in dir, with an entry "./" for dir itself. Names are taken as
// they are: ".wh.x" is a file. Pack says the rest.
func PackTree(ctx context.Context, w io.Writer, dir *os.File, opts PackOptions) error {
	walk, top, err := newTreeWalk(dir, opts.Exclude)
	if err != nil {
		return err
	}
	defer top.close()
	p := newPacker(w, opts)
	root, err := describe(top.dir, true)
	if err != nil {
		return err
	}
	root.path, root.parent, root.sub = ".", top, top
	if err := p.node(root); err != nil {
		return err
	}
	if err := walk.directory(ctx, top, p.treeStep); err != nil {
		return err
	}
	return p.close()
}

// changedRoot writes an entry for the root if more than its time differs from what is below: that
// changes with every entry, and an upper's is just when it was made.
func (p *packer) changedRoot(src PackSource, top *level) error {
	root, err := describe(top.dir, false)
	if err != nil {
		return err
	}
	root.path, root.parent, root.sub = ".", top, top
	if src.Lower != nil {
		below, err := describe(top.lower, false)
		if err != nil || sameMetadata(root, below) {
			return err
		}
	}
	return p.node(root)
}

func (p *packer) layerStep(s *step) error {
	switch s.kind {
	case stepHidden:
		return nil // an opaque directory says it already
	case stepWhiteout:
		below, err := s.parent.lowerHas(s.name)
		if err != nil || !below {
			return err
		}
		return p.marker(s.parent.join(WhiteoutPrefix + s.name))
	}
	if strings.HasPrefix(s.name, WhiteoutPrefix) {
		return fmt.Errorf("%q: %w", s.path, ErrReserved)
	}
	if err := p.node(s); err != nil {
		return err
	}
	if s.sub != nil && s.sub.hides && !s.parent.hides && s.sub.lower != nil {
		return p.marker(s.sub.join(WhiteoutOpaque))
	}
	return nil
}

func (p *packer) treeStep(s *step) error { return p.node(s) }

// marker writes an empty file whose name says it all.
func (p *packer) marker(name string) error {
	return p.tar.WriteHeader(&tarfile.Header{Name: name, Type: tarfile.TypeReg, Mode: 0o600})
}
