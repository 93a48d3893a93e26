package engine_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	at "github.com/tarnfs/tarn/internal/archivetest"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
)

// drivers runs a test with each storage driver, in a store on a disk.
func drivers(t *testing.T, test func(t *testing.T, e *engine.Engine)) {
	t.Helper()
	testenv.RequireRoot(t)
	for _, driver := range []string{"erofs", "dirs"} {
		t.Run(driver, func(t *testing.T) {
			if driver == "erofs" {
				testenv.RequireErofsFile(t)
			}
			root, run := testenv.TarnRoot(t)
			t.Setenv("TARN_STORAGE_DRIVER", driver)
			e, err := engine.Open(engine.Options{Root: root, Run: run})
			require.NoError(t, err)
			test(t, e)
		})
	}
}

// mounted gives the directory where the root file system of an image is.
func mounted(t *testing.T, e *engine.Engine, ref string) string {
	t.Helper()
	dir, err := e.Mount(t.Context(), ref)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Umount(context.WithoutCancel(t.Context()), ref)) })
	return dir
}

// node is an entry of a layer that can be anything; fields that are zero have a default.
type node struct {
	name, content string
	header        tar.Header
}

func nodesTar(t *testing.T, nodes ...node) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i, n := range nodes {
		h := n.header
		h.Name, h.Size, h.Format = n.name, int64(len(n.content)), tar.FormatPAX
		switch {
		case h.Typeflag != 0:
		case strings.HasSuffix(n.name, "/"):
			h.Typeflag = tar.TypeDir
		default:
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_600_000_000+int64(i), 123_456_789)
		}
		require.NoError(t, w.WriteHeader(&h), n.name)
		_, err := io.WriteString(w, n.content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func xattrs(pairs ...string) tar.Header {
	h := tar.Header{PAXRecords: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		h.PAXRecords["SCHILY.xattr."+pairs[i]] = pairs[i+1]
	}
	return h
}

// capNetRaw is what "setcap cap_net_raw+ep" writes (struct vfs_cap_data, revision 2).
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// stackedLayers are layers that add, change, replace and take away all kinds of entries of each other.
// Every parent has an entry in every layer: where it has none, tools do not agree what it is like.
func stackedLayers(t *testing.T) []at.Layer {
	t.Helper()
	var long []node
	for depth := 1; depth <= 30; depth++ {
		long = append(long, node{name: strings.Repeat("long/", depth)})
	}
	lower := nodesTar(t, append(long, []node{
		{name: "./", header: tar.Header{Mode: 0o711}},
		{name: "kept/", header: tar.Header{Mode: 0o1777, Uid: 70000, Gid: 80000}},
		{name: "kept/file", content: "kept"},
		{name: "kept/gone", content: "gone"},
		{name: "kept/gonedir/"},
		{name: "kept/gonedir/below", content: "below"},
		{name: "kept/chmod", content: "the same contents", header: tar.Header{Mode: 0o600}},
		{name: "opaque/", header: xattrs("user.lower", "x")},
		{name: "opaque/hidden", content: "hidden"},
		{name: "opaque/deep/"},
		{name: "opaque/deep/hidden", content: "hidden"},
		{name: "filedir", content: "a file that becomes a directory"},
		{name: "dirfile/"},
		{name: "dirfile/below", content: "below a directory that becomes a file"},
		{name: "linkfile", header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "kept/file", Mode: 0o777}},
		{name: "linkdir", header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "/kept", Mode: 0o777}},
		{name: "hard1", content: "two names"},
		{name: "hard2", header: tar.Header{Typeflag: tar.TypeLink, Linkname: "hard1"}},
		{name: "pair1", content: "of a pair one goes"},
		{name: "pair2", header: tar.Header{Typeflag: tar.TypeLink, Linkname: "pair1"}},
		{name: "ping", content: "ELF", header: xattrs("security.capability", capNetRaw, "user.a", "1", "trusted.b", "2")},
		{name: "setuid", content: "ELF", header: tar.Header{Mode: 0o6755}},
		{name: "null", header: tar.Header{Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}},
		{name: "disk", header: tar.Header{Typeflag: tar.TypeBlock, Devmajor: 300, Devminor: 70000, Mode: 0o660}},
		{name: "fifo", header: tar.Header{Typeflag: tar.TypeFifo, Mode: 0o622}},
		{name: "empty"},
		{name: "big", content: strings.Repeat("0123456789abcdef", 50_000)},
		{name: "müll\xff\n", content: "not UTF-8"},
		{name: "old", content: "before 1970", header: tar.Header{ModTime: time.Unix(-1000, 5)}},
		{name: strings.Repeat("long/", 30) + strings.Repeat("n", 250), content: "long"},
	}...)...)
	middle := nodesTar(
		t,
		node{name: "./", header: tar.Header{Mode: 0o755}},
		node{name: "kept/", header: tar.Header{Mode: 0o755, Uid: 5}},
		node{name: "kept/.wh.gone", header: tar.Header{Mode: 0o600}},
		node{name: "kept/.wh.gonedir"},
		node{name: "kept/chmod", content: "the same contents", header: tar.Header{Mode: 0o444, Uid: 1}},
		node{name: "kept/added", content: "added"},
		node{name: "opaque/", header: tar.Header{Mode: 0o750}},
		node{name: "opaque/.wh..wh..opq"},
		node{name: "opaque/seen", content: "seen"},
		node{name: "opaque/deep/"},
		node{name: ".wh.filedir"},
		node{name: "filedir/"},
		node{name: "filedir/below", content: "below"},
		node{name: "dirfile", content: "a file now"},
		node{name: "linkfile", content: "a file now"},
		node{name: "linkdir/"},
		node{name: "linkdir/below", content: "below"},
		node{name: "hard1", content: "on its own now"},
		node{name: ".wh.pair2"},
		node{name: ".wh.never-was"},
		node{name: "ping", content: "ELF", header: xattrs("user.a", "other")},
		node{name: "fifo", header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "../fifo", Mode: 0o777}},
	)
	upper := nodesTar(
		t,
		node{name: "./", header: tar.Header{Mode: 0o755}},
		node{name: "kept/", header: tar.Header{Mode: 0o755, Uid: 6}},
		node{name: "kept/gone", content: "back again"},
		node{name: "kept/gonedir/", header: tar.Header{Mode: 0o700}},
		node{name: "kept/.wh.added"},
		node{name: "opaque/", header: tar.Header{Mode: 0o750}},
		node{name: "opaque/.wh.deep"},
		node{name: "opaque/hidden", content: "another one"},
		node{name: ".wh.filedir"},
		node{name: "dirfile/"},
		node{name: "dirfile/other", content: "a directory again"},
	)
	return []at.Layer{gzLayer(t, lower), at.PlainLayer(nodesTar(t)), at.PlainLayer(middle), gzLayer(t, upper)}
}

