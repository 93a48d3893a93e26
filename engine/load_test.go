package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/archive"
	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	at "github.com/tarnfs/tarn/internal/archivetest"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/layer/tarfile"
	"github.com/tarnfs/tarn/store"
)

func gzLayer(t *testing.T, tar []byte) at.Layer {
	t.Helper()
	return at.Layer{Tar: tar, Blob: gzipped(t, tar), MediaType: at.LayerGzipType}
}

func zstLayer(t *testing.T, tar []byte) at.Layer {
	t.Helper()
	return at.Layer{Tar: tar, Blob: zstded(t, tar), MediaType: at.LayerZstdType}
}

// writeFile gives the path of a fresh file.
func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

// threeImages gives images of layers that are plain, gzip and zstd, one of them in all images.
func threeImages(t *testing.T) map[string]at.Image {
	t.Helper()
	shared := gzLayer(t, bigTar(t))
	one := at.LayerTar(t, at.File{Name: "one", Content: "1"})
	two := at.LayerTar(t, at.File{Name: "two", Content: strings.Repeat("2", 5000)})
	return map[string]at.Image{
		"docker.io/library/one:1":    at.NewImage("one", shared, zstLayer(t, one)),
		"localhost:5000/a/two":       at.NewImage("two", shared, at.PlainLayer(two), gzLayer(t, one), at.PlainLayer(two)),
		"docker.io/library/three:v3": at.NewImage("three", shared),
		"":                           at.NewImage("nameless"),
	}
}

func threeNames() []string {
	return []string{"docker.io/library/one:1", "localhost:5000/a/two", "docker.io/library/three:v3", ""}
}

func load(t *testing.T, e *engine.Engine, input string) []engine.LoadedImage {
	t.Helper()
	loaded, err := e.Load(t.Context(), engine.LoadOptions{Input: input})
	require.NoError(t, err)
	requireNoLeftovers(t, e)
	return loaded
}

// records gives all that the store says of its images but the time.
func records(t *testing.T, e *engine.Engine) []store.Image {
	t.Helper()
	images, err := e.Store.Images()
	require.NoError(t, err)
	for i := range images {
		images[i].Created = time.Time{}
	}
	return images
}

func TestLoadThenSaveThenLoadElsewhere(t *testing.T) {
	images := threeImages(t)
	from := newEngine(t)
	loaded := load(t, from, writeFile(t, "x.tar", at.Layout(images, threeNames()...).Tar(t)))
	require.Len(t, loaded, 4)
	for i, name := range threeNames() {
		want := images[name]
		require.Equal(t, want.ID(), string(loaded[i].ID))
		raw, err := from.Store.ReadBlob(image.DigestBytes(want.Manifest), 1<<20)
		require.NoError(t, err, "the manifest is kept byte for byte")
		require.Equal(t, string(want.Manifest), string(raw))
		for _, l := range want.Layers {
			requireStored(t, from, l)
		}
	}
	require.Empty(t, loaded[3].Names)
	require.Equal(t, "localhost:5000/a/two:latest", loaded[1].Names[0].String())

	for _, format := range engine.SaveFormats() {
		t.Run(format, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			refs := []string{"one:1", "localhost:5000/a/two", "three:v3", images[""].ID()}
			require.NoError(t, from.Save(t.Context(), engine.SaveOptions{Images: refs, Format: format, Output: out}))
			to := newEngine(t)
			again := load(t, to, out)
			require.Equal(t, loaded, again)
			require.Equal(t, records(t, from), records(t, to))
			for _, img := range images {
				for _, l := range img.Layers {
					requireStored(t, to, l)
				}
			}
		})
	}
}

// requireStored checks that the store has the layer's tar, its index, and its blob if that is compressed.
func requireStored(t *testing.T, e *engine.Engine, want at.Layer) {
	t.Helper()
	l, err := e.Store.Layer(image.Digest(at.Digest(want.Tar)))
	require.NoError(t, err)
	tar, err := l.OpenTar()
	require.NoError(t, err)
	defer tar.Close()
	stored, err := io.ReadAll(tar)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want.Tar, stored))
	blob := image.Digest(at.Digest(want.Blob))
	require.Equal(t, blob != l.DiffID, e.Store.HasBlob(blob), "what is not compressed is kept once")
}

