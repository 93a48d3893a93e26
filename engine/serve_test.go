package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// served is a store that is served while the test lasts.
type served struct {
	remote
	engine *engine.Engine
	stop   func()
}

func serve(t *testing.T, e *engine.Engine) *served {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	address, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- e.Serve(ctx, engine.ServeOptions{
			Listen:  "127.0.0.1:0",
			Started: func(s engine.Served) { address <- s.Address },
			Log:     func(line string) { t.Log(line) },
		})
	}()
	s := &served{engine: e, stop: sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
		requireNoLeftovers(t, e)
	})}
	t.Cleanup(s.stop)
	select {
	case host := <-address:
		s.remote = remote{t, host}
	case err := <-ended:
		require.NoError(t, err)
	}
	return s
}

// get wants a status, and gives the body.
func (s *served) get(want int, path string) []byte {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.host+"/v2/"+path, nil)
	require.NoError(s.t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(s.t, err)
	require.Equal(s.t, want, res.StatusCode, string(body))
	return body
}

func (s *served) delete(path string) {
	s.t.Helper()
	s.do(http.StatusAccepted, http.MethodDelete, "http://"+s.host+"/v2/"+path, "", nil)
}

// wantBlob wants to get exactly data.
func (s *served) wantBlob(data []byte) {
	s.t.Helper()
	require.True(s.t, bytes.Equal(data, s.get(http.StatusOK, "any/blobs/"+string(image.DigestBytes(data)))))
}

func plainLayer(tar []byte) pushLayer {
	return pushLayer{image.MediaTypeLayer, tar, image.DigestBytes(tar)}
}

func TestServePushedImageBecomesALocalOne(t *testing.T) {
	e := newEngine(t)
	s := serve(t, e)
	plain, packed, twice := layerTar(t, 1, 1<<20), layerTar(t, 2, 1<<20), layerTar(t, 3, 1000)
	layers := []pushLayer{
		plainLayer(plain), gzipLayer(t, packed),
		{image.MediaTypeLayerZstd, zstded(t, twice), image.DigestBytes(twice)},
		{image.MediaTypeLayerZstd, zstded(t, twice), image.DigestBytes(twice)},
	}
	pushed := s.pushImage("app", "v1", image.HostPlatform(), layers...)
	for _, name := range []string{"app:v1", "docker.io/library/app:v1", "app@" + string(pushed.Digest)} {
		img, err := e.Image(strings.Replace(name, "app@", "app:v1@", 1))
		require.NoError(t, err)
		require.Equal(t, pushed.Digest, img.Manifest)
	}
	for _, tar := range [][]byte{plain, packed, twice} {
		requireLayer(t, e, tar)
	}
	for _, l := range layers {
		s.wantBlob(l.blob)
	}
	require.False(t, e.Store.HasBlob(image.DigestBytes(plain)), "what is not compressed is not kept twice")
	s.stop()

	again := serve(t, e)
	require.JSONEq(t, `{"repositories":["app"]}`, string(again.get(http.StatusOK, "_catalog")))
	raw, err := e.Store.ReadBlob(pushed.Digest, image.MaxManifestSize)
	require.NoError(t, err)
	for _, path := range []string{"app/manifests/v1", "library/app/manifests/v1", "docker.io/library/app/manifests/" + string(pushed.Digest)} {
		require.Equal(t, raw, again.get(http.StatusOK, path))
	}
	again.wantBlob(plain)
}

func TestServeImagesMadeHere(t *testing.T) {
	from, to := newEngine(t), newEngine(t)
	tar := layerTar(t, 4, 3<<20)
	id, err := from.Import(t.Context(), bytes.NewReader(tar), engine.ImportOptions{Name: "ghcr.io/me/root:v1"})
	require.NoError(t, err)
	_, err = from.Import(t.Context(), bytes.NewReader(tar), engine.ImportOptions{Name: "localhost:5000/port:v1"})
	require.NoError(t, err)
	s := serve(t, from)
	require.JSONEq(t, `{"repositories":["ghcr.io/me/root"]}`, string(s.get(http.StatusOK, "_catalog")), "a name with a port is no repository's")
	name := s.host + "/ghcr.io/me/root:v1"
	pulled, err := to.Pull(t.Context(), name, engine.PullOptions{})
	require.NoError(t, err)
	require.Equal(t, id, pulled.ID)
	requireLayer(t, to, tar)
	original, err := from.Image("ghcr.io/me/root:v1")
	require.NoError(t, err)
	require.Equal(t, original.Manifest, pulled.Digest)
}

