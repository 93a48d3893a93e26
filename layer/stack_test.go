package layer_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tarnfs/tarn/internal/tartest"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/rootfs"
)

// stack is layers, the lowest first, and one tar that says what is to be seen of them all.
type stack struct {
	layers [][]byte
	plain  []byte
	// umoci tells why umoci's view is another, if it is.
	umoci string
}

func stacks() map[string]stack {
	of := func(layers ...[]byte) [][]byte { return layers }
	// Each has its directories in it: what a layer says nothing about is a matter of its own.
	base := join(aDir("d"), aFile("d/a", "a"), aFile("d/b", "b"), aDir("d/sub"), aFile("d/sub/c", "c"), aFile("f", "f"), aSymlink("s", "f"))
	rest := join(aDir("d"), aFile("d/b", "b"), aDir("d/sub"), aFile("d/sub/c", "c"), aFile("f", "f"), aSymlink("s", "f"))
	const parents = "the directories that a layer lacks keep what they had below"
	return map[string]stack{
		"nothing on top":     {layers: of(base, nil), plain: base},
		"a file":             {layers: of(base, join(aDir("d"), aFile("d/.wh.a", ""))), plain: rest},
		"a file at the root": {layers: of(base, aFile(".wh.f", "")), plain: join(aDir("d"), aFile("d/a", "a"), aFile("d/b", "b"), aDir("d/sub"), aFile("d/sub/c", "c"), aSymlink("s", "f"))},
		"a symlink":          {layers: of(base, aFile(".wh.s", "")), plain: join(aDir("d"), aFile("d/a", "a"), aFile("d/b", "b"), aDir("d/sub"), aFile("d/sub/c", "c"), aFile("f", "f"))},
		"a directory":        {layers: of(base, aFile(".wh.d", "")), plain: join(aFile("f", "f"), aSymlink("s", "f"))},
		"what was not there": {layers: of(base, join(aFile(".wh.x", ""), aDir("d"), aFile("d/.wh.x", ""), aDir("n"), aFile("n/.wh.x", ""))), plain: join(base, aDir("n"))},
		"parents implied":    {layers: of(base, aFile("d/sub/.wh.c", "")), plain: join(aDir("d"), aFile("d/a", "a"), aFile("d/b", "b"), aDir("d/sub"), aFile("f", "f"), aSymlink("s", "f")), umoci: parents},
		"no layer below":     {layers: of(join(base, aFile("d/.wh.gone", ""), aFile(".wh.gone", ""))), plain: base},
		"a link as whiteout": {layers: of(base, join(aDir("d"), aLink("d/.wh.a", "d/x"))), plain: rest},
		"a device":           {layers: of(base, join(aDir("d"), aDevice("d/a", '3', 0, 0))), plain: rest, umoci: "a whiteout of overlayfs, not of OCI"},
		"a device, undone":   {layers: of(base, join(aDir("d"), aDevice("d/a", '3', 0, 0), aFile("d/a", "new"))), plain: join(rest, aFile("d/a", "new"))},
		"a device of a file": {layers: of(base, join(aDir("d"), aFile("d/a", "new"), aDevice("d/a", '3', 0, 0))), plain: rest, umoci: "a whiteout of overlayfs, not of OCI"},

		"file, then its whiteout":       {layers: of(base, join(aDir("d"), aFile("d/a", "new"), aFile("d/.wh.a", ""))), plain: join(rest, aFile("d/a", "new"))},
		"whiteout, then its file":       {layers: of(base, join(aDir("d"), aFile("d/.wh.a", ""), aFile("d/a", "new"))), plain: join(rest, aFile("d/a", "new"))},
		"directory, then its whiteout":  {layers: of(base, join(aDir("d"), aFile("d/n", "n"), aFile(".wh.d", ""))), plain: join(aDir("d"), aFile("d/n", "n"), aFile("f", "f"), aSymlink("s", "f")), umoci: "it forgets the time of d"},
		"whiteout, then its directory":  {layers: of(base, join(aFile(".wh.d", ""), aDir("d"), aFile("d/n", "n"))), plain: join(aDir("d"), aFile("d/n", "n"), aFile("f", "f"), aSymlink("s", "f"))},
		"whiteout, then implied":        {layers: of(base, join(aFile(".wh.d", ""), aFile("d/n/x", "n"))), plain: join(aDir("d"), aDir("d/n"), aFile("d/n/x", "n"), aFile("f", "f"), aSymlink("s", "f")), umoci: parents},
		"whiteout in a whited out one":  {layers: of(base, join(aFile(".wh.d", ""), aDir("d"), aFile("d/.wh.a", ""), aDir("d/sub"))), plain: join(aDir("d"), aDir("d/sub"), aFile("f", "f"), aSymlink("s", "f"))},
		"file over directory":           {layers: of(base, aFile("d", "now a file")), plain: join(aFile("d", "now a file"), aFile("f", "f"), aSymlink("s", "f"))},
		"directory over file":           {layers: of(base, join(aDir("f"), aFile("f/x", "x"))), plain: join(aDir("d"), aFile("d/a", "a"), aFile("d/b", "b"), aDir("d/sub"), aFile("d/sub/c", "c"), aDir("f"), aFile("f/x", "x"), aSymlink("s", "f"))},
		"directory over symlink":        {layers: of(join(base, aSymlink("l", "d")), join(aDir("l"), aFile("l/x", "x"))), plain: join(base, aDir("l"), aFile("l/x", "x"))},
		"link over directory":           {layers: of(base, aSymlink("d", "f")), plain: join(aSymlink("d", "f"), aFile("f", "f"), aSymlink("s", "f"))},
		"file, directory, file, gone":   {layers: of(aFile("x", "1"), join(aDir("x"), aFile("x/y", "")), aFile("x", "3"), aFile(".wh.x", ""))},
		"gone and back":                 {layers: of(base, aFile(".wh.d", ""), join(aDir("d"), aFile("d/b", "back"))), plain: join(aDir("d"), aFile("d/b", "back"), aFile("f", "f"), aSymlink("s", "f"))},
		"the last of three decides":     {layers: of(aFile("x", "1"), aFile(".wh.x", ""), aFile("x", "3")), plain: aFile("x", "3")},
		"hard links across a whiteout":  {layers: of(join(aFile("x", "1"), aLink("y", "x")), aFile(".wh.x", "")), plain: aFile("y", "1")},
		"hard link to a whited out one": {layers: of(aFile("x", "old"), join(aFile(".wh.x", ""), aFile("n", "new"), aLink("x", "n"))), plain: join(aFile("n", "new"), aLink("x", "n"))},

		"opaque":                 {layers: of(base, join(aDir("d"), aFile("d/.wh..wh..opq", ""), aFile("d/n", "n"))), plain: join(aDir("d"), aFile("d/n", "n"), aFile("f", "f"), aSymlink("s", "f"))},
		"opaque, said last":      {layers: of(base, join(aDir("d"), aFile("d/n", "n"), aFile("d/.wh..wh..opq", ""))), plain: join(aDir("d"), aFile("d/n", "n"), aFile("f", "f"), aSymlink("s", "f"))},
		"opaque, not in it":      {layers: of(base, join(aDir("d"), aDir("d/sub"), aFile("d/sub/.wh..wh..opq", ""))), plain: join(aDir("d"), aFile("d/a", "a"), aFile("d/b", "b"), aDir("d/sub"), aFile("f", "f"), aSymlink("s", "f"))},
		"opaque over a file":     {layers: of(base, join(aDir("f"), aFile("f/.wh..wh..opq", ""))), plain: join(aDir("d"), aFile("d/a", "a"), aFile("d/b", "b"), aDir("d/sub"), aFile("d/sub/c", "c"), aDir("f"), aSymlink("s", "f"))},
		"opaque, then more":      {layers: of(base, join(aDir("d"), aFile("d/.wh..wh..opq", ""), aFile("d/n", "n")), join(aDir("d"), aFile("d/m", "m"))), plain: join(aDir("d"), aFile("d/n", "n"), aFile("d/m", "m"), aFile("f", "f"), aSymlink("s", "f"))},
		"opaque root":            {layers: of(base, join(aFile(".wh..wh..opq", ""), aDir("d"), aFile("d/n", "n"))), plain: join(aDir("d"), aFile("d/n", "n"))},
		"opaque root, more":      {layers: of(base, join(aFile("x", "x"), aFile("./.wh..wh..opq", "")), join(aDir("d"), aFile("d/n", "n"))), plain: join(aFile("x", "x"), aDir("d"), aFile("d/n", "n"))},
		"opaque root at the end": {layers: of(join(aFile(".wh..wh..opq", ""), base), aFile(".wh.f", "")), plain: join(aDir("d"), aFile("d/a", "a"), aFile("d/b", "b"), aDir("d/sub"), aFile("d/sub/c", "c"), aSymlink("s", "f"))},

		"AUFS's own files":     {layers: of(base, join(aFile(".wh..wh.aufs", ""), aDir(".wh..wh.orph"), aDir(".wh..wh.plnk"), aFile(".wh..wh.plnk/1.2", "linked"), aLink("l", ".wh..wh.plnk/1.2"), aLink("l2", ".wh..wh.plnk/1.2"))), plain: join(base, aFile("l", "linked"), aLink("l2", "l")), umoci: "it takes .wh..wh.plnk for a whiteout"},
		"no whiteouts":         {layers: of(base, join(aFile("wh.f", ""), aFile(".whf", ""), aFile("x.wh.f", ""))), plain: join(base, aFile("wh.f", ""), aFile(".whf", ""), aFile("x.wh.f", ""))},
		"attributes of images": {layers: of(base, join(pax("SCHILY.xattr.trusted.overlay.opaque", "y", "SCHILY.xattr.trusted.overlay.redirect", "/f"), aDir("d"), pax("SCHILY.xattr.trusted.overlay.whiteout", ""), aFile("f", "still"))), plain: join(aDir("d"), aFile("d/a", "a"), aFile("d/b", "b"), aDir("d/sub"), aFile("d/sub/c", "c"), aFile("f", "still"), aSymlink("s", "f"), pax("SCHILY.xattr.trusted.overlay.opaque", "y", "SCHILY.xattr.trusted.overlay.redirect", "/f"), aDir("d"), pax("SCHILY.xattr.trusted.overlay.whiteout", ""), aFile("f", "still")), umoci: "it leaves them out"},
	}
}

