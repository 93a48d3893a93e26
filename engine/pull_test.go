package engine_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/registry"
	"github.com/tarnfs/tarn/store"
)

func TestPullAsksOnceWhenNothingChanged(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	r := remote{t, reg.Host}
	tar := layerTar(t, 1, 3<<20)
	want := r.pushImage("some/app", "v1", image.HostPlatform(), gzipLayer(t, tar))
	e, name := newEngine(t), proxy.Host+"/some/app:v1"

	pulled, err := e.Pull(t.Context(), name, engine.PullOptions{})
	require.NoError(t, err)
	require.False(t, pulled.UpToDate)
	require.Equal(t, want.Digest, pulled.Digest)
	require.Len(t, proxy.Requests(), 3, "the manifest, the config, the layer")
	requireLayer(t, e, tar)
	requireNoLeftovers(t, e)
	requireEmpty(t, e, "partial")
	requireEmpty(t, e, "pins")

	pulled, err = e.Pull(t.Context(), name, engine.PullOptions{})
	require.NoError(t, err)
	require.True(t, pulled.UpToDate)
	require.Equal(t, []string{"HEAD /v2/some/app/manifests/v1"}, proxy.Requests())

	byDigest := proxy.Host + "/some/app@" + string(want.Digest)
	_, err = e.Pull(t.Context(), byDigest, engine.PullOptions{})
	require.NoError(t, err)
	require.Len(t, proxy.Requests(), 2, "manifest and config; the layer is here")
	_, err = e.Pull(t.Context(), byDigest, engine.PullOptions{})
	require.NoError(t, err)
	require.Empty(t, proxy.Requests(), "what a digest stands for cannot change")
	img, err := e.Image(byDigest)
	require.NoError(t, err)
	require.Equal(t, pulled.ID, img.ID)
}

func requireLayer(t *testing.T, e *engine.Engine, tar []byte) {
	t.Helper()
	layer, err := e.Store.Layer(image.DigestBytes(tar))
	require.NoError(t, err)
	stored, err := layer.OpenTar()
	require.NoError(t, err)
	defer stored.Close()
	content, err := io.ReadAll(stored)
	require.NoError(t, err)
	require.Equal(t, image.DigestBytes(tar), image.DigestBytes(content))
}

func TestPullChoosesThePlatform(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	r := remote{t, reg.Host}
	arm := image.Platform{OS: "linux", Architecture: "arm64"}
	s390 := image.Platform{OS: "linux", Architecture: "s390x"}
	index := image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: []image.Descriptor{
		r.pushImage("multi", "", arm, gzipLayer(t, layerTar(t, 1, 1000))),
		r.pushImage("multi", "", s390, gzipLayer(t, layerTar(t, 2, 1000))),
	}}
	want := r.pushManifest("multi", "latest", image.MediaTypeIndex, index)
	list := index
	list.MediaType = image.MediaTypeDockerList
	r.pushManifest("multi", "docker", image.MediaTypeDockerList, list)
	e := newEngine(t)
	for _, name := range []string{"multi", "multi:docker", "multi@" + string(want.Digest)} {
		for i, platform := range []image.Platform{arm, s390, s390} {
			pulled, err := e.Pull(t.Context(), reg.Host+"/"+name, engine.PullOptions{Platform: platform})
			require.NoError(t, err)
			img, err := e.Image(reg.Host + "/" + name)
			require.NoError(t, err)
			require.Equal(t, platform, img.Config.Platform())
			require.Equal(t, pulled.Digest, img.Index)
			require.Equal(t, i == 2, pulled.UpToDate, "another platform is another image")
		}
	}
	_, err := e.Pull(t.Context(), reg.Host+"/multi:docker", engine.PullOptions{Platform: image.Platform{OS: "linux", Architecture: "riscv64"}})
	require.ErrorIs(t, err, image.ErrNoPlatform)
	report, err := e.InspectImage(t.Context(), reg.Host+"/multi")
	require.NoError(t, err)
	require.Contains(t, report.RepoDigests, reg.Host+"/multi@"+string(want.Digest))
}

