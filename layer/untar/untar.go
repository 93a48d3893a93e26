// Package untar makes the entries of a tar in a directory that may hold other things already, for people
// who copy files. For a layer's tar, where names may mean deletions, there is package layer.
package untar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// Errors of Extract, wrapped with the entry that they are about.
var (
	ErrUnsafe = errors.New("it would lie outside")
	// ErrKind is a directory where another kind of file is to be, or the other way round.
	ErrKind = errors.New("one is a directory, the other is not")
	// ErrKernel is a place in a file system through which the kernel is ruled.
	ErrKernel = errors.New("that is the kernel's, not a place for files")
)

// Target says where entries are made. What is there is hostile, and may change at any time: every name is
// looked up by the kernel below Root, and no path of an entry, or link, leads out of it.
type Target struct {
	Root *os.File // a directory; O_PATH will do
	Dir  string   // below it: the directory in which entries are made, which must exist
	// Follow has symbolic links on the way to an entry followed, as if Root were the root directory.
	// Without, they are an error.
	Follow bool
}

// Options of Extract.
type Options struct {
	// Owner gives the owner of what is made, from what the tar says; nil: what the tar says.
	Owner func(uid, gid uint32) (uint32, uint32)
	// Plain leaves out what gives files powers: extended attributes, set-user-ID and set-group-ID bits
	// and devices. Of each device that is left out, Skipped is told.
	Plain   bool
	Skipped func(name string)
	Limits  tarfile.Limits
}

// Extract makes the entries of a tar, to its end. A file is replaced by one of the same name, and never
// written to, unless something is mounted on it; directories stay, with what is in them. The
// directory itself ("./") is left as it is. Nothing is synced.
func Extract(ctx context.Context, r io.Reader, target Target, opts Options) error {
	x := &extractor{tar: tarfile.NewReader(r, opts.Limits), target: target, opts: opts}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := x.tar.Next()
		if errors.Is(err, io.EOF) {
			return x.finish()
		}
		if err != nil {
			return err
		}
		if err := x.entry(h); err != nil {
			return tarfile.EntryError(h.Name, err)
		}
	}
}

type extractor struct {
	tar    *tarfile.Reader
	target Target
	opts   Options
	dirs   []directory // those with an entry
}

// directory gets its metadata at the end: its time would not last otherwise, and it may not be writable.
type directory struct {
	path   string
	header tarfile.Header
}

// clean gives an entry's path, "." for the directory itself.
func clean(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", ErrUnsafe
		}
	}
	return path.Clean("./" + strings.TrimLeft(name, "/")), nil
}

func (x *extractor) entry(h *tarfile.Header) error {
	if h.Type == tarfile.TypeVolume {
		return nil
	}
	at, err := clean(h.Name)
	if err != nil || at == "." {
		return err
	}
	if x.opts.Plain && (h.Type == tarfile.TypeChar || h.Type == tarfile.TypeBlock) {
		if x.opts.Skipped != nil {
			x.opts.Skipped(at)
		}
		return nil
	}
	parent, err := x.parent(path.Dir(at))
	if err != nil {
		return err
	}
	defer parent.Close()
	name := path.Base(at)
	if h.Type == tarfile.TypeDir {
		if err := x.directory(parent, name); err != nil {
			return err
		}
		x.dirs = append(x.dirs, directory{at, *h})
		return nil
	}
	return x.file(parent, name, h)
}

// open opens a directory of the target.
func (x *extractor) open(at string) (*os.File, error) {
	if x.target.Follow {
		return sys.OpenInRoot(x.target.Root, path.Join("/", x.target.Dir)+"/"+at, sys.OpenDirectory)
	}
	return sys.OpenWithoutLinks(x.target.Root, path.Join(x.target.Dir, at), sys.OpenDirectory)
}

