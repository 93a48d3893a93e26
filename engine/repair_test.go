package engine_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/store"
)

// flip changes a byte of a file.
func flip(t *testing.T, path string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], offset)
	require.NoError(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], offset)
	require.NoError(t, err)
}

// ownFile gives the path of the file with a layer's own bytes.
func ownFile(t *testing.T, e *engine.Engine, diffID image.Digest) string {
	t.Helper()
	l, err := e.Store.Layer(diffID)
	require.NoError(t, err)
	list, err := filepath.Glob(filepath.Join(l.Dir(), "layer.*"))
	require.NoError(t, err)
	require.Len(t, list, 1)
	return list[0]
}

// requireMended repairs a store from what the options say, and nothing is wrong any more.
func requireMended(t *testing.T, e *engine.Engine, opts engine.RepairOptions) {
	t.Helper()
	repaired, err := e.Repair(t.Context(), opts)
	require.NoError(t, err)
	require.Empty(t, repaired.Left)
	require.NotEmpty(t, repaired.Mended)
	// Nobody may need any more what is left of a layer. That goes like all that is left over.
	_, err = e.Prune(t.Context(), engine.PruneFilter{}, engine.PruneReport{})
	require.NoError(t, err)
	requireSound(t, e)
}

// TestRepairFetchesJustTheDamage: of a layer that is not compressed just the damaged spans are fetched; of one that
// is, the whole, if its compressed form is damaged, too.
func TestRepairFetchesJustTheDamage(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	plain, packed := layerTar(t, 1, 3<<20), layerTar(t, 2, 1<<20)
	remote{t, reg.Host}.pushImage("app", "latest", image.HostPlatform(),
		pushLayer{image.MediaTypeLayer, plain, image.DigestBytes(plain)}, gzipLayer(t, packed))
	proxy := testenv.StartProxy(t, reg.Host)
	e := newEngine(t)
	_, err := e.Pull(t.Context(), proxy.Host+"/app", engine.PullOptions{})
	require.NoError(t, err)
	requireSound(t, e)
	proxy.Requests()
	var fetched atomic.Int64
	proxy.ChangeBodies(func(_ *http.Request, body io.Reader) io.Reader { return counting{body, &fetched} })

	own := ownFile(t, e, image.DigestBytes(plain))
	for _, at := range []int64{0, 100, 700_000, 700_000 + store.SpanSize, 3 << 20} {
		flip(t, own, at)
	}
	requireMended(t, e, engine.RepairOptions{})
	require.Equal(t, []string{"GET", "GET", "GET"}, methods(proxy.Requests()), "two neighbours at once")
	require.LessOrEqual(t, fetched.Load(), int64(4*store.SpanSize))

	fetched.Store(0)
	flip(t, ownFile(t, e, image.DigestBytes(packed)), 5000)
	requireMended(t, e, engine.RepairOptions{})
	require.Zero(t, fetched.Load(), "its compressed form is here")

	img, err := e.Image(proxy.Host + "/app")
	require.NoError(t, err)
	manifest, err := e.Store.Manifest(img.Manifest)
	require.NoError(t, err)
	for _, d := range []image.Digest{manifest.Layers[1].Digest, img.Manifest, img.ID} {
		flip(t, filepath.Join(e.Store.Root(), "blobs", "sha256", d.Hex()), 50)
	}
	flip(t, ownFile(t, e, image.DigestBytes(packed)), 5000)
	repaired, err := e.Repair(t.Context(), engine.RepairOptions{Offline: true})
	require.NoError(t, err)
	require.Empty(t, repaired.Mended)
	require.ErrorIs(t, repaired.Left[0].Why, store.ErrNoSource)
	requireMended(t, e, engine.RepairOptions{})

	reg.Stop()
	flip(t, own, 100)
	repaired, err = e.Repair(t.Context(), engine.RepairOptions{})
	require.NoError(t, err)
	require.Len(t, repaired.Left, 1)
	require.ErrorContains(t, repaired.Left[0].Why, proxy.Host+"/app")
}

type counting struct {
	io.Reader
	sum *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.sum.Add(int64(n))
	return n, err
}

func methods(requests []string) []string {
	var list []string
	for _, r := range requests {
		if strings.Contains(r, "/blobs/") {
			list = append(list, r[:strings.IndexByte(r, ' ')])
		}
	}
	return list
}

