package untar_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/layer/tarfile"
	"github.com/tarnfs/tarn/layer/untar"
)

// build writes a tar; of a regular file, Linkname is the contents.
func build(t testing.TB, entries ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text, h.Linkname, h.Size = h.Linkname, "", int64(len(h.Linkname))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, text)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return &b
}

func file(name, text string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: text}
}

func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

func directory(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name} }

// world is a root directory, and a directory beside it that nothing may get to.
type world struct {
	t             *testing.T
	root, outside string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.RequireRoot(t)
	dir := testenv.TempDir(t)
	w := &world{t, filepath.Join(dir, "root"), filepath.Join(dir, "outside")}
	require.NoError(t, os.Mkdir(w.root, 0o755))
	require.NoError(t, os.Mkdir(w.outside, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(w.outside, "file"), []byte("precious"), 0o600))
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.root, name) }

func (w *world) extract(b *bytes.Buffer, follow bool, opts untar.Options) error {
	w.t.Helper()
	root, err := os.Open(w.root)
	require.NoError(w.t, err)
	defer root.Close()
	err = untar.Extract(w.t.Context(), b, untar.Target{Root: root, Dir: ".", Follow: follow}, opts)
	text, readErr := os.ReadFile(filepath.Join(w.outside, "file"))
	require.NoError(w.t, readErr)
	require.Equal(w.t, "precious", string(text))
	entries, readErr := os.ReadDir(w.outside)
	require.NoError(w.t, readErr)
	require.Len(w.t, entries, 1)
	return err
}

func (w *world) text(name string) string {
	w.t.Helper()
	text, err := os.ReadFile(w.path(name))
	require.NoError(w.t, err)
	return string(text)
}

func TestNothingGetsOutside(t *testing.T) {
	for _, follow := range []bool{false, true} {
		for name, entries := range map[string][]tar.Header{
			"up":                  {file("../outside/file", "x")},
			"up from a directory": {file("a/../../outside/file", "x")},
			"through a link":      {link("a", "../outside"), file("a/file", "x")},
			"an absolute one":     {link("a", "OUT"), file("a/file", "x")},
			"a link itself":       {link("a", "OUT/file"), file("a", "x")},
			"a hard link up":      {{Typeflag: tar.TypeLink, Name: "a", Linkname: "../outside/file"}},
			"a hard link by one":  {link("l", "OUT"), {Typeflag: tar.TypeLink, Name: "a", Linkname: "l/file"}, file("a", "x")},
			"a directory's mode":  {link("a", "OUT"), {Typeflag: tar.TypeDir, Name: "a", Mode: 0o777}},
			"an implied one":      {link("a", "../outside/new"), file("a/b/c", "x")},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				for i := range entries {
					entries[i].Linkname = strings.Replace(entries[i].Linkname, "OUT", w.outside, 1)
				}
				_ = w.extract(build(t, entries...), follow, untar.Options{})
				info, err := os.Stat(w.outside)
				require.NoError(t, err)
				require.Equal(t, os.FileMode(0o755), info.Mode().Perm())
			})
		}
	}
	w := newWorld(t)
	require.ErrorIs(t, w.extract(build(t, file("../x", "")), true, untar.Options{}), untar.ErrUnsafe)
}

// What is there is replaced, and directories are kept, with what is in them; kinds are not changed.
func TestOverOtherFiles(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.extract(build(t, file("f", "old"), directory("d/"), file("d/kept", "k"), link("l", "f"), directory("real/"), link("dl", "real")), true, untar.Options{}))
	require.NoError(t, os.Link(w.path("f"), w.path("other")))
	require.NoError(t, w.extract(build(t, file("f", "new"), directory("d/"), file("d/more", "m"), file("l", "no link"), file("/abs", "a"), file("x/y/z", "deep")), true, untar.Options{}))
	require.Equal(t, "new", w.text("f"))
	require.Equal(t, "old", w.text("other"), "it was written to, not replaced")
	require.Equal(t, "k", w.text("d/kept"))
	require.Equal(t, "no link", w.text("l"))
	require.Equal(t, "a", w.text("abs"))
	require.Equal(t, "deep", w.text("x/y/z"))
	require.ErrorIs(t, w.extract(build(t, file("d", "x")), true, untar.Options{}), untar.ErrKind)
	require.ErrorIs(t, w.extract(build(t, directory("f/")), true, untar.Options{}), untar.ErrKind)
	// A link to a directory is as good as one, where links are followed.
	require.NoError(t, w.extract(build(t, directory("dl/"), file("dl/in", "i")), true, untar.Options{}))
	require.Equal(t, "i", w.text("real/in"))
	require.ErrorIs(t, w.extract(build(t, directory("dl/")), false, untar.Options{}), untar.ErrKind)
	require.ErrorIs(t, w.extract(build(t, file("dl/in", "x")), false, untar.Options{}), syscall.ELOOP)
}

