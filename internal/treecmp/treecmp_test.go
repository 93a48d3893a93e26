package treecmp_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
)

func makeTree(t *testing.T) string {
	t.Helper()
	dir := testenv.TempDir(t)
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "a/b"), 0o755),
		os.WriteFile(filepath.Join(dir, "a/file"), []byte("contents"), 0o644),
		os.Link(filepath.Join(dir, "a/file"), filepath.Join(dir, "a/b/link")),
		os.WriteFile(filepath.Join(dir, "a/other"), []byte("contents"), 0o644),
		os.Symlink("nowhere", filepath.Join(dir, "symlink")),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
		syscall.Setxattr(filepath.Join(dir, "a"), "user.a", []byte{0, 1}, 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	restamp(dir)
	return dir
}

func skipSymlinkTime(path string) bool { return path == "symlink" }

func TestSame(t *testing.T) {
	if n := treecmp.Equal(t, makeTree(t), makeTree(t), treecmp.Options{SkipTime: skipSymlinkTime}); n != 8 {
		t.Errorf("compared %d entries, want 8", n)
	}
}

// TestDifferences changes one thing at a time: each must be found, and named.
func TestDifferences(t *testing.T) {
	change := map[string]struct {
		change func(dir string) error
		want   string
	}{
		"missing": {func(dir string) error { return os.Remove(dir + "/fifo") }, `"fifo" is missing`},
		"extra":   {func(dir string) error { return os.Mkdir(dir+"/x", 0o755) }, `"x" is not wanted`},
		"type": {func(dir string) error {
			_ = os.Remove(dir + "/fifo")
			return os.WriteFile(dir+"/fifo", nil, 0o600)
		}, `"fifo": mode`},
		"permissions": {func(dir string) error { return os.Chmod(dir+"/a/b", 0o700) }, `"a/b": mode`},
		"root":        {func(dir string) error { return os.Chmod(dir, 0o711) }, `".": mode`},
		"contents":    {func(dir string) error { return os.WriteFile(dir+"/a/other", []byte("Contents"), 0o644) }, `"a/other": contents`},
		"size":        {func(dir string) error { return os.Truncate(dir+"/a/other", 7) }, `"a/other": size`},
		"target": {func(dir string) error {
			_ = os.Remove(dir + "/symlink")
			return os.Symlink("nothere", dir+"/symlink")
		}, `"symlink": link to`},
		"xattr value": {func(dir string) error { return syscall.Setxattr(dir+"/a", "user.a", []byte{0}, 0) }, `"a": xattrs`},
		"xattr name":  {func(dir string) error { return syscall.Setxattr(dir+"/a/b", "user.b", nil, 0) }, `"a/b": xattrs`},
		"a link less": {func(dir string) error {
			_ = os.Remove(dir + "/a/b/link")
			return os.WriteFile(dir+"/a/b/link", []byte("contents"), 0o644)
		}, `"a/file": hard links`},
		"links grouped otherwise": {func(dir string) error {
			_ = os.Remove(dir + "/a/b/link")
			return os.Link(dir+"/a/other", dir+"/a/b/link")
		}, `"a/other": hard links`},
	}
	for name, tt := range change {
		t.Run(name, func(t *testing.T) {
			want, got := makeTree(t), makeTree(t)
			if err := tt.change(got); err != nil {
				t.Fatal(err)
			}
			restamp(got)
			lines, err := treecmp.Diff(want, got, treecmp.Options{SkipTime: skipSymlinkTime})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, tt.want) }) {
				t.Errorf("got %q, want a line that begins with %q", lines, tt.want)
			}
		})
	}
	t.Run("time", func(t *testing.T) {
		want, got := makeTree(t), makeTree(t)
		if err := os.Chtimes(got+"/a/file", time.Time{}, time.Unix(1e9, 6)); err != nil {
			t.Fatal(err)
		}
		lines, err := treecmp.Diff(want, got, treecmp.Options{SkipTime: skipSymlinkTime})
		if err != nil || len(lines) != 2 || !strings.HasPrefix(lines[0], `"a/b/link": mtime`) {
			t.Errorf("got %q, %v, want the mtime of a/b/link and a/file", lines, err)
		}
	})
}

// restamp stamps again what a change has left.
func restamp(dir string) {
	for _, name := range []string{"a/file", "a/other", "a/b/link", "a/b", "a", "fifo", "."} {
		_ = os.Chtimes(filepath.Join(dir, name), time.Time{}, time.Unix(1e9, 5))
	}
}
