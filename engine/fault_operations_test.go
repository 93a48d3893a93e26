package engine_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	at "github.com/tarnfs/tarn/internal/archivetest"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

// operations lists the commands that change a store, each on what richStore gives.
func operations(t *testing.T, rich *host) []*operation {
	t.Helper()
	archive := writeFile(t, "more.tar", at.Layout(moreImages(t), "x/one:1", "x/two:1").Tar(t))
	packed := writeFile(t, "packed.tar", rootTar(t, append(files(0, 15), files(300, 303)...)...))
	inPlace := writeFile(t, "in-place.tar", rootTar(t, append(append(files(400, 430), files(400, 403)...), files(10, 14)...)...))
	saved := filepath.Join(testenv.TempDir(t), "saved.tar")
	require.NoError(t, rich.Save(t.Context(), engine.SaveOptions{Images: everyImage(t, rich.Engine), Output: saved}))
	registry := newEngine(t)
	load(t, registry, archive)
	host := serve(t, registry).host
	require.NoError(t, registry.Tag(t.Context(), "x/two:1", host+"/x/two:1"))
	loaded := func(s *scene) { load(t, s.open(), archive) }
	return []*operation{
		{name: "import, packed", args: []string{"import", "--name", "new", packed}, done: hasImages(true, "new")},
		{name: "import, in place", args: []string{"import", "--name", "new", inPlace}, done: hasImages(true, "new")},
		{name: "import under a name that moves", args: []string{"import", "--name", "a", packed}, retags: "docker.io/library/a:latest"},
		{name: "import of a layer that comes again", args: []string{"import", "--name", "gone", writeFile(t, "gone.tar", goneTar(t))}, done: hasImages(true, "gone")},
		{name: "load", args: []string{"load", "-q", "-i", archive}, done: hasImages(true, "x/one:1", "x/two:1")},
		{name: "pull", online: true, args: []string{"pull", "-q", host + "/x/two:1"}, done: hasImages(true, host+"/x/two:1")},
		{name: "commit", args: []string{"commit", "worker", "done"}, done: hasImages(true, "done")},
		{name: "compact", prepare: loaded, args: []string{"compact"}},
		{name: "tag", args: []string{"tag", "packed", "more:1"}, done: hasImages(true, "more:1")},
		{
			name: "prune", frees: true, args: []string{"prune", "--all", "--force"}, removes: func(name string) bool { return !named("box")(name) },
			done: hasImages(false, "a:latest", "packed", "heir"),
		},
		{name: "rmi of a lender", frees: true, args: []string{"rmi", "a:latest"}, removes: named("a"), done: hasImages(false, "a:latest"), again: "no such image"},
		{name: "rmi of who borrows", frees: true, args: []string{"rmi", "heir"}, removes: named("heir"), done: hasImages(false, "heir"), again: "no such image"},
		{
			name: "rmi of what is mounted", erofs: true, frees: true, each: func(s *scene) { s.mountWith(rootfs.Erofs, "packed") }, args: []string{"rmi", "packed", "copied"}, removes: named("packed", "copied"),
			done: hasImages(false, "packed", "copied"), again: "no such image",
		},
		{name: "rm", frees: true, args: []string{"rm", "worker"}, rm: "worker", done: hasContainer(false, "worker"), again: "no such container"},
		{
			name: "run", args: []string{"run", "--name", "fresh", "-v", "new:/v", "copied", "sh", "-c", "echo hello > /v/hello; echo x > /x"},
			done: hasContainer(true, "fresh"), again: "already exists",
		},
		{
			name: "run with --rm", args: []string{"run", "--rm", "--name", "fresh", "-v", "/v", "copied", "sh", "-c", "echo hello > /v/hello; rm /copy"},
			done: hasContainer(false, "fresh"), again: "already exists",
		},
		{
			name: "run, dirs", driver: rootfs.Dirs, args: []string{"run", "--rm", "--name", "fresh", "copied", "sh", "-c", "rm /copy"},
			done: hasContainer(false, "fresh"), again: "already exists",
		},
		{
			name: "rmi, dirs", frees: true, driver: rootfs.Dirs, prepare: func(s *scene) { s.mountWith(rootfs.Dirs, "packed") },
			args: []string{"rmi", "packed"}, removes: named("packed"), done: hasImages(false, "packed"), again: "no such image",
		},
		{
			name: "create", args: []string{"create", "--name", "fresh", "-v", "new:/v", "copied", "true"},
			done: hasContainer(true, "fresh"), again: "already exists",
		},
		{name: "volume create", args: []string{"volume", "create", "new"}},
		{name: "volume rm", frees: true, prepare: spareVolume, args: []string{"volume", "rm", "spare"}, again: "no such volume"},
		{name: "volume prune", frees: true, prepare: spareVolume, args: []string{"volume", "prune", "--all", "--force"}},
		{name: "mount", args: []string{"mount", "heir", "worker"}},
		{name: "repair", prepare: damageSome, args: []string{"repair", "--offline", "--from", saved}, heals: true},
	}
}