// parent opens the directory of an entry, and makes what is missing of it.
func (x *extractor) parent(at string) (*os.File, error) {
	dir, err := x.open(at)
	if errors.Is(err, fs.ErrNotExist) && at != "." {
		above, aboveErr := x.parent(path.Dir(at))
		if aboveErr != nil {
			return nil, aboveErr
		}
		defer above.Close()
		if err := x.implied(above, path.Base(at)); err != nil {
			return nil, err
		}
		dir, err = x.open(at)
	}
	if err != nil {
		return nil, err
	}
	kernels, err := sys.IsKernelFS(dir)
	if err == nil && kernels {
		err = ErrKernel
	}
	if err != nil {
		_ = dir.Close()
		return nil, err
	}
	return dir, nil
}

// implied makes a directory that has no entry yet.
func (x *extractor) implied(parent *os.File, name string) error {
	if err := sys.MakeDir(parent, name, 0o755); err != nil {
		return err
	}
	uid, gid := x.owner(0, 0)
	return sys.ChownEntry(parent, name, int(uid), int(gid))
}

func (x *extractor) owner(uid, gid uint32) (uint32, uint32) {
	if x.opts.Owner == nil {
		return uid, gid
	}
	return x.opts.Owner(uid, gid)
}

// directory makes a directory, if there is none.
func (x *extractor) directory(parent *os.File, name string) error {
	err := sys.MakeDir(parent, name, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	flags := uint64(sys.OpenAny)
	if !x.target.Follow {
		flags |= sys.OpenNoFollow
	}
	there, err := sys.OpenEntry(parent, name, flags|sys.OpenDirectory)
	if err == nil {
		return there.Close()
	}
	if x.target.Follow && (errors.Is(err, syscall.EXDEV) || errors.Is(err, fs.ErrNotExist)) {
		return nil // a link that leads up, or from the root: it is judged when something is made in it
	}
	return ErrKind
}

// tries is how often a name is cleared for an entry, that somebody else takes again.
const tries = 10

// file makes what is not a directory, in place of what was there.
func (x *extractor) file(parent *os.File, name string, h *tarfile.Header) error {
	for try := 1; ; try++ {
		err := x.tryFile(parent, name, h)
		if !errors.Is(err, fs.ErrExist) || try == tries {
			return err
		}
		err = sys.RemoveEntry(parent, name)
		switch {
		case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.EPERM):
			return fmt.Errorf("%w: %w", ErrKind, err)
		case sys.IsBusy(err) && h.Type == tarfile.TypeReg:
			return x.overwrite(parent, name, h)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
}

func (x *extractor) tryFile(parent *os.File, name string, h *tarfile.Header) error {
	var err error
	switch h.Type {
	case tarfile.TypeReg:
		return x.regular(parent, name, h)
	case tarfile.TypeLink:
		return x.link(parent, name, h.Linkname)
	case tarfile.TypeSymlink:
		err = sys.MakeSymlink(parent, name, h.Linkname)
	case tarfile.TypeFifo:
		err = sys.MakeNode(parent, name, sys.TypeFifo|0o600, 0, 0)
	case tarfile.TypeChar:
		err = sys.MakeNode(parent, name, sys.TypeChar|0o600, h.Devmajor, h.Devminor)
	case tarfile.TypeBlock:
		err = sys.MakeNode(parent, name, sys.TypeBlock|0o600, h.Devmajor, h.Devminor)
	default:
		return fmt.Errorf("type %q: %w", h.Type, errors.ErrUnsupported)
	}
	if err != nil {
		return err
	}
	made, err := sys.OpenEntry(parent, name, sys.OpenNoFollow)
	if err != nil {
		return err
	}
	defer made.Close()
	return x.describe(made, h)
}

// link gives a file that was made before another name.
func (x *extractor) link(parent *os.File, name, target string) error {
	to, err := clean(target)
	if err != nil {
		return err
	}
	from, err := x.open(path.Dir(to))
	if err != nil {
		return err
	}
	defer from.Close()
	return sys.LinkEntry(from, path.Base(to), parent, name)
}

func (x *extractor) regular(parent *os.File, name string, h *tarfile.Header) error {
	f, err := sys.CreateEntry(parent, name, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return x.fill(f, h)
}

// overwrite writes to a file that cannot be replaced, because something is mounted on its name.
func (x *extractor) overwrite(parent *os.File, name string, h *tarfile.Header) error {
	handle, err := sys.OpenEntry(parent, name, sys.OpenNoFollow)
	if err != nil {
		return err
	}
	defer handle.Close()
	if node, err := sys.StatNode(handle); err != nil {
		return err
	} else if node.Type != sys.TypeRegular {
		return ErrKind
	}
	f, err := sys.Reopen(handle, syscall.O_WRONLY|syscall.O_TRUNC|syscall.O_NOCTTY)
	if err != nil {
		return err
	}
	defer f.Close()
	return x.fill(f, h)
}

func (x *extractor) fill(f *os.File, h *tarfile.Header) error {
	segments := h.Sparse
	if segments == nil && h.Size > 0 {
		segments = []tarfile.Segment{{Length: h.Size}}
	}
	if err := x.tar.WritePacked(&segmentWriter{f: f, segments: segments}, h.PackedSize); err != nil {
		return err
	}
	if err := f.Truncate(h.Size); err != nil {
		return err
	}
	return x.describe(f, h)
}

// segmentWriter writes a sparse file's data, which comes without the holes, to where it belongs.
type segmentWriter struct {
	f        *os.File
	segments []tarfile.Segment // those that are to come
}

func (w *segmentWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && len(w.segments) > 0 {
		s := &w.segments[0]
		piece := p[:min(int64(len(p)), s.Length)]
		if _, err := w.f.WriteAt(piece, s.Offset); err != nil {
			return n, err
		}
		n, p = n+len(piece), p[len(piece):]
		s.Offset, s.Length = s.Offset+int64(len(piece)), s.Length-int64(len(piece))
		if s.Length == 0 {
			w.segments = w.segments[1:]
		}
	}
	return n, nil
}

// describe gives a file all that an entry says of it but its contents. Chown takes away set-user-ID bits
// and capabilities, and an ACL changes permission bits: hence the order.
func (x *extractor) describe(f *os.File, h *tarfile.Header) error {
	uid, gid := x.owner(h.UID, h.GID)
	if err := sys.ChownFile(f, uid, gid); err != nil {
		return err
	}
	mode := h.Mode
	if x.opts.Plain {
		mode &= 0o1777
	} else if err := x.setXattrs(f, h); err != nil {
		return err
	}
	if h.Type != tarfile.TypeSymlink {
		if err := sys.ChmodFile(f, mode); err != nil {
			return err
		}
	}
	return sys.SetMtime(f, h.Sec, h.Nsec)
}

func (x *extractor) setXattrs(f *os.File, h *tarfile.Header) error {
	xattrs := h.Xattrs
	for _, acl := range h.ACLs {
		attr, err := x.tar.ResolveACL(acl)
		if err != nil {
			return err
		}
		xattrs = append(slices.Clip(xattrs), attr)
	}
	for _, attr := range xattrs {
		err := sys.SetHandleXattr(f, attr.Name, attr.Value)
		if err != nil && !errors.Is(err, sys.ErrnoUnsupported) { // a file system without any
			return err
		}
	}
	return nil
}

// finish gives the directories what their entries say, the innermost first.
func (x *extractor) finish() error {
	for _, d := range slices.Backward(x.dirs) {
		if err := x.finishDir(d); err != nil {
			return tarfile.EntryError(d.header.Name, err)
		}
	}
	return nil
}

func (x *extractor) finishDir(d directory) error {
	f, err := x.open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if kernels, err := sys.IsKernelFS(f); err != nil || kernels {
		return err // a mount point: it is not ours to describe
	}
	return x.describe(f, &d.header)
}