func TestPlainCopiesHaveNoPowers(t *testing.T) {
	for _, plain := range []bool{true, false} {
		w := newWorld(t)
		var skipped []string
		opts := untar.Options{Plain: plain, Skipped: func(name string) { skipped = append(skipped, name) }}
		if plain {
			opts.Owner = func(_, _ uint32) (uint32, uint32) { return 3, 4 }
		}
		require.NoError(t, w.extract(build(t,
			tar.Header{Typeflag: tar.TypeReg, Name: "su", Mode: 0o6755, Uid: 9, Gid: 9, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1"}},
			tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3, Mode: 0o666},
			tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600},
		), false, opts))
		var st syscall.Stat_t
		require.NoError(t, syscall.Stat(w.path("su"), &st))
		value := make([]byte, 9)
		_, xattrErr := syscall.Getxattr(w.path("su"), "user.a", value)
		if plain {
			require.Equal(t, []string{"dev/null"}, skipped)
			require.Equal(t, []uint32{3, 4, 0o755}, []uint32{st.Uid, st.Gid, st.Mode & 0o7777})
			require.ErrorIs(t, xattrErr, syscall.ENODATA)
			require.NoFileExists(t, w.path("dev/null"))
		} else {
			require.Empty(t, skipped)
			require.Equal(t, []uint32{9, 9, 0o6755}, []uint32{st.Uid, st.Gid, st.Mode & 0o7777})
			require.NoError(t, xattrErr)
			require.FileExists(t, w.path("dev/null"))
		}
	}
}

// A sparse file's holes stay holes, however long they are.
func TestSparse(t *testing.T) {
	w := newWorld(t)
	var b bytes.Buffer
	tw := tarfile.NewWriter(&b)
	require.NoError(t, tw.WriteHeader(&tarfile.Header{
		Name: "s", Type: tarfile.TypeReg, Mode: 0o600, Size: 1 << 40, Sparse: []tarfile.Segment{{Offset: 4096, Length: 3}, {Offset: 1 << 39, Length: 2}},
	}))
	_, err := io.WriteString(tw, "abcde")
	require.NoError(t, err)
	require.NoError(t, tw.Close())
	require.NoError(t, w.extract(&b, false, untar.Options{}))
	f, err := os.Open(w.path("s"))
	require.NoError(t, err)
	defer f.Close()
	piece := make([]byte, 3)
	_, err = f.ReadAt(piece, 1<<39-1)
	require.NoError(t, err)
	require.Equal(t, "\x00de", string(piece))
	var st syscall.Stat_t
	require.NoError(t, syscall.Fstat(int(f.Fd()), &st))
	require.Equal(t, int64(1<<40), st.Size)
	require.Less(t, st.Blocks, int64(100))
}

// The kernel's file systems are no place for files.
func TestNotIntoProc(t *testing.T) {
	testenv.RequireRoot(t)
	root, err := os.Open("/")
	require.NoError(t, err)
	defer root.Close()
	err = untar.Extract(t.Context(), build(t, file("sys/kernel/hostname", "x")), untar.Target{Root: root, Dir: "proc", Follow: true}, untar.Options{})
	require.ErrorIs(t, err, untar.ErrKernel)
}

// Whatever the tar, nothing outside of the root changes, and nothing but an error comes of it.
func FuzzExtract(f *testing.F) {
	f.Add(build(f, file("a/b", "x"), link("l", "../outside"), file("l/file", "y"), directory("d/")).Bytes(), true)
	f.Add(build(f, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "../outside/file"}, file("h", "x")).Bytes(), false)
	f.Fuzz(func(t *testing.T, data []byte, follow bool) {
		w := newWorld(t)
		err := w.extract(bytes.NewBuffer(data), follow, untar.Options{Plain: true, Limits: tarfile.Limits{Entries: 1000, FileSize: 1 << 20}})
		if errors.Is(err, os.ErrPermission) {
			return
		}
	})
}