// pushMulti pushes an index of an image for this machine and one for another, and gives its bytes.
func pushMulti(t *testing.T, r remote, repo, tag string, tars ...[]byte) (index []byte, manifests []image.Descriptor) {
	t.Helper()
	other := image.Platform{OS: "linux", Architecture: "s390x"}
	manifests = []image.Descriptor{
		r.pushImage(repo, "", other, gzipLayer(t, tars[1])),
		r.pushImage(repo, "", image.HostPlatform(), gzipLayer(t, tars[0])),
	}
	document := image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: manifests}
	r.pushManifest(repo, tag, image.MediaTypeIndex, document)
	index, err := json.Marshal(document)
	require.NoError(t, err)
	return index, manifests
}

func TestServeIndexes(t *testing.T) {
	e := newEngine(t)
	s := serve(t, e)
	tars := [][]byte{layerTar(t, 5, 1000), layerTar(t, 6, 1000)}
	index, manifests := pushMulti(t, s.remote, "multi", "v1", tars...)

	img, err := e.Image("multi:v1")
	require.NoError(t, err)
	require.Equal(t, manifests[1].Digest, img.Manifest)
	require.Equal(t, image.DigestBytes(index), img.Index)
	requireLayer(t, e, tars[0])
	require.False(t, e.Store.HasLayer(image.DigestBytes(tars[1])), "another platform's image stays as it came")
	require.Equal(t, index, s.get(http.StatusOK, "multi/manifests/v1"))
	s.wantBlob(gzipped(t, tars[1]))

	to := newEngine(t)
	for _, platform := range []*image.Platform{manifests[0].Platform, manifests[1].Platform} {
		pulled, err := to.Pull(t.Context(), s.host+"/multi:v1", engine.PullOptions{Platform: *platform})
		require.NoError(t, err)
		require.Equal(t, image.DigestBytes(index), pulled.Digest)
	}

	// Without the image for this machine, the index is still there.
	s.delete("multi/manifests/" + string(manifests[1].Digest))
	require.Equal(t, index, s.get(http.StatusOK, "multi/manifests/v1"))
	s.get(http.StatusNotFound, "multi/manifests/"+string(manifests[1].Digest))
	_, err = e.Image("multi:v1")
	require.ErrorIs(t, err, engine.ErrNoImage)
	s.delete("multi/manifests/v1")
	s.delete("multi/manifests/" + string(image.DigestBytes(index)))
	s.delete("multi/manifests/" + string(manifests[0].Digest))
	requireEmpty(t, e, "blobs/sha256")
}

func TestRemovedImageLeavesNothingToServe(t *testing.T) {
	e := newEngine(t)
	s := serve(t, e)
	tars := [][]byte{layerTar(t, 7, 1000), layerTar(t, 8, 1000)}
	_, manifests := pushMulti(t, s.remote, "multi", "v1", tars...)
	signature := image.Manifest{
		SchemaVersion: 2, MediaType: image.MediaTypeManifest, ArtifactType: "x/signature", Layers: []image.Descriptor{},
		Config: s.pushBlob("multi", "application/vnd.oci.empty.v1+json", []byte("{}")), Subject: &manifests[1],
	}
	signed := s.pushManifest("multi", "", image.MediaTypeManifest, signature)
	signature.Subject = &signed
	s.pushManifest("multi", "", image.MediaTypeManifest, signature)
	s.pushImage("multi", "other", image.HostPlatform(), gzipLayer(t, tars[1]))

	_, err := e.RemoveImage(t.Context(), "multi:v1", engine.RemoveImageOptions{})
	require.NoError(t, err)
	require.JSONEq(t, `{"name":"multi","tags":["other"]}`, string(s.get(http.StatusOK, "multi/tags/list")))
	entries, err := e.Store.Entries()
	require.NoError(t, err)
	require.Len(t, entries, 1, "of the other tag")
	_, err = e.RemoveImage(t.Context(), "multi:other", engine.RemoveImageOptions{})
	require.NoError(t, err)
	requireEmpty(t, e, "entries")
	requireEmpty(t, e, "blobs/sha256")
	requireEmpty(t, e, "layers")
}