func TestLoadInputs(t *testing.T) {
	images := threeImages(t)
	files := at.Layout(images, threeNames()...)
	tar := files.Tar(t)
	file := func(data []byte, offset int64) *os.File {
		f, err := os.Open(writeFile(t, "in", data))
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
		_, err = f.Seek(offset, io.SeekStart)
		require.NoError(t, err)
		return f
	}
	pipe := func(data []byte) *os.File {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		t.Cleanup(func() { _ = r.Close() })
		go func() {
			_, _ = w.Write(data) // fails if the reader gives up: the test sees that
			_ = w.Close()
		}()
		return r
	}
	for name, opts := range map[string]engine.LoadOptions{
		"file":                     {Input: writeFile(t, "x.tar", tar)},
		"gzip file":                {Input: writeFile(t, "x.tar.gz", gzipped(t, tar))},
		"zstd file":                {Input: writeFile(t, "x.tar.zst", zstded(t, tar))},
		"directory":                {Input: files.Dir(t)},
		"standard input is a file": {Stdin: file(tar, 0)},
		"read up to the archive":   {Stdin: file(append([]byte("something else\n"), tar...), 15), Input: "-"},
		"a compressed file":        {Stdin: file(gzipped(t, tar), 0)},
		"pipe":                     {Stdin: pipe(tar)},
		"compressed pipe":          {Stdin: pipe(zstded(t, tar))},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			loaded, err := e.Load(t.Context(), opts)
			require.NoError(t, err)
			require.Len(t, loaded, 4)
			for i, name := range threeNames() {
				require.Equal(t, images[name].ID(), string(loaded[i].ID))
			}
			requireNoLeftovers(t, e)
		})
	}
	for name, tc := range map[string]struct {
		opts  engine.LoadOptions
		err   error
		names string
	}{
		"no file":       {engine.LoadOptions{Input: filepath.Join(t.TempDir(), "absent")}, os.ErrNotExist, "absent"},
		"not an image":  {engine.LoadOptions{Input: writeFile(t, "root.tar", bigTar(t))}, archive.ErrFormat, "tarn import"},
		"not a tar":     {engine.LoadOptions{Input: writeFile(t, "x", []byte("hello"))}, archive.ErrFormat, "x"},
		"empty":         {engine.LoadOptions{Stdin: pipe(nil)}, archive.ErrFormat, "standard input"},
		"terminal":      {engine.LoadOptions{Stdin: terminal(t)}, engine.ErrTerminal, "-i FILE"},
		"cut gzip":      {engine.LoadOptions{Stdin: pipe(gzipped(t, tar)[:5<<20])}, io.ErrUnexpectedEOF, "gzip"},
		"xz":            {engine.LoadOptions{Stdin: pipe([]byte("\xfd7zXZ\x00"))}, engine.ErrCompression, "xz"},
		"empty archive": {engine.LoadOptions{Input: t.TempDir()}, archive.ErrFormat, "tarn import"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			_, err := e.Load(t.Context(), tc.opts)
			require.ErrorIs(t, err, tc.err)
			require.ErrorContains(t, err, tc.names)
			requireNothing(t, e)
		})
	}
}

// terminal gives a file that is a terminal.
func terminal(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// requireNothing checks that a store is as it was made.
func requireNothing(t *testing.T, e *engine.Engine) {
	t.Helper()
	for _, dir := range []string{"tmp", "layers", "blobs", "images"} {
		var files []string
		err := filepath.WalkDir(filepath.Join(e.Store.Root(), dir), func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files = append(files, path)
			}
			return err
		})
		require.NoError(t, err)
		require.Empty(t, files)
	}
}