func TestPullEveryKindOfLayer(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	a, b, c := layerTar(t, 1, 2<<20), layerTar(t, 2, 2<<20), layerTar(t, 3, 2<<20)
	remote{t, reg.Host}.pushImage("kinds", "latest", image.HostPlatform(),
		gzipLayer(t, a),
		pushLayer{image.MediaTypeLayerZstd, zstded(t, b), image.DigestBytes(b)},
		pushLayer{image.MediaTypeLayer, c, image.DigestBytes(c)},
		gzipLayer(t, a), // twice in one image
	)
	e := newEngine(t)
	_, err := e.Pull(t.Context(), reg.Host+"/kinds", engine.PullOptions{})
	require.NoError(t, err)
	for _, tar := range [][]byte{a, b, c} {
		requireLayer(t, e, tar)
	}
	requireEmpty(t, e, "partial")
}

func TestPullRefusesLies(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	r := remote{t, reg.Host}
	tar, other := layerTar(t, 1, 1<<20), layerTar(t, 2, 1<<20)
	good := gzipLayer(t, tar)
	lying := good
	lying.diffID = image.DigestBytes(other)
	flipped := append([]byte(nil), tar...)
	flipped[len(flipped)/2] ^= 1
	r.pushImage("good", "latest", image.HostPlatform(), good)
	r.pushImage("lying", "latest", image.HostPlatform(), lying)
	r.pushImage("nottar", "latest", image.HostPlatform(), gzipLayer(t, []byte(strings.Repeat("no tar", 1000))))
	blobPath := "/blobs/" + string(image.DigestBytes(good.blob))
	swap := func(with []byte) func(*http.Request, io.Reader) io.Reader {
		return func(req *http.Request, body io.Reader) io.Reader {
			if strings.HasSuffix(req.URL.Path, blobPath) {
				return strings.NewReader(string(with))
			}
			return body
		}
	}
	damaged := append([]byte(nil), good.blob...)
	damaged[len(damaged)/2] ^= 1
	for name, tc := range map[string]struct {
		image  string
		change func(*http.Request, io.Reader) io.Reader
		err    error
		says   []image.Digest
	}{
		"the config lies about the diffID": {"lying", nil, engine.ErrDiffID, []image.Digest{image.DigestBytes(tar), image.DigestBytes(other)}},
		"wrong bytes":                      {"good", swap(damaged), store.ErrDigest, []image.Digest{image.DigestBytes(damaged), image.DigestBytes(good.blob)}},
		"not a tar":                        {"nottar", nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			proxy.ChangeBodies(tc.change)
			e := newEngine(t)
			_, err := e.Pull(t.Context(), proxy.Host+"/"+tc.image, engine.PullOptions{})
			require.Error(t, err)
			if tc.err != nil {
				require.ErrorIs(t, err, tc.err)
			}
			for _, digest := range tc.says {
				require.ErrorContains(t, err, string(digest), "a mismatch names both")
			}
			for _, dir := range []string{"layers", "images", "blobs", "partial", "pins", "tmp"} {
				requireEmpty(t, e, dir)
			}
		})
	}
	shared := gzipLayer(t, other)
	t.Run("a lie does not poison a layer that others share", func(t *testing.T) {
		proxy.ChangeBodies(nil)
		e := newEngine(t)
		r.pushImage("shared", "latest", image.HostPlatform(), shared)
		_, err := e.Pull(t.Context(), proxy.Host+"/shared", engine.PullOptions{})
		require.NoError(t, err)
		_, err = e.Pull(t.Context(), proxy.Host+"/lying", engine.PullOptions{})
		require.ErrorIs(t, err, engine.ErrDiffID, "even though a layer of that diffID is here")
		requireLayer(t, e, other)
	})
	t.Run("nor do two layers that are here pass for each other", func(t *testing.T) {
		proxy.ChangeBodies(nil)
		e := newEngine(t)
		for _, name := range []string{"good", "shared"} {
			_, err := e.Pull(t.Context(), proxy.Host+"/"+name, engine.PullOptions{})
			require.NoError(t, err)
		}
		_, err := e.Pull(t.Context(), proxy.Host+"/lying", engine.PullOptions{})
		require.ErrorIs(t, err, engine.ErrDiffID, "blob and layer are here, but not of each other")
		require.ErrorContains(t, err, string(image.DigestBytes(tar)))
		require.ErrorContains(t, err, string(image.DigestBytes(other)))
		_, err = e.Image(proxy.Host + "/lying")
		require.ErrorIs(t, err, engine.ErrNoImage)
		for _, content := range [][]byte{tar, other} {
			requireLayer(t, e, content)
		}
		// What is true of them is believed without a look at the bytes, and nothing is fetched again.
		r.pushImage("both", "latest", image.HostPlatform(), good, shared)
		_ = proxy.Requests()
		_, err = e.Pull(t.Context(), proxy.Host+"/both", engine.PullOptions{})
		require.NoError(t, err)
		require.Len(t, proxy.Requests(), 2, "manifest and config")
	})
}