func spareVolume(s *scene) {
	s.t.Helper()
	out, err := s.command(&operation{}, []string{"volume", "create", "spare"}).CombinedOutput()
	require.NoError(s.t, err, "%s", out)
	data, err := s.open().Store.VolumePath("spare")
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(filepath.Join(data, "data"), []byte(content(1, 300_000)), 0o600))
}

// goneTar is the tar of the layer that richStore has removed.
func goneTar(t *testing.T) []byte {
	t.Helper()
	return rootTar(t, append(files(40, 52), content(900, 100_000))...)
}

// moreImages gives two images that the store does not have, with compressed layers that have much in common
// with each other and with layers that it has.
func moreImages(t *testing.T) map[string]at.Image {
	t.Helper()
	shared := gzLayer(t, rootTar(t, append(files(5, 15), files(600, 605)...)...))
	top := zstLayer(t, rootTar(t, files(600, 604)...))
	return map[string]at.Image{
		"x/one:1": at.NewImage("x/one", shared), "x/two:1": at.NewImage("x/two", shared, top, gzLayer(t, rootTar(t, files(620, 622)...))),
	}
}

// mountWith shows an image by a driver, and takes it away.
func (s *scene) mountWith(driver, name string) {
	s.t.Helper()
	e, err := engine.Open(engine.Options{Root: s.root, Run: s.run, Driver: driver})
	require.NoError(s.t, err)
	_, err = e.Mount(s.t.Context(), name)
	require.NoError(s.t, err)
	require.NoError(s.t, e.Umount(s.t.Context(), name))
}

// damageSome damages a layer's own file, an index, a map and a config, and loses a manifest.
func damageSome(s *scene) {
	s.t.Helper()
	e := s.open()
	layer := func(name string) string {
		img, err := e.Image(name)
		require.NoError(s.t, err)
		l, err := e.Store.Layer(img.Config.RootFS.DiffIDs[0])
		require.NoError(s.t, err)
		return l.Dir()
	}
	flip := func(path string, offset int64) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(s.t, err)
		defer f.Close()
		var b [1]byte
		_, err = f.ReadAt(b[:], offset)
		require.NoError(s.t, err)
		b[0] ^= 1
		_, err = f.WriteAt(b[:], offset)
		require.NoError(s.t, err)
	}
	flip(filepath.Join(layer("a"), "layer.tar"), 100_000)
	flip(filepath.Join(layer("packed"), "holes"), 50)
	flip(filepath.Join(layer("heir"), "index.erofs"), 2000)
	flip(filepath.Join(layer("in-place"), "sums"), 40)
	img, err := e.Image("box")
	require.NoError(s.t, err)
	flip(filepath.Join(s.root, "blobs/sha256", img.ID.Hex()), 10)
	require.NoError(s.t, os.Remove(filepath.Join(s.root, "blobs/sha256", strings.TrimPrefix(string(img.Manifest), "sha256:"))))
}
