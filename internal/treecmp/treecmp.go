// Package treecmp compares directory trees entry by entry: type, permissions, owner, size, mtime,
// device number, link target, extended attributes, contents, and which names are hard links to the
// same file. It is the judge of tests that hold tarn's view of a tree against another tool's.
package treecmp

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
)

// Options say what not to compare. The zero value compares everything.
type Options struct {
	// Skip leaves out a path ("etc/hosts"; "." is the root), and what is below it.
	Skip func(path string) bool
	// SkipXattr leaves out an extended attribute by its full name.
	SkipXattr func(name string) bool
	// SkipTime leaves out the mtime of a path.
	SkipTime func(path string) bool
}

// Entry is what one name in a tree has.
type Entry struct {
	Mode     uint32 // st_mode
	UID, GID uint32
	Size     int64 // 0 for directories: file systems do not agree on it
	Rdev     uint64
	Mtime    time.Time
	Link     string            // target of a symbolic link
	Xattrs   map[string]string // values by full name
	Hash     [sha256.Size]byte // of a regular file's contents
	Group    []string          // all names of a file that has more than one, in order
}

// Read gives the entries of the tree at dir by their paths, the root as ".". It goes down by
// directory descriptors and never follows a link.
func Read(dir string, opts Options) (map[string]*Entry, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	w := &walker{opts: opts, entries: map[string]*Entry{}, files: map[inode]*file{}}
	info, err := root.Stat(".")
	if err != nil {
		return nil, err
	}
	if err := w.entry(root, ".", ".", info); err != nil {
		return nil, err
	}
	for _, f := range w.files {
		if len(f.names) < 2 {
			continue // the others are outside the tree, or, in a stack of layers, covered
		}
		slices.Sort(f.names)
		for _, name := range f.names {
			w.entries[name].Group = f.names
		}
	}
	return w.entries, nil
}

type inode struct{ dev, ino uint64 }

// file is a file with more than one name; it is read once.
type file struct {
	names []string
	hash  [sha256.Size]byte
}

type walker struct {
	opts    Options
	entries map[string]*Entry
	files   map[inode]*file
}

// entry reads what is called name in dir and path in the tree.
func (w *walker) entry(dir *os.Root, name, path string, info os.FileInfo) error {
	if w.opts.Skip != nil && w.opts.Skip(path) {
		return nil
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no stat_t", path)
	}
	e := &Entry{Mode: st.Mode, UID: st.Uid, GID: st.Gid}
	w.entries[path] = e
	if w.opts.SkipTime == nil || !w.opts.SkipTime(path) {
		e.Mtime = info.ModTime()
	}
	var err error
	if e.Xattrs, err = w.xattrs(dir, name); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case info.IsDir():
		return w.directory(dir, name, path)
	case info.Mode()&os.ModeSymlink != 0:
		e.Size = st.Size
		if e.Link, err = dir.Readlink(name); err != nil {
			return err
		}
	case info.Mode().IsRegular():
		e.Size = st.Size
	case info.Mode()&os.ModeDevice != 0:
		e.Rdev = st.Rdev
	}
	return w.contents(dir, name, path, info, inode{st.Dev, st.Ino}, st.Nlink > 1)
}