// TestStacks mounts layers one above the other with overlayfs, and unpacks them with umoci.
func TestStacks(t *testing.T) {
	for name, s := range stacks() {
		t.Run(name, func(t *testing.T) {
			want := gnuTarView(t, writeTemp(t, join(aDir("./"), s.plain)))
			paths := make([]string, 0, len(s.layers))
			for _, tar := range s.layers {
				paths = append(paths, writeTemp(t, tar))
			}
			for _, driver := range []string{rootfs.Erofs, rootfs.Dirs} {
				sameTree(t, driver, want, readTree(t, stackOf(t, driver, storeAll(t, paths))))
			}
			if s.umoci == "" {
				// Its root is the work of the host.
				delete(want, ".")
				got := umociView(t, s.layers)
				delete(got, ".")
				sameTree(t, "umoci", want, got)
			}
		})
	}
}

func storeAll(t testing.TB, paths []string) []rootfs.Layer {
	t.Helper()
	layers := make([]rootfs.Layer, 0, len(paths))
	for _, path := range paths {
		l := storeLayer(t, path)
		fsck(t, l)
		layers = append(layers, l)
	}
	return layers
}

// stackOf mounts layers, the lowest first, as an image's root.
func stackOf(t testing.TB, driver string, layers []rootfs.Layer) *os.File {
	t.Helper()
	var lowers []*os.File
	for _, l := range slices.Backward(layers) {
		lowers = append(lowers, mountLayer(t, driver, l))
	}
	mount, err := rootfs.Overlay(lowers, nil, nil, rootfs.OverlayOptions{Run: testenv.TempDir(t)})
	must(t, err)
	t.Cleanup(func() { mount.Close() })
	return mount
}

