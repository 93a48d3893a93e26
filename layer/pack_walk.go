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

// step is one name that a walk comes to.
type step struct {
	kind   stepKind
	name   string
	path   string // from the root, without a leading slash
	parent *level
	// What follows is for stepNode alone.
	handle   *os.File // O_PATH
	stat     sys.Stat
	marks    marks
	xattrs   []tarfile.Xattr
	contents *os.File // O_PATH handle of what has the contents; the same as handle, mostly
	sub      *level   // the directory's own level; nil for other files
}

type stepKind uint8

const (
	stepNode     stepKind = iota // a file, which is there
	stepWhiteout                 // what lies below under this name is deleted
	stepHidden                   // the same, said by an opaque or replaced directory above
)

// level is a directory that a walk is in.
type level struct {
	path  string
	dir   *os.File // its entries are walked
	upper *os.File // the directory in the upper, which is dir unless plain; nil: it has none
	lower *os.File // O_PATH, the same path below; nil: below is no such directory
	// plain: dir shows the tree as it is, without whiteouts and marks of overlayfs.
	plain bool
	// hides: nothing below shows through, here and in all directories under this one.
	hides bool
	// xwhiteouts: whiteouts may be files with an attribute.
	xwhiteouts bool
}

func (l *level) join(name string) string {
	if l.path == "" {
		return name
	}
	return l.path + "/" + name
}

func (l *level) close() {
	for _, f := range []*os.File{l.dir, l.upper, l.lower} {
		if f != nil {
			_ = f.Close() // twice, where upper is dir: harmless
		}
	}
}

