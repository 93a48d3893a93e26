package copytree_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/copytree"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
)

func makeTree(t *testing.T, dir string) {
	t.Helper()
	p := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.MkdirAll(p("a/b"), 0o755))
	require.NoError(t, os.WriteFile(p("a/file"), []byte("content"), 0o640))
	require.NoError(t, os.Chown(p("a/file"), 1000, 1001))
	require.NoError(t, os.Link(p("a/file"), p("a/b/linked")))
	require.NoError(t, os.WriteFile(p("setuid"), nil, 0o755))
	require.NoError(t, os.Chown(p("setuid"), 7, 7))
	require.NoError(t, os.Chmod(p("setuid"), 0o755|os.ModeSetuid))
	require.NoError(t, os.Symlink("/etc/passwd", p("absolute")))
	require.NoError(t, os.Lchown(p("absolute"), 5, 6))
	require.NoError(t, syscall.Mknod(p("null"), syscall.S_IFCHR|0o666, 1<<8|3))
	require.NoError(t, os.Chmod(p("null"), 0o666))
	require.NoError(t, syscall.Mkfifo(p("fifo"), 0o622))
	f, err := os.Open(p("a/b"))
	require.NoError(t, err)
	require.NoError(t, sys.SetXattr(f, "user.tag", []byte("value")))
	require.NoError(t, f.Close())
	parent, err := os.Open(dir)
	require.NoError(t, err)
	old := time.Unix(1_600_000_000, 123456789)
	for _, name := range []string{"absolute", "null", "fifo", "setuid", "a/file", "a/b", "a"} {
		require.NoError(t, sys.SetEntryTime(parent, name, old))
	}
	require.NoError(t, parent.Close())
	require.NoError(t, os.Chown(dir, 33, 34))
	require.NoError(t, os.Chmod(dir, 0o777|os.ModeSticky))
	require.NoError(t, os.Chtimes(dir, old, old))
}

func TestCopyIsFaithful(t *testing.T) {
	testenv.RequireRoot(t)
	from, to := testenv.TempDir(t), testenv.TempDir(t)
	makeTree(t, from)
	source, err := os.Open(from)
	require.NoError(t, err)
	defer source.Close()
	target, err := os.Open(to)
	require.NoError(t, err)
	defer target.Close()
	require.NoError(t, copytree.Copy(target, source))
	treecmp.Equal(t, from, to, treecmp.Options{})
	require.ErrorIs(t, copytree.Copy(target, source), os.ErrExist, "the target is not empty any more")
}