// A pull that ended between its layers left some of them: they are read again here, not fetched again.
func TestPullProvesWhatItFinds(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	tar := layerTar(t, 1, 1<<20)
	layer := gzipLayer(t, tar)
	blob := image.DigestBytes(layer.blob)
	remote{t, reg.Host}.pushImage("app", "latest", image.HostPlatform(), layer)
	for name, harm := range map[string]func(e *engine.Engine, blobPath, layerDir string){
		"layer and blob": func(*engine.Engine, string, string) {},
		"the blob alone": func(_ *engine.Engine, _, dir string) { require.NoError(t, os.RemoveAll(dir)) },
		"a damaged blob": func(_ *engine.Engine, path, dir string) {
			require.NoError(t, os.RemoveAll(dir))
			require.NoError(t, os.WriteFile(path, append(layer.blob[:len(layer.blob)/2:len(layer.blob)/2], 1), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			_, err := e.Pull(t.Context(), proxy.Host+"/app", engine.PullOptions{})
			require.NoError(t, err)
			require.NoError(t, os.RemoveAll(filepath.Join(e.Store.Root(), "images")))
			require.NoError(t, os.Mkdir(filepath.Join(e.Store.Root(), "images"), 0o700))
			blobPath := filepath.Join(e.Store.Root(), "blobs", "sha256", blob.Hex())
			harm(e, blobPath, filepath.Join(e.Store.Root(), "layers", image.DigestBytes(tar).Hex()))
			_ = proxy.Requests()
			_, err = e.Pull(t.Context(), proxy.Host+"/app", engine.PullOptions{})
			require.NoError(t, err)
			requireLayer(t, e, tar)
			kept, err := os.ReadFile(blobPath)
			require.NoError(t, err)
			require.Equal(t, blob, image.DigestBytes(kept))
			fetched := slices.Contains(proxy.Requests(), "GET /v2/app/blobs/"+string(blob))
			require.Equal(t, name == "a damaged blob", fetched)
		})
	}
}

func TestPullOfNothing(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	_, err := newEngine(t).Pull(t.Context(), reg.Host+"/no/such", engine.PullOptions{})
	require.ErrorIs(t, err, registry.ErrNotFound)
	reg.Stop()
	_, err = newEngine(t).Pull(t.Context(), reg.Host+"/no/such", engine.PullOptions{})
	require.ErrorContains(t, err, "connection refused")
}

// cutter breaks blobs off after some bytes of each answer.
func cutter(every int64) func(*http.Request, io.Reader) io.Reader {
	return func(req *http.Request, body io.Reader) io.Reader {
		if !strings.Contains(req.URL.Path, "/blobs/") {
			return body
		}
		return io.MultiReader(io.LimitReader(body, every), brokenReader{})
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestPullGoesOnAfterEachCut(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	tar := layerTar(t, 1, 2<<20)
	layer := gzipLayer(t, tar)
	remote{t, reg.Host}.pushImage("cut", "latest", image.HostPlatform(), layer)
	proxy.ChangeBodies(cutter(64 << 10))
	var sent atomic.Int64
	proxy.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, string(image.DigestBytes(layer.blob))) {
			sent.Add(1)
		}
		return false
	})
	e := newEngine(t)
	_, err := e.Pull(t.Context(), proxy.Host+"/cut", engine.PullOptions{})
	require.NoError(t, err)
	requireLayer(t, e, tar)
	require.EqualValues(t, (len(layer.blob)+(64<<10)-1)/(64<<10), sent.Load(), "no byte is fetched twice")
}

func TestPullFromASlowRegistry(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	tar := layerTar(t, 1, 1<<20)
	layer := gzipLayer(t, tar)
	remote{t, reg.Host}.pushImage("slow", "latest", image.HostPlatform(), layer)
	proxy.ChangeBodies(func(_ *http.Request, body io.Reader) io.Reader { return slowBody{body} })
	e := newEngine(t)
	_, err := e.Pull(t.Context(), proxy.Host+"/slow", engine.PullOptions{})
	require.NoError(t, err)
	requireLayer(t, e, tar)
	require.Len(t, proxy.Requests(), 3, "slow is not broken")
}