// lowerHas tells whether there is something under name in the tree below.
func (l *level) lowerHas(name string) (bool, error) {
	if l.lower == nil {
		return false, nil
	}
	st, err := sys.StatAt(l.lower, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && !st.IsWhiteout(), err
}

// walk goes through an upper, or a plain tree, in order of path: a directory before its entries,
// entries bytewise by name. Nothing is followed and nothing but directories is opened.
type walk struct {
	merged  *os.File
	exclude map[string]bool
	marks   markNames
	// mounts: what is mounted below belongs to the tree, but for the kernel's own file systems.
	mounts bool
	// owner says who owns what shows these owners in the tree as it is seen; nil: they do.
	owner func(uid, gid uint32) (uint32, uint32)
	// tellHidden: visit what opaque and replaced directories hide.
	tellHidden bool
}

func newWalk(src PackSource, exclude []string) (*walk, *level, error) {
	top := &level{}
	var err error
	if top.dir, err = sys.OpenEntries(src.Upper); err != nil {
		return nil, nil, err
	}
	top.upper = top.dir
	if src.Lower != nil {
		if top.lower, err = sys.OpenBeneath(src.Lower, ".", sys.OpenDirectory); err != nil {
			top.close()
			return nil, nil, err
		}
	}
	w := &walk{merged: src.Merged, exclude: setOf(exclude), marks: marksOf(src.UserXattrs)}
	m, _, err := w.readAttributes(top.dir, false)
	if err != nil {
		top.close()
		return nil, nil, err
	}
	top.xwhiteouts = m.xwhiteouts
	return w, top, nil
}

func newTreeWalk(dir *os.File, exclude []string) (*walk, *level, error) {
	entries, err := sys.OpenEntries(dir)
	if err != nil {
		return nil, nil, err
	}
	return &walk{exclude: setOf(exclude)}, &level{dir: entries, plain: true, hides: true}, nil
}

func setOf(paths []string) map[string]bool {
	set := make(map[string]bool, len(paths))
	for _, p := range paths {
		set[strings.Trim(p, "/")] = true
	}
	return set
}

// directory calls visit for every name in l and below.
func (w *walk) directory(ctx context.Context, l *level, visit func(*step) error) error {
	names, err := sortedNames(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it may have been removed meanwhile
		return fmt.Errorf("read directory %q: %w", "/"+l.path, err)
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if path := l.join(name); !w.exclude[path] {
			if err := w.name(ctx, &step{name: name, path: path, parent: l}, visit); err != nil {
				return err
			}
		}
	}
	if w.tellHidden && l.hides && l.lower != nil {
		return w.hidden(l, names, visit)
	}
	return nil
}

// sortedNames reads a directory that was just opened. One that has more names than a layer may have
// is an error, so that nobody fills the memory with them.
func sortedNames(dir *os.File) ([]string, error) {
	most := tarfile.Limits{}.WithDefaults().Entries
	names, err := dir.Readdirnames(most + 1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && len(names) > most {
		err = fmt.Errorf("%w: more than %d names", ErrLimit, most)
	}
	slices.Sort(names)
	return names, err
}

// hidden visits the names below that have none in l any more.
func (w *walk) hidden(l *level, present []string, visit func(*step) error) error {
	entries, err := sys.OpenEntries(l.lower)
	if err != nil {
		return err
	}
	defer entries.Close()
	names, err := sortedNames(entries)
	if err != nil {
		return fmt.Errorf("read directory %q of the layers below: %w", "/"+l.path, err)
	}
	for _, name := range names {
		if _, still := slices.BinarySearch(present, name); still || w.exclude[l.join(name)] {
			continue
		}
		if err := visit(&step{kind: stepHidden, name: name, path: l.join(name), parent: l}); err != nil {
			return err
		}
	}
	return nil
}

// name visits one name, and all below it.
func (w *walk) name(ctx context.Context, s *step, visit func(*step) error) error {
	l := s.parent
	open := sys.OpenBeneath
	if w.mounts {
		open = sys.OpenWithoutLinks
	}
	handle, err := open(l.dir, s.name, sys.OpenNoFollow)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // removed meanwhile
	case errors.Is(err, syscall.EXDEV):
		return fmt.Errorf("%q: %w", "/"+s.path, ErrMount)
	case err != nil:
		return err
	}
	defer handle.Close()
	return w.handle(ctx, s, handle, visit)
}

// handle visits the file of one name, and all below it.
func (w *walk) handle(ctx context.Context, s *step, handle *os.File, visit func(*step) error) error {
	l := s.parent
	if w.mounts {
		if kernels, err := sys.IsKernelFS(handle); err != nil || kernels {
			return err
		}
	}
	found, err := w.describe(handle, l.plain)
	if err != nil {
		return fmt.Errorf("%q: %w", "/"+s.path, err)
	}
	if l.plain {
		w.own(found)
	}
	found.name, found.path, found.parent = s.name, s.path, l
	s = found
	if !l.plain && isWhiteout(s) {
		s.kind = stepWhiteout
		return visit(s)
	}
	if s.stat.IsDir() {
		if s.sub, err = w.enter(s); err != nil || s.sub == nil {
			return err
		}
		defer s.sub.close()
	} else if s.marks.metacopy {
		if s.contents, err = w.inMerged(s.path, sys.OpenNoFollow); err != nil || s.contents == nil {
			return err
		}
		defer s.contents.Close()
	}
	if err := visit(s); err != nil || s.sub == nil {
		return err
	}
	return w.directory(ctx, s.sub, visit)
}

// own gives a file of the tree as it is seen its true owner.
func (w *walk) own(s *step) {
	if w.owner != nil {
		s.stat.UID, s.stat.GID = w.owner(s.stat.UID, s.stat.GID)
	}
}

func isSocket(s *step) bool { return s.stat.Type() == erofs.ModeSocket }

func isWhiteout(s *step) bool {
	return s.stat.IsWhiteout() ||
		s.parent.xwhiteouts && s.marks.whiteout && s.stat.IsRegular() && s.stat.Size == 0
}

// inUpper gives what the upper has of a file, and whether it has it: what the merged view shows may
// come from below alone.
func (s *step) inUpper() (sys.Stat, bool, error) {
	switch {
	case !s.parent.plain:
		return s.stat, true, nil
	case s.parent.upper == nil:
		return sys.Stat{}, false, nil
	}
	st, err := sys.StatAt(s.parent.upper, s.name)
	if errors.Is(err, fs.ErrNotExist) {
		return sys.Stat{}, false, nil
	}
	return st, err == nil && st.Type() == s.stat.Type(), err
}

// enter makes the level of a directory, or nil if it is gone.
func (w *walk) enter(s *step) (*level, error) {
	parent := s.parent
	sub := &level{path: s.path, plain: parent.plain, hides: parent.hides || s.marks.opaque, xwhiteouts: s.marks.xwhiteouts}
	var err error
	switch {
	case s.marks.redirect:
		// It lies below under another name, and so do the directories in it: only the merged
		// view can tell what is there.
		sub.plain, sub.hides = true, true
		sub.dir, err = w.mergedEntries(s.path)
		if err == nil {
			sub.upper, err = sys.OpenEntries(s.handle)
		}
	case parent.plain:
		sub.dir, err = sys.OpenEntries(s.handle)
		if err == nil && parent.upper != nil {
			sub.upper, err = openDirectory(parent.upper, s.name)
		}
	default:
		sub.dir, err = sys.OpenEntries(s.handle)
		sub.upper = sub.dir
	}
	if err == nil && parent.lower != nil && (w.tellHidden || !parent.hides) {
		sub.lower, err = openDirectory(parent.lower, s.name)
	}
	if err == nil && sub.dir != nil {
		return sub, nil
	}
	sub.close()
	if isNoDirectory(err) {
		err = nil
	}
	return nil, err
}

func (w *walk) mergedEntries(path string) (*os.File, error) {
	handle, err := w.inMerged(path, sys.OpenDirectory|sys.OpenNoFollow)
	if err != nil || handle == nil {
		return nil, err
	}
	defer handle.Close()
	return sys.OpenEntries(handle)
}

// inMerged opens what the whole overlay has at path, or gives nil if it is gone.
func (w *walk) inMerged(path string, flags uint64) (*os.File, error) {
	if w.merged == nil {
		return nil, fmt.Errorf("%q: %w", "/"+path, ErrNoMerged)
	}
	f, err := sys.OpenBeneath(w.merged, path, flags)
	if isNoDirectory(err) {
		return nil, nil
	}
	return f, err
}

// openDirectory gives nil if there is no directory called name in dir.
func openDirectory(dir *os.File, name string) (*os.File, error) {
	f, err := sys.OpenBeneath(dir, name, sys.OpenDirectory|sys.OpenNoFollow)
	if isNoDirectory(err) {
		return nil, nil
	}
	return f, err
}

func isNoDirectory(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// marks is what overlayfs notes about a file in its attributes
// (Documentation/filesystems/overlayfs.rst).
type marks struct {
	opaque     bool // a directory that hides what is below
	xwhiteouts bool // a directory whose whiteouts may have the attribute "whiteout"
	redirect   bool // a directory, or a file with metacopy, that had another name below
	metacopy   bool // a file whose contents are still below
	whiteout   bool
}

// describe reads all about a file that is not in its contents. plain: its attributes are as its
// users see them, not as overlayfs stores them.
func (w *walk) describe(handle *os.File, plain bool) (*step, error) {
	st, err := sys.StatFile(handle)
	if err != nil {
		return nil, err
	}
	m, xattrs, err := w.readAttributes(handle, plain)
	if err != nil {
		return nil, err
	}
	return &step{handle: handle, contents: handle, stat: st, marks: m, xattrs: xattrs}, nil
}

// xattrLabel is the host's label, not the file's: every host has its own policy.
const xattrLabel = "security.selinux"

func (w *walk) readAttributes(handle *os.File, plain bool) (m marks, kept []tarfile.Xattr, err error) {
	names, err := sys.HandleXattrs(handle)
	if err != nil {
		return m, nil, err
	}
	for _, name := range names {
		if name == xattrLabel {
			continue
		}
		value, ok, err := sys.HandleXattr(handle, name)
		if err != nil {
			return m, nil, err
		}
		if !ok {
			continue
		}
		mark, ours := strings.CutPrefix(name, w.marks.overlay)
		if after, escaped := strings.CutPrefix(name, w.marks.escape); escaped && !plain {
			name = w.marks.overlay + after
		} else if ours && !plain {
			m.note(mark, value)
			continue
		}
		kept = append(kept, tarfile.Xattr{Name: name, Value: value})
	}
	slices.SortFunc(kept, func(a, b tarfile.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return m, kept, nil
}

func (m *marks) note(name string, value []byte) {
	switch name {
	case "opaque":
		m.opaque = bytes.Equal(value, []byte("y"))
		m.xwhiteouts = bytes.Equal(value, []byte("x"))
	case "redirect":
		m.redirect = true
	case "metacopy":
		m.metacopy = true
	case "whiteout":
		m.whiteout = true
	}
}
