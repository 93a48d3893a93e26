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
	// UserXattrs says that the overlay was mounted with "userxattr".
	UserXattrs bool
}

// PackOptions of Pack and PackTree.
type PackOptions struct {
	// SourceDateEpoch replaces all later modification times
	// (https://reproducible-builds.org/specs/source-date-epoch/). nil: they stay.
	SourceDateEpoch *time.Time
	// Owner says who owns what shows these owners in the tree as it is seen, and not in an upper, if that
	// is somebody else: files may be shown with other owners than they have on the disk.
	Owner func(uid, gid uint32) (uint32, uint32)
	// Exclude names paths from the root ("etc/hosts") that are left out with all below them.
	Exclude []string
}

// Pack writes the tar of a layer: what has to be applied to src.Lower to get the merged tree. The
// same tree gives the same bytes. The time it takes goes by what the upper holds and by renamed
// directories, not by what lies below.
//
// The tree may be in use: what vanishes is left out, what comes may be; a file that gets shorter
// while it is read is ErrChanged. After an error what was written is no layer. Sockets are left out:
// a tar has none, and without its process one would be of no use.
//
// docs/format.md, "From an upper to a tar", has the rules in full.
func Pack(ctx context.Context, w io.Writer, src PackSource, opts PackOptions) error {
	walk, top, err := newWalk(src, opts.Exclude)
	if err != nil {
		return err
	}
	defer top.close()
	walk.owner = opts.Owner
	p := newPacker(w, opts)
	if err := p.changedRoot(ctx, walk, src, top); err != nil {
		return err
	}
	if err := walk.directory(ctx, top, func(s *step) error { return p.layerStep(ctx, s) }); err != nil {
		return err
	}
	return p.close()
}

// PackTree writes a tar of all that is in dir, with an entry "./" for dir itself. Names are taken as
// they are: ".wh.x" is a file. Preallocated blocks that nobody wrote may be stored as holes or as
// zeros. Pack says the rest.
func PackTree(ctx context.Context, w io.Writer, dir *os.File, opts PackOptions) error {
	walk, top, err := newTreeWalk(dir, opts.Exclude)
	if err != nil {
		return err
	}
	defer top.close()
	p := newPacker(w, opts)
	root, err := walk.describe(top.dir, true)
	if err != nil {
		return err
	}
	root.path, root.parent, root.sub = ".", top, top
	walk.owner = opts.Owner
	walk.own(root)
	if err := p.node(ctx, root); err != nil {
		return err
	}
	if err := walk.directory(ctx, top, func(s *step) error { return p.node(ctx, s) }); err != nil {
		return err
	}
	return p.close()
}

// changedRoot has the root written first if it is not as below, or else as soon as anything is:
// overlayfs takes what its root directory is from the topmost layer alone, and a root that has no
// entry in a layer is nobody's.
func (p *packer) changedRoot(ctx context.Context, w *walk, src PackSource, top *level) error {
	root, err := w.describe(top.dir, false)
	if err != nil {
		return err
	}
	root.path, root.parent, root.sub = ".", top, top
	if src.Lower == nil {
		return p.node(ctx, root)
	}
	below, err := w.describe(top.lower, false)
	if err != nil {
		return err
	}
	sameTime := root.stat.Sec == below.stat.Sec && root.stat.Nsec == below.stat.Nsec
	if sameTime && w.sameMetadata(root, below) {
		p.root = root
		return nil
	}
	return p.node(ctx, root)
}

func (p *packer) layerStep(ctx context.Context, s *step) error {
	if s.kind == stepWhiteout || isSocket(s) {
		return p.whiteout(s)
	}
	if strings.HasPrefix(s.name, WhiteoutPrefix) {
		return fmt.Errorf("pack %q: %w", "/"+s.path, ErrReserved)
	}
	if err := p.node(ctx, s); err != nil {
		return err
	}
	if s.sub != nil && s.sub.hides && !s.parent.hides && s.sub.lower != nil {
		return p.marker(s.sub.join(WhiteoutOpaque))
	}
	return nil
}

// whiteout says that what lies below under the name of s is gone, if there is something.
func (p *packer) whiteout(s *step) error {
	if s.parent.hides {
		return nil
	}
	below, err := s.parent.lowerHas(s.name)
	if err != nil || !below {
		return err
	}
	return p.marker(s.parent.join(WhiteoutPrefix + s.name))
}

// marker writes an empty file whose name says it all.
func (p *packer) marker(name string) error {
	return p.entry(&tarfile.Header{Name: name, Type: tarfile.TypeReg, Mode: 0o600})
}