func TestLayersWithWhiteoutsAreWhatUmociUnpacks(t *testing.T) {
	testenv.RequireRoot(t)
	umoci := testenv.NewTool(t, "umoci", nil)
	layers := stackedLayers(t)
	repeated := []at.Layer{layers[3], layers[0], layers[2], layers[1], layers[0], layers[2], layers[1], layers[3]}
	layout := at.Layout(map[string]at.Image{"1": at.NewImage("stacked", layers...), "2": at.NewImage("repeated", repeated...)}, "1", "2")
	dir := layout.Dir(t)
	want := map[string]string{}
	for _, tag := range []string{"1", "2"} {
		bundle := filepath.Join(testenv.TempDir(t), "bundle")
		umoci("unpack", "--image", dir+":"+tag, bundle)
		want[tag] = filepath.Join(bundle, "rootfs")
	}
	require.NoFileExists(t, filepath.Join(want["1"], "opaque", "deep"), "umoci knows whiteouts")
	require.FileExists(t, filepath.Join(want["1"], "kept", "gone"))

	drivers(t, func(t *testing.T, e *engine.Engine) {
		loaded := load(t, e, writeFile(t, "stacked.tar", layout.Tar(t)))
		require.Equal(t, "stacked:1", loaded[0].Names[0].Familiar())
		for tag, tree := range want {
			n := treecmp.Equal(t, tree, mounted(t, e, "stacked:"+tag), treecmp.Options{})
			require.Greater(t, n, 50)
		}
	})
}

func TestUmociRepackIsLoaded(t *testing.T) {
	testenv.RequireRoot(t)
	umoci := testenv.NewTool(t, "umoci", nil)
	// A real system's layer is made by a tool and not by a test: below an imported root, umoci packs what
	// was changed in the tree that it unpacked.
	layout, bundle := filepath.Join(testenv.TempDir(t), "layout"), filepath.Join(testenv.TempDir(t), "bundle")
	from := newEngine(t)
	f, err := os.Open(testenv.BusyboxTar(t))
	require.NoError(t, err)
	defer f.Close()
	_, err = from.Import(t.Context(), f, engine.ImportOptions{Name: "box:1"})
	require.NoError(t, err)
	require.NoError(t, from.Save(t.Context(), engine.SaveOptions{Images: []string{"box:1"}, Format: "oci-dir", Output: layout}))
	tag := "docker.io/library/box:1"
	umoci("unpack", "--image", layout+":"+tag, bundle)
	root := filepath.Join(bundle, "rootfs")
	require.NoError(t, os.RemoveAll(filepath.Join(root, "home")))
	require.NoError(t, os.Remove(filepath.Join(root, "bin", "sh")))
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin", "new"), []byte("new"), 0o4755))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "opt", "a", "b"), 0o700))
	require.NoError(t, os.Symlink("../passwd", filepath.Join(root, "etc", "link")))
	require.NoError(t, os.Chtimes(filepath.Join(root, "etc"), time.Time{}, time.Unix(1e9, 0)))
	umoci("repack", "--image", layout+":repacked", bundle)
	again := filepath.Join(testenv.TempDir(t), "again")
	umoci("unpack", "--image", layout+":repacked", again)

	drivers(t, func(t *testing.T, e *engine.Engine) {
		require.Len(t, load(t, e, layout), 2)
		// The layer has no entry for the root, whose time umoci leaves as extraction made it.
		skipRoot := treecmp.Options{SkipTime: func(path string) bool { return path == "." }}
		treecmp.Equal(t, filepath.Join(again, "rootfs"), mounted(t, e, "layout:repacked"), skipRoot)
	})
}

func TestImportedDebianIsWhatTarExtracts(t *testing.T) {
	want := testenv.DebianDir(t)
	drivers(t, func(t *testing.T, e *engine.Engine) {
		_, err := e.ImportFile(t.Context(), testenv.DebianTar(t), nil, engine.ImportOptions{Name: "debian"})
		require.NoError(t, err)
		n := treecmp.Equal(t, want, mounted(t, e, "debian"), treecmp.Options{})
		require.Greater(t, n, 5000)
	})
}