func TestHostileLoadLeavesNothing(t *testing.T) {
	good := at.NewImage("good", gzLayer(t, bigTar(t)))
	fine := gzLayer(t, at.LayerTar(t, at.File{Name: "f", Content: "x"}))
	spoilt := func(data []byte) []byte { return append([]byte{data[0] ^ 1}, data[1:]...) }
	hostileLayer := func(tar []byte) at.Image { return at.NewImage("hostile", fine, gzLayer(t, tar)) }
	// archiveOf lists the good image first, which must not be there either.
	archiveOf := func(img at.Image) *at.Archive {
		return at.Layout(map[string]at.Image{"good:1": good, "bad:1": img}, "good:1", "bad:1")
	}
	docker := func(layer []byte) *at.Archive {
		img := at.NewImage("docker", fine)
		return new(at.Archive).Add("c", img.Config).Add("l", layer).
			AddJSON("manifest.json", []at.Object{{"Config": "c", "Layers": []string{"l"}, "RepoTags": []string{"bad:1"}}})
	}
	lying := func(diffID string) at.Image {
		img := at.Image{Layers: []at.Layer{fine}}
		img.Config = at.JSON(at.Config("liar", diffID))
		img.Manifest = at.JSON(at.Manifest(img.Config, fine))
		return img
	}
	fineBlob := at.BlobName(at.Digest(fine.Blob))
	cut := at.LayerTar(t, at.File{Name: "f", Content: strings.Repeat("x", 2000)})[:1500]
	for name, tc := range map[string]struct {
		files *at.Archive
		err   error
		names string
	}{
		"a layer is missing":           {archiveOf(hostileLayer(nil)).Remove(fineBlob), archive.ErrMissing, fineBlob},
		"a layer is shorter":           {archiveOf(hostileLayer(nil)).Add(fineBlob, fine.Blob[:30]), store.ErrDigest, fineBlob},
		"a layer has other bytes":      {archiveOf(hostileLayer(nil)).Add(fineBlob, spoilt(fine.Blob)), nil, fineBlob},
		"the config lies":              {archiveOf(lying(at.Digest([]byte("other")))), engine.ErrDiffID, fineBlob},
		"the config lies on a layer":   {archiveOf(lying(at.Digest(good.Layers[0].Tar))), engine.ErrDiffID, fineBlob},
		"a layer's name climbs":        {archiveOf(hostileLayer(makeTar(t, file{"../../etc/passwd", "x"}))), layer.ErrUnsafe, "../../etc/passwd"},
		"a layer's name is too long":   {archiveOf(hostileLayer(makeTar(t, file{strings.Repeat("a/", 2100), ""}))), tarfile.ErrLimit, "a/a"},
		"a layer is cut":               {archiveOf(hostileLayer(cut)), tarfile.ErrTruncated, `"f"`},
		"a layer is no tar":            {archiveOf(hostileLayer(bytes.Repeat([]byte("hello"), 1000))), tarfile.ErrMalformed, "no tar header"},
		"docker, another layer":        {docker(good.Layers[0].Blob), engine.ErrDiffID, `"l"`},
		"docker, a cut layer":          {docker(fine.Blob[:30]), io.ErrUnexpectedEOF, `"l"`},
		"docker, no reference":         {docker(fine.Blob).AddJSON("manifest.json", []at.Object{{"Config": "c", "Layers": []string{"l"}, "RepoTags": []string{"no//reference"}}}), image.ErrReference, "no//reference"},
		"docker, a million references": {docker(fine.Blob).AddJSON("manifest.json", []at.Object{{"Config": "c", "Layers": []string{"l"}, "RepoTags": slices.Repeat([]string{"a"}, 100_000)}}), archive.ErrLimit, "100000 names"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			_, err := e.Load(t.Context(), engine.LoadOptions{Input: writeFile(t, "x.tar", tc.files.Tar(t))})
			require.Error(t, err)
			if tc.err != nil {
				require.ErrorIs(t, err, tc.err)
			}
			require.ErrorContains(t, err, tc.names)
			require.NotContains(t, err.Error(), "\n", "one line")
			requireNothing(t, e)
		})
	}
}

// TestConfigCannotClaimAnothersLayer: a layer that the store has, from an image that is right, is named
// by a config for a blob that holds something else.
func TestConfigCannotClaimAnothersLayer(t *testing.T) {
	good, evil := gzLayer(t, bigTar(t)), gzLayer(t, at.LayerTar(t, at.File{Name: "bin/sh", Content: "evil"}))
	for name, blob := range map[string]at.Layer{"compressed": evil, "plain": at.PlainLayer(evil.Tar)} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			load(t, e, writeFile(t, "x.tar", at.Layout(map[string]at.Image{"good:1": at.NewImage("good", good)}, "good:1").Tar(t)))
			before := records(t, e)
			img := at.Image{Layers: []at.Layer{blob}}
			img.Config = at.JSON(at.Config("liar", at.Digest(good.Tar)))
			img.Manifest = at.JSON(at.Manifest(img.Config, blob))
			_, err := e.Load(t.Context(), engine.LoadOptions{
				Input: writeFile(t, "x.tar", at.Layout(map[string]at.Image{"bad:1": img}, "bad:1").Tar(t)),
			})
			require.ErrorIs(t, err, engine.ErrDiffID)
			require.ErrorContains(t, err, at.Digest(evil.Tar))
			require.ErrorContains(t, err, at.Digest(good.Tar))
			require.Equal(t, before, records(t, e))
			requireStored(t, e, good)
			require.False(t, e.Store.HasBlob(image.Digest(at.Digest(evil.Blob))))
			require.False(t, e.Store.HasLayer(image.Digest(at.Digest(evil.Tar))))
			requireNoLeftovers(t, e)
		})
	}
}