func (w *walker) contents(dir *os.Root, name, path string, info os.FileInfo, id inode, linked bool) (err error) {
	e := w.entries[path]
	f := w.files[id]
	if linked && f != nil {
		f.names = append(f.names, path)
		e.Hash = f.hash
		return nil
	}
	if info.Mode().IsRegular() {
		if e.Hash, err = hashFile(dir, name); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if linked {
		w.files[id] = &file{names: []string{path}, hash: e.Hash}
	}
	return nil
}

func hashFile(dir *os.Root, name string) (sum [sha256.Size]byte, err error) {
	f, err := dir.Open(name)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

func (w *walker) directory(parent *os.Root, name, path string) error {
	dir, err := parent.OpenRoot(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, name := range names {
		info, err := dir.Lstat(name)
		if err != nil {
			return err
		}
		child := name
		if path != "." {
			child = path + "/" + name
		}
		if err := w.entry(dir, name, child, info); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) xattrs(dir *os.Root, name string) (map[string]string, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := sys.ListXattrsAt(f, name)
	if err != nil {
		return nil, err
	}
	values := make(map[string]string)
	for _, attr := range names {
		if w.opts.SkipXattr != nil && w.opts.SkipXattr(attr) {
			continue
		}
		value, err := sys.GetXattrAt(f, name, attr)
		if err != nil {
			return nil, err
		}
		values[attr] = string(value)
	}
	return values, nil
}

// Diff compares two trees and gives a line for each difference, in order of path.
func Diff(want, got string, opts Options) ([]string, error) {
	wanted, err := Read(want, opts)
	if err != nil {
		return nil, err
	}
	found, err := Read(got, opts)
	if err != nil {
		return nil, err
	}
	return DiffEntries(wanted, found), nil
}

// DiffEntries is Diff of trees that were read before.
func DiffEntries(want, got map[string]*Entry) []string {
	all := maps.Clone(want)
	maps.Copy(all, got)
	var lines []string
	for _, path := range slices.Sorted(maps.Keys(all)) {
		a, b := want[path], got[path]
		switch {
		case b == nil:
			lines = append(lines, fmt.Sprintf("%q is missing", path))
		case a == nil:
			lines = append(lines, fmt.Sprintf("%q is not wanted", path))
		default:
			if differences := a.diff(b); differences != nil {
				lines = append(lines, fmt.Sprintf("%q: %s", path, strings.Join(differences, ", ")))
			}
		}
	}
	return lines
}

func (e *Entry) diff(got *Entry) (lines []string) {
	note := func(what string, want, got any) {
		lines = append(lines, fmt.Sprintf("%s %v, want %v", what, got, want))
	}
	if e.Mode != got.Mode {
		note("mode", fmt.Sprintf("%#o", e.Mode), fmt.Sprintf("%#o", got.Mode))
	}
	if e.UID != got.UID || e.GID != got.GID {
		note("owner", fmt.Sprintf("%d:%d", e.UID, e.GID), fmt.Sprintf("%d:%d", got.UID, got.GID))
	}
	if e.Size != got.Size {
		note("size", e.Size, got.Size)
	}
	if e.Rdev != got.Rdev {
		note("device", fmt.Sprintf("%#x", e.Rdev), fmt.Sprintf("%#x", got.Rdev))
	}
	if !e.Mtime.Equal(got.Mtime) {
		note("mtime", e.Mtime.UTC(), got.Mtime.UTC())
	}
	if e.Link != got.Link {
		note("link to", fmt.Sprintf("%q", e.Link), fmt.Sprintf("%q", got.Link))
	}
	if !maps.Equal(e.Xattrs, got.Xattrs) {
		note("xattrs", fmt.Sprintf("%q", e.Xattrs), fmt.Sprintf("%q", got.Xattrs))
	}
	if e.Hash != got.Hash {
		note("contents", fmt.Sprintf("%x", e.Hash[:4]), fmt.Sprintf("%x", got.Hash[:4]))
	}
	if !slices.Equal(e.Group, got.Group) {
		note("hard links", e.Group, got.Group)
	}
	return lines
}

// Equal fails the test if the trees differ, and shows the first differences. It returns how many
// entries it compared.
func Equal(t testing.TB, want, got string, opts Options) int {
	t.Helper()
	wanted, err := Read(want, opts)
	if err != nil {
		t.Fatal(err)
	}
	found, err := Read(got, opts)
	if err != nil {
		t.Fatal(err)
	}
	lines := DiffEntries(wanted, found)
	if len(lines) > 0 {
		const most = 30
		t.Errorf("%d differences between %s and %s:\n%s", len(lines), want, got, strings.Join(lines[:min(len(lines), most)], "\n"))
	}
	return len(wanted)
}