func TestPullRetriesAsTheRegistryAsks(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	tar := layerTar(t, 1, 1<<20)
	remote{t, reg.Host}.pushImage("busy", "latest", image.HostPlatform(), gzipLayer(t, tar))
	var mu sync.Mutex
	refused := map[string]int{}
	proxy.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		refused[r.URL.Path]++
		switch refused[r.URL.Path] {
		case 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			return false
		}
		return true
	})
	e := newEngine(t)
	_, err := e.Pull(t.Context(), proxy.Host+"/busy", engine.PullOptions{})
	require.NoError(t, err)
	requireLayer(t, e, tar)
	proxy.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadRequest)
		return true
	})
	_ = proxy.Requests()
	_, err = newEngine(t).Pull(t.Context(), proxy.Host+"/busy", engine.PullOptions{})
	require.ErrorContains(t, err, "400")
	require.Len(t, proxy.Requests(), 1, "what is wrong stays wrong")
}

// A pull that is given up leaves what it has for the next one, which asks for the rest only.
func TestPullResumesAcrossPulls(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	tar := layerTar(t, 1, 4<<20)
	layer := gzipLayer(t, tar)
	digest := image.DigestBytes(layer.blob)
	remote{t, reg.Host}.pushImage("resume", "latest", image.HostPlatform(), layer)
	e := newEngine(t)

	var ranges []string
	intercept := func(refuse bool) {
		first := true
		proxy.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, string(digest)) {
				return false
			}
			ranges = append(ranges, r.Header.Get("Range"))
			if !first && refuse {
				w.WriteHeader(http.StatusGone)
				return true
			}
			first = false
			return false
		})
	}
	proxy.ChangeBodies(cutter(1 << 20))
	intercept(true)
	_, err := e.Pull(t.Context(), proxy.Host+"/resume", engine.PullOptions{})
	require.ErrorContains(t, err, "410")
	partial := filepath.Join(e.Store.Root(), "partial", "sha256-"+digest.Hex())
	info, err := os.Stat(partial)
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, info.Size())

	proxy.ChangeBodies(nil)
	intercept(false)
	ranges = nil
	_, err = e.Pull(t.Context(), proxy.Host+"/resume", engine.PullOptions{})
	require.NoError(t, err)
	requireLayer(t, e, tar)
	require.Equal(t, []string{fmt.Sprintf("bytes=%d-%d", 1<<20, len(layer.blob)-1)}, ranges)
	requireEmpty(t, e, "partial")

	t.Run("damaged by a power cut", func(t *testing.T) {
		e := newEngine(t)
		require.NoError(t, os.MkdirAll(filepath.Join(e.Store.Root(), "partial"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(e.Store.Root(), "partial", "sha256-"+digest.Hex()), make([]byte, 1<<20), 0o600))
		_, err := e.Pull(t.Context(), proxy.Host+"/resume", engine.PullOptions{})
		require.NoError(t, err)
		requireLayer(t, e, tar)
	})
	t.Run("longer than the blob", func(t *testing.T) {
		e := newEngine(t)
		require.NoError(t, os.MkdirAll(filepath.Join(e.Store.Root(), "partial"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(e.Store.Root(), "partial", "sha256-"+digest.Hex()), make([]byte, 9<<20), 0o600))
		_, err := e.Pull(t.Context(), proxy.Host+"/resume", engine.PullOptions{})
		require.NoError(t, err)
		requireLayer(t, e, tar)
	})
}

func TestPullsAtOnceFetchALayerOnce(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	r := remote{t, reg.Host}
	shared, a, b := layerTar(t, 1, 4<<20), layerTar(t, 2, 1<<20), layerTar(t, 3, 1<<20)
	r.pushImage("one", "latest", image.HostPlatform(), gzipLayer(t, shared), gzipLayer(t, a))
	r.pushImage("two", "latest", image.HostPlatform(), gzipLayer(t, b), gzipLayer(t, shared))
	e := newEngine(t)
	var running []*exec.Cmd
	for i := range 6 {
		running = append(running, pullElsewhere(t, e, proxy.Host+"/"+[]string{"one", "two"}[i%2]))
	}
	for _, cmd := range running {
		require.NoError(t, cmd.Wait(), cmd.Stderr)
	}
	blobs := map[string]int{}
	for _, request := range proxy.Requests() {
		if strings.Contains(request, "/blobs/") {
			blobs[filepath.Base(request)]++
		}
	}
	for _, tar := range [][]byte{shared, a, b} {
		requireLayer(t, e, tar)
		require.Equal(t, 1, blobs[string(image.DigestBytes(gzipped(t, tar)))])
	}
	requireEmpty(t, e, "partial")
	requireEmpty(t, e, "pins")
}