func TestNamesOfLoadedImages(t *testing.T) {
	img := at.NewImage("x", at.PlainLayer(at.LayerTar(t, at.File{Name: "f"})))
	tags := func(names ...string) *at.Archive {
		return new(at.Archive).Add("c", img.Config).Add("l", img.Layers[0].Blob).
			AddJSON("manifest.json", []at.Object{{"Config": "c", "Layers": []string{"l"}, "RepoTags": names}})
	}
	refNames := func(names ...string) *at.Archive {
		images := map[string]at.Image{}
		for _, name := range names {
			images[name] = img
		}
		return at.Layout(images, names...)
	}
	for name, tc := range map[string]struct {
		file  string
		files *at.Archive
		want  []string
	}{
		"none":                          {"x.tar", tags(), nil},
		"familiar, twice":               {"x.tar", tags("a", "docker.io/library/a:latest", "b/c:2"), []string{"a:latest", "b/c:2"}},
		"a digest is no name":           {"x.tar", tags("a@sha256:" + strings.Repeat("0", 64)), nil},
		"tags of the file's name":       {"debian.tar", refNames("12", "bookworm"), []string{"debian:12", "debian:bookworm"}},
		"whatever it is called":         {"debian.oci.tar.zst", refNames("12"), []string{"debian:12"}},
		"a file whose name is no name":  {"Debian 12.tar", refNames("12"), nil},
		"a tag that is none":            {"debian.tar", refNames("1+2"), nil},
		"the whole reference":           {"x.tar", refNames("ghcr.io/a/b:1"), []string{"ghcr.io/a/b:1"}},
		"both kinds, of the same image": {"b.tar", refNames("a/b:1", "2"), []string{"a/b:1", "b:2"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			loaded := load(t, e, writeFile(t, tc.file, tc.files.Tar(t)))
			require.Len(t, loaded, 1)
			var got []string
			for _, ref := range loaded[0].Names {
				got = append(got, ref.Familiar())
			}
			require.Equal(t, tc.want, got)
			require.Len(t, records(t, e), max(1, len(tc.want)))
		})
	}
	t.Run("moved from another image", func(t *testing.T) {
		e := newEngine(t)
		old := importTar(t, e, "a", "old")
		loaded := load(t, e, writeFile(t, "x.tar", tags("a", "b").Tar(t)))
		require.Len(t, loaded[0].Moved, 1)
		require.Equal(t, old, loaded[0].Moved[loaded[0].Names[0]])
		require.Empty(t, load(t, e, writeFile(t, "x.tar", tags("a", "b").Tar(t)))[0].Moved)
		kept, err := e.Image(string(old))
		require.NoError(t, err, "the old one is still there")
		require.Empty(t, kept.Name)
	})
}

// TestDockerArchiveOfAnImageThatIsHere: an archive without manifests must not take from an image the
// one that it came with.
func TestDockerArchiveOfAnImageThatIsHere(t *testing.T) {
	img := at.NewImage("x", gzLayer(t, bigTar(t)))
	e := newEngine(t)
	load(t, e, writeFile(t, "x.tar", at.Layout(map[string]at.Image{"a:1": img}, "a:1").Tar(t)))
	loaded := load(t, e, writeFile(t, "x.tar", new(at.Archive).Add("c", img.Config).Add("l", img.Layers[0].Tar).
		AddJSON("manifest.json", []at.Object{{"Config": "c", "Layers": []string{"l"}, "RepoTags": []string{"a:1", "b:1"}}}).Tar(t)))
	require.Empty(t, loaded[0].Moved)
	for _, record := range records(t, e) {
		require.Equal(t, at.Digest(img.Manifest), string(record.Manifest), record.Name)
	}
	require.Len(t, records(t, e), 2)

	// Nor does an image that is loaded without a name outlive its name elsewhere.
	load(t, e, writeFile(t, "x.tar", at.Layout(map[string]at.Image{"": img}, "").Tar(t)))
	for _, name := range []string{"a:1", "b:1"} {
		_, err := e.RemoveImage(t.Context(), name, engine.RemoveImageOptions{})
		require.NoError(t, err)
	}
	requireNothing(t, e)
}

func TestManyLayers(t *testing.T) {
	var layers []at.Layer
	for i := range 300 {
		layers = append(layers, gzLayer(t, at.LayerTar(t, at.File{Name: fmt.Sprint(i), Content: fmt.Sprint(i)})))
	}
	e := newEngine(t)
	load(t, e, writeFile(t, "x.tar", at.Layout(map[string]at.Image{"many:1": at.NewImage("many", layers...)}, "many:1").Tar(t)))
	img, err := e.Image("many:1")
	require.NoError(t, err)
	require.Len(t, img.Config.RootFS.DiffIDs, 300)
	for _, l := range layers {
		requireStored(t, e, l)
	}
}