func TestServeWhatIsWrongAboutItsLayers(t *testing.T) {
	honest, other := layerTar(t, 9, 1000), layerTar(t, 10, 1000)
	for name, layer := range map[string]pushLayer{
		"a lie":                    {image.MediaTypeLayerGzip, gzipped(t, other), image.DigestBytes([]byte("x"))},
		"a lie about a known one":  {image.MediaTypeLayerGzip, gzipped(t, other), image.DigestBytes(honest)},
		"plain, a lie":             {image.MediaTypeLayer, other, image.DigestBytes(honest)},
		"not compressed as it was": {image.MediaTypeLayerGzip, gzipped(t, other)[:500], image.DigestBytes(other)},
		"not a tar":                {image.MediaTypeLayer, []byte("hello"), image.DigestBytes([]byte("hello"))},
		"another compression":      {image.MediaTypeLayerGzip, []byte("BZh91AY&SY"), image.DigestBytes(other)},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			s := serve(t, e)
			s.pushImage("honest", "v1", image.HostPlatform(), gzipLayer(t, honest))
			pushed := s.pushImage("wrong", "v1", image.HostPlatform(), layer)
			_, err := e.Image("wrong:v1")
			require.ErrorIs(t, err, engine.ErrNoImage)
			// Others may pull it, and judge for themselves.
			require.Equal(t, pushed.Digest, image.DigestBytes(s.get(http.StatusOK, "wrong/manifests/v1")))
			s.wantBlob(layer.blob)
			_, err = newEngine(t).Pull(t.Context(), s.host+"/wrong:v1", engine.PullOptions{})
			require.Error(t, err)
			requireLayer(t, e, honest)
			layers, err := e.Store.Layers()
			require.NoError(t, err)
			require.Len(t, layers, 1)

			// A name that such an image is pushed to does not stand for the old one any more.
			s.pushImage("honest", "v1", image.HostPlatform(), layer)
			_, err = e.Image("honest:v1")
			require.ErrorIs(t, err, engine.ErrNoImage)
		})
	}
}

func TestServeTagThatMoves(t *testing.T) {
	e := newEngine(t)
	s := serve(t, e)
	first := s.pushImage("app", "latest", image.HostPlatform(), gzipLayer(t, layerTar(t, 11, 1000)))
	second := s.pushImage("app", "latest", image.HostPlatform(), gzipLayer(t, layerTar(t, 12, 1000)))
	img, err := e.Image("app:latest")
	require.NoError(t, err)
	require.Equal(t, second.Digest, img.Manifest)
	s.get(http.StatusOK, "app/manifests/"+string(first.Digest))
	rows, err := e.Images(t.Context(), engine.ImageFilter{})
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(rows, func(r engine.ImageRow) bool { return r.Dangling() && r.Manifest == first.Digest }))

	s.delete("app/manifests/" + string(first.Digest))
	rows, err = e.Images(t.Context(), engine.ImageFilter{})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	// A tag that is deleted leaves the manifest, until that is deleted, too.
	s.delete("app/manifests/latest")
	_, err = e.Image("app:latest")
	require.ErrorIs(t, err, engine.ErrNoImage)
	s.get(http.StatusOK, "app/manifests/"+string(second.Digest))
	s.delete("app/manifests/" + string(second.Digest))
	requireEmpty(t, e, "blobs/sha256")
	requireEmpty(t, e, "layers")
}