// umociView unpacks layers with umoci, from an OCI image layout.
func umociView(t testing.TB, layers [][]byte) tree {
	t.Helper()
	testenv.RequireTool(t, "umoci")
	dir := testenv.TempDir(t)
	type object = map[string]any
	blob := func(mediaType string, data []byte) object {
		sum := sha256.Sum256(data)
		id := hex.EncodeToString(sum[:])
		must(t, os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "blobs/sha256", id), data, 0o600))
		return object{"mediaType": mediaType, "digest": "sha256:" + id, "size": len(data)}
	}
	document := func(v any) []byte {
		data, err := json.Marshal(v)
		must(t, err)
		return data
	}
	var ids []any
	var list []object
	for _, tar := range layers {
		d := blob("application/vnd.oci.image.layer.v1.tar", join(tar, tartest.End()))
		list, ids = append(list, d), append(ids, d["digest"])
	}
	config := blob("application/vnd.oci.image.config.v1+json", document(object{
		"architecture": "amd64", "os": "linux", "config": object{}, "rootfs": object{"type": "layers", "diff_ids": ids},
	}))
	manifest := blob("application/vnd.oci.image.manifest.v1+json", document(object{"schemaVersion": 2, "config": config, "layers": list}))
	manifest["annotations"] = object{"org.opencontainers.image.ref.name": "tag"}
	must(t, os.WriteFile(filepath.Join(dir, "index.json"), document(object{"schemaVersion": 2, "manifests": []object{manifest}}), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion": "1.0.0"}`), 0o600))
	bundle := filepath.Join(testenv.TempDir(t), "bundle")
	if out, err := exec.CommandContext(t.Context(), "umoci", "unpack", "--image", dir+":tag", bundle).CombinedOutput(); err != nil {
		t.Fatalf("umoci: %v\n%s", err, out)
	}
	entries, err := treecmp.Read(filepath.Join(bundle, "rootfs"), treecmp.Options{})
	must(t, err)
	return entries
}

// TestOpaqueRootIsTold checks what those go by who stack layers in other ways than with rootfs.
func TestOpaqueRootIsTold(t *testing.T) {
	for name, want := range map[string]bool{".wh..wh..opq": true, "d/.wh..wh..opq": false, ".wh.d": false} {
		scanned := mustScan(t, openFile(t, writeTemp(t, aFile(name, ""))))
		if scanned.Opaque() != want {
			t.Errorf("%s: Opaque() = %v", name, !want)
		}
	}
}