// TestLayerRemovedWhileItIsLoaded: a layer was found in the store, so it is not written, and is removed
// with its image before the new image has its name.
func TestLayerRemovedWhileItIsLoaded(t *testing.T) {
	shared := gzLayer(t, bigTar(t))
	e := newEngine(t)
	old := at.NewImage("old", shared)
	load(t, e, writeFile(t, "x.tar", at.Layout(map[string]at.Image{"a:1": old}, "a:1").Tar(t)))
	img := at.NewImage("new", shared, gzLayer(t, at.LayerTar(t, at.File{Name: "f"})))
	var states []engine.TransferState
	var mu sync.Mutex
	loaded, err := e.Load(t.Context(), engine.LoadOptions{
		Input: writeFile(t, "x.tar", at.Layout(map[string]at.Image{"b:1": img}, "b:1").Tar(t)),
		Report: func(transfer engine.Transfer) {
			mu.Lock()
			defer mu.Unlock()
			if string(transfer.Blob) == at.Digest(shared.Blob) && !slices.Contains(states, transfer.State) {
				if states = append(states, transfer.State); transfer.State == engine.Exists {
					_, err := e.RemoveImage(context.Background(), "a:1", engine.RemoveImageOptions{Force: true})
					require.NoError(t, err)
				}
			}
		},
	})
	require.NoError(t, err)
	require.Equal(t, img.ID(), string(loaded[0].ID))
	require.Equal(t, []engine.TransferState{engine.Waiting, engine.Running, engine.Exists}, states)
	_, err = e.Image("a:1")
	require.ErrorIs(t, err, engine.ErrNoImage)
	requireStored(t, e, shared)
	requireNoLeftovers(t, e)
	requireEmpty(t, e, "pins")
}

func TestLoadGivenUpLeavesNothing(t *testing.T) {
	images := threeImages(t)
	e := newEngine(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := e.Load(ctx, engine.LoadOptions{
		Input: writeFile(t, "x.tar", at.Layout(images, threeNames()...).Tar(t)),
		Report: func(transfer engine.Transfer) {
			if transfer.Done > 1<<20 {
				cancel()
			}
		},
	})
	require.ErrorIs(t, err, context.Canceled)
	requireNothing(t, e)
	requireEmpty(t, e, "pins")
}

// TestLoadsAtOnceAndRemovals: many load the same, others remove it; each load succeeds, and nothing is
// left in the end.
func TestLoadsAtOnceAndRemovals(t *testing.T) {
	images := threeImages(t)
	path := writeFile(t, "x.tar", at.Layout(images, threeNames()...).Tar(t))
	root, run := filepath.Join(t.TempDir(), "root"), t.TempDir()
	open := func() *engine.Engine {
		e, err := engine.Open(engine.Options{Root: root, Run: run})
		require.NoError(t, err)
		return e
	}
	first := open()
	var loading, removing sync.WaitGroup
	done := make(chan struct{})
	errs := make(chan error, 100)
	for range 3 {
		loading.Go(func() {
			e := open()
			for range 3 {
				_, err := e.Load(context.Background(), engine.LoadOptions{Input: path})
				errs <- err
			}
		})
	}
	removing.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				for _, img := range images {
					_, _ = first.RemoveImage(context.Background(), img.ID(), engine.RemoveImageOptions{Force: true}) // may not be there just now
				}
			}
		}
	})
	loading.Wait()
	close(done)
	removing.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	for _, img := range images {
		_, err := first.RemoveImage(t.Context(), img.ID(), engine.RemoveImageOptions{Force: true})
		if err != nil {
			require.ErrorIs(t, err, engine.ErrNoImage)
		}
	}
	requireNothing(t, first)
}

// TestLayersOfAnArchiveBorrowFromEachOther: those that are taken in at the same time do not, but never all are.
func TestLayersOfAnArchiveBorrowFromEachOther(t *testing.T) {
	var layers []at.Layer
	var sum int64
	for i := range uint64(12) {
		layers = append(layers, at.PlainLayer(rootTar(t, append(files(0, 30), files(100+i, 101+i)...)...)))
		sum += int64(len(layers[i].Blob))
	}
	h := newHoard(t, engine.Options{})
	load(t, h.Engine, writeFile(t, "x.tar", at.Layout(map[string]at.Image{"x:1": at.NewImage("x", layers...)}, "x:1").Tar(t)))
	require.Less(t, h.disk("layers"), sum/2)
	requireSound(t, h.Engine)
}