func TestRemovedDanglingImageLeavesNothingToServe(t *testing.T) {
	e := newEngine(t)
	s := serve(t, e)
	first := s.pushImage("app", "latest", image.HostPlatform(), gzipLayer(t, layerTar(t, 17, 1000)))
	old, err := e.Image("app")
	require.NoError(t, err)
	s.pushImage("app", "latest", image.HostPlatform(), gzipLayer(t, layerTar(t, 18, 1000)))
	_, err = e.RemoveImage(t.Context(), string(old.ID), engine.RemoveImageOptions{})
	require.NoError(t, err)
	s.get(http.StatusNotFound, "app/manifests/"+string(first.Digest))
	require.False(t, e.Store.HasBlob(first.Digest))
	_, err = e.RemoveImage(t.Context(), "app", engine.RemoveImageOptions{})
	require.NoError(t, err)
	requireEmpty(t, e, "blobs/sha256")
}

func TestRemoveWhatIsNoImage(t *testing.T) {
	e := newEngine(t)
	s := serve(t, e)
	artifact := image.Manifest{
		SchemaVersion: 2, MediaType: image.MediaTypeManifest, ArtifactType: "x/signature", Layers: []image.Descriptor{},
		Config: s.pushBlob("app", "application/vnd.oci.empty.v1+json", []byte("{}")),
	}
	s.pushManifest("app", "sig", image.MediaTypeManifest, artifact)
	removed, err := e.RemoveImage(t.Context(), "app:sig", engine.RemoveImageOptions{})
	require.NoError(t, err)
	require.Equal(t, &engine.Removed{Untagged: []string{"app:sig"}}, removed)
	requireEmpty(t, e, "blobs/sha256")
	requireEmpty(t, e, "entries")
	s.pushBlob("app", "", []byte("{}"))
	pushed := s.pushManifest("app", "", image.MediaTypeManifest, artifact)
	_, err = e.RemoveImage(t.Context(), "app@"+string(pushed.Digest), engine.RemoveImageOptions{})
	require.NoError(t, err)
	requireEmpty(t, e, "entries")
	_, err = e.RemoveImage(t.Context(), "app:sig", engine.RemoveImageOptions{})
	require.ErrorIs(t, err, engine.ErrNoImage)
}

func TestServeWhatIsMadeAgain(t *testing.T) {
	e := newEngine(t)
	s := serve(t, e)
	layer := gzipLayer(t, layerTar(t, 19, 1<<20))
	blob := image.DigestBytes(layer.blob)
	pushed := s.pushImage("app", "v1", image.HostPlatform(), layer)
	gone, err := e.Compact(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, gone, 1)
	require.False(t, e.Store.HasBlob(blob))
	s.wantBlob(layer.blob)

	// Another image may have it, too, without sending it.
	s.pushManifest("app", "v2", image.MediaTypeManifest, image.Manifest{
		SchemaVersion: 2, MediaType: image.MediaTypeManifest, Annotations: map[string]string{"a": "b"},
		Config: s.configOf("app", pushed.Digest),
		Layers: []image.Descriptor{{MediaType: layer.mediaType, Digest: blob, Size: int64(len(layer.blob))}},
	})
	_, err = e.Image("app:v2")
	require.NoError(t, err)
	// Nor does it get lost with the images, as long as something holds it.
	s.delete("app/manifests/v1")
	s.delete("app/manifests/v2")
	s.wantBlob(layer.blob)
	_, err = newEngine(t).Pull(t.Context(), s.host+"/app@"+string(pushed.Digest), engine.PullOptions{})
	require.NoError(t, err)
}

// configOf gives the descriptor of a manifest's config.
func (s *served) configOf(repository string, d image.Digest) image.Descriptor {
	s.t.Helper()
	m, err := image.ParseManifest(s.get(http.StatusOK, repository+"/manifests/"+string(d)))
	require.NoError(s.t, err)
	return m.Config
}