// TestRepairFromAnotherLayer: two layers that were not deduplicated have the same files.
func TestRepairFromAnotherLayer(t *testing.T) {
	h := newHoard(t, engine.Options{})
	h.put("one", rootTar(t, append(files(0, 10), content(500, 300_000))...))
	root, run := h.Store.Root(), h.Store.Run()
	t.Setenv("TARN_DEDUP", "off")
	off := newHoard(t, engine.Options{Root: root, Run: run})
	off.put("two", rootTar(t, append(files(5, 12), content(500, 300_000))...))
	for _, name := range []string{"one", "two"} {
		require.NoError(t, h.RebuildContents(image.DigestBytes(map[string][]byte{"one": h.tars["one"], "two": off.tars["two"]}[name])))
	}
	data := off.tars["two"]
	own := ownFile(t, h.Engine, image.DigestBytes(data))
	at := int64(bytes.Index(data, []byte(content(500, 300_000))))
	for _, offset := range []int64{at + 20_000, at + 150_000, at + 299_999, int64(bytes.Index(data, []byte(files(7, 8)[0]))) + 5} {
		flip(t, own, offset)
	}
	requireMended(t, h.Engine, engine.RepairOptions{Offline: true})
	off.whole("two")
	flip(t, own, 5) // a header is nowhere else
	repaired, err := h.Repair(t.Context(), engine.RepairOptions{Offline: true})
	require.NoError(t, err)
	require.Len(t, repaired.Left, 1)
	require.ErrorIs(t, repaired.Left[0].Why, store.ErrNoSource)
}

// TestRepairWhatIsMissing: files and whole layers that are gone, also of lenders, and all at once.
func TestRepairWhatIsMissing(t *testing.T) {
	h := richStore(t)
	archive := filepath.Join(testenv.TempDir(t), "saved.tar")
	require.NoError(t, h.Save(t.Context(), engine.SaveOptions{Images: everyImage(t, h.Engine), Output: archive}))
	opts := engine.RepairOptions{From: []string{archive}, Offline: true}
	place := filepath.Join(testenv.TempDir(t), "copy")
	var paths []string
	for _, pattern := range []string{"layers/*", "layers/*/*", "blobs/sha256/*", "recipes/*", "names/*", "remnants/*/holes"} {
		found, err := filepath.Glob(filepath.Join(h.Store.Root(), pattern))
		require.NoError(t, err)
		for _, path := range found {
			if base := filepath.Base(path); base != "contents" && base != "sums" && base != "root" { // not to be missed
				paths = append(paths, path[len(h.Store.Root()):])
			}
		}
	}
	for _, path := range paths {
		e := copyStore(t, h.Engine, place)
		require.NoError(t, os.RemoveAll(filepath.Join(place, path)))
		if strings.HasPrefix(path, "/recipes/") {
			checked, err := e.Check(t.Context(), engine.CheckOptions{})
			require.NoError(t, err)
			if len(checked.Wrong()) == 0 {
				continue // of a form that is kept, too
			}
		}
		t.Log(path)
		requireMended(t, e, opts)
	}
	e := copyStore(t, h.Engine, place)
	for _, path := range paths {
		if !strings.HasPrefix(path, "/recipes/") {
			require.NoError(t, os.RemoveAll(filepath.Join(place, path)))
		}
	}
	requireMended(t, e, opts)
}

// TestRepairBelowMounts: what is mounted, itself or by those who borrow from it, is mended where it is.
func TestRepairBelowMounts(t *testing.T) {
	testenv.RequireErofsFile(t)
	h := newHoard(t, engine.Options{Driver: "erofs"})
	h.put("lender", rootTar(t, files(0, 40)...))
	h.put("borrower", rootTar(t, files(5, 40)...))
	archive := filepath.Join(testenv.TempDir(t), "saved.tar")
	require.NoError(t, h.Save(t.Context(), engine.SaveOptions{Images: []string{"lender"}, Output: archive}))
	dirs := map[string]string{}
	for _, name := range []string{"lender", "borrower"} {
		dir, err := h.Mount(t.Context(), name)
		require.NoError(t, err)
		dirs[name] = dir
	}
	own := ownFile(t, h.Engine, image.DigestBytes(h.tars["lender"]))
	for at := int64(100_000); at < 400_000; at += 33_333 {
		flip(t, own, at)
	}
	requireMended(t, h.Engine, engine.RepairOptions{From: []string{archive}, Offline: true})
	for name, dir := range dirs {
		forget(t, dir)
		treecmp.Equal(t, h.want(name), dir, exceptRoot())
		require.NoError(t, h.Umount(t.Context(), string(h.images[name])))
	}
}