func TestServeDeletesNothingThatAContainerUses(t *testing.T) {
	e := newEngine(t)
	s := serve(t, e)
	tar := layerTar(t, 13, 1000)
	s.pushImage("app", "latest", image.HostPlatform(), gzipLayer(t, tar))
	img, err := e.Image("app")
	require.NoError(t, err)
	lock, err := e.Store.Shared(t.Context())
	require.NoError(t, err)
	container, err := e.Store.CreateContainer(lock, store.ContainerRecord{Manifest: img.Manifest, ImageID: img.ID}, true)
	require.NoError(t, err)
	require.NoError(t, lock.Unlock())

	s.delete("app/manifests/" + string(img.Manifest))
	s.get(http.StatusNotFound, "app/manifests/latest")
	_, err = e.Image("app")
	require.ErrorIs(t, err, engine.ErrNoImage)
	requireLayer(t, e, tar)
	_, err = e.Image(string(img.ID))
	require.NoError(t, err, "as after 'tarn rmi -f', it has no name")
	require.NoError(t, e.Store.RemoveContainer(container, false))
	_, err = e.RemoveImage(t.Context(), string(img.ID), engine.RemoveImageOptions{})
	require.NoError(t, err)
	requireEmpty(t, e, "blobs/sha256")
}

func TestServePushBesideASweep(t *testing.T) {
	e := newEngine(t)
	s := serve(t, e)
	s.pushImage("victim", "v1", image.HostPlatform(), gzipLayer(t, layerTar(t, 14, 1000)))
	layer := gzipLayer(t, layerTar(t, 15, 1000))
	s.pushBlob("app", layer.mediaType, layer.blob)
	_, err := e.RemoveImage(t.Context(), "victim:v1", engine.RemoveImageOptions{}) // sweeps
	require.NoError(t, err)
	s.get(http.StatusOK, "app/blobs/"+string(image.DigestBytes(layer.blob)))
	s.pushImage("app", "v1", image.HostPlatform(), layer)
	_, err = e.Image("app:v1")
	require.NoError(t, err)
}

func TestServeManyPushesOfOneImage(t *testing.T) {
	e := newEngine(t)
	s := serve(t, e)
	layer := gzipLayer(t, layerTar(t, 16, 1<<20))
	var clients sync.WaitGroup
	for i := range 6 {
		clients.Go(func() { s.pushImage("app", fmt.Sprintf("v%d", i), image.HostPlatform(), layer) })
	}
	clients.Wait()
	names, err := e.Images(t.Context(), engine.ImageFilter{})
	require.NoError(t, err)
	require.Len(t, names, 6)
	s.wantBlob(layer.blob)
	layers, err := os.ReadDir(e.Store.Root() + "/layers")
	require.NoError(t, err)
	require.Len(t, layers, 1)
}

func TestServeEndsWithAnUploadOpen(t *testing.T) {
	s := serve(t, newEngine(t))
	s.do(http.StatusAccepted, http.MethodPost, "http://"+s.host+"/v2/a/blobs/uploads/", "", nil)
	s.pushBlob("a", "", []byte("waits for a manifest"))
	reader, writer := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.host+"/v2/a/blobs/uploads/?digest="+string(image.DigestBytes(nil)), reader)
	require.NoError(t, err)
	go func() {
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
		}
	}()
	_, err = writer.Write(make([]byte, 100_000))
	require.NoError(t, err)
	time.AfterFunc(100*time.Millisecond, func() { _ = writer.Close() })
	s.stop() // waits for the request, and wants tmp/ to be empty
}

func TestServeRefusesOptions(t *testing.T) {
	e := newEngine(t)
	for name, opts := range map[string]engine.ServeOptions{
		"a key alone":     {Listen: "127.0.0.1:0", TLSKey: "x"},
		"no certificate":  {Listen: "127.0.0.1:0", TLSCert: "/nonexistent", TLSKey: "/nonexistent"},
		"no passwords":    {Listen: "127.0.0.1:0", Htpasswd: "/nonexistent"},
		"not an address":  {Listen: "127.0.0.1:http:x"},
		"another's place": {Listen: serve(t, e).host},
	} {
		opts.Started = func(engine.Served) { t.Error(name) }
		require.Error(t, e.Serve(t.Context(), opts), name)
	}
}
