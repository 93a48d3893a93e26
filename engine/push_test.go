package engine_test

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/registry"
)

func TestPushGivesTheDigestsThatCame(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	r := remote{t, reg.Host}
	a, b, c := layerTar(t, 1, 5<<20), layerTar(t, 2, 1<<20), layerTar(t, 3, 1000)
	want := r.pushImage("from", "v1", image.HostPlatform(), gzipLayer(t, a),
		pushLayer{image.MediaTypeLayerZstd, zstded(t, b), image.DigestBytes(b)},
		pushLayer{image.MediaTypeLayer, c, image.DigestBytes(c)}, gzipLayer(t, a))
	other := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, other.Host)
	e := newEngine(t)
	_, err := e.Pull(t.Context(), reg.Host+"/from:v1", engine.PullOptions{})
	require.NoError(t, err)
	pushed, err := e.Push(t.Context(), reg.Host+"/from:v1", proxy.Host+"/to:v2", engine.PushOptions{})
	require.NoError(t, err)
	require.Equal(t, want.Digest, pushed.Digest)
	require.Equal(t, string(want.Digest), other.Header("/v2/to/manifests/v2").Get("Docker-Content-Digest"))

	t.Run("what is there is not sent", func(t *testing.T) {
		_ = proxy.Requests()
		_, err = e.Push(t.Context(), reg.Host+"/from:v1", proxy.Host+"/to:v3", engine.PushOptions{})
		require.NoError(t, err)
		for _, request := range proxy.Requests() {
			require.True(t, strings.HasPrefix(request, "HEAD ") || request == "PUT /v2/to/manifests/v3", request)
		}
	})
	t.Run("what another repository has is mounted", func(t *testing.T) {
		require.NoError(t, e.Tag(t.Context(), reg.Host+"/from:v1", proxy.Host+"/to:v2"))
		_ = proxy.Requests()
		pushed, err = e.Push(t.Context(), reg.Host+"/from:v1", proxy.Host+"/mounted", engine.PushOptions{})
		require.NoError(t, err)
		require.Equal(t, want.Digest, pushed.Digest)
		var sent []string
		for _, request := range proxy.Requests() {
			if strings.HasPrefix(request, "PATCH") || strings.HasPrefix(request, "PUT") {
				sent = append(sent, request)
			}
		}
		require.Len(t, sent, 2, "config and manifest: %q", sent)
	})
	t.Run("pulled again it is the same image", func(t *testing.T) {
		second := newEngine(t)
		_, err := second.Pull(t.Context(), other.Host+"/to:v2", engine.PullOptions{})
		require.NoError(t, err)
		for _, tar := range [][]byte{a, b, c} {
			requireLayer(t, second, tar)
		}
	})
}

func TestPushCompressesWhatWasMadeHere(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	tar := bigTar(t)
	e := newEngine(t)
	id, err := e.Import(t.Context(), bytes.NewReader(tar), engine.ImportOptions{Name: proxy.Host + "/made"})
	require.NoError(t, err)
	digests := map[string]image.Digest{}
	for _, compression := range []string{"gzip", "zstd", "none"} {
		pushed, err := e.Push(t.Context(), proxy.Host+"/made", proxy.Host+"/made:"+compression, engine.PushOptions{Compression: compression})
		require.NoError(t, err)
		manifest, err := image.ParseManifest(pushed.Manifest)
		require.NoError(t, err)
		require.Equal(t, id, manifest.Config.Digest, "the image stays the same")
		require.Equal(t, map[string]string{
			"gzip": image.MediaTypeLayerGzip, "zstd": image.MediaTypeLayerZstd, "none": image.MediaTypeLayer,
		}[compression], manifest.Layers[0].MediaType)
		digests[compression] = pushed.Digest

		second := newEngine(t)
		pulled, err := second.Pull(t.Context(), proxy.Host+"/made:"+compression, engine.PullOptions{})
		require.NoError(t, err)
		require.Equal(t, id, pulled.ID)
		requireLayer(t, second, tar)
	}
	require.Equal(t, image.DigestBytes(tar), mustManifest(t, e, id).Layers[0].Digest, "the store keeps the tar alone")

	t.Run("the second time it is known before it is compressed", func(t *testing.T) {
		_ = proxy.Requests()
		pushed, err := e.Push(t.Context(), proxy.Host+"/made", "", engine.PushOptions{})
		require.NoError(t, err)
		require.Equal(t, digests["gzip"], pushed.Digest)
		require.Len(t, proxy.Requests(), 3, "layer, config, manifest")
	})
	t.Run("pulled back, the compressed form is made again and not fetched", func(t *testing.T) {
		_ = proxy.Requests()
		pulled, err := e.Pull(t.Context(), proxy.Host+"/made:gzip", engine.PullOptions{})
		require.NoError(t, err)
		require.Equal(t, digests["gzip"], pulled.Digest)
		require.Len(t, proxy.Requests(), 2, "manifest, config")
		other := testenv.StartRegistry(t, testenv.RegistryOptions{})
		pushed, err := e.Push(t.Context(), proxy.Host+"/made:gzip", other.Host+"/again", engine.PushOptions{})
		require.NoError(t, err)
		require.Equal(t, digests["gzip"], pushed.Digest)
	})
	t.Run("recompress", func(t *testing.T) {
		pushed, err := e.Push(t.Context(), proxy.Host+"/made:gzip", proxy.Host+"/made:plain", engine.PushOptions{Compression: "none", Recompress: true})
		require.NoError(t, err)
		manifest, err := image.ParseManifest(pushed.Manifest)
		require.NoError(t, err)
		require.Equal(t, image.MediaTypeLayer, manifest.Layers[0].MediaType)
		require.Equal(t, image.DigestBytes(tar), manifest.Layers[0].Digest)
	})
	requireNoLeftovers(t, e)
	requireEmpty(t, e, "pins")
}

func mustManifest(t *testing.T, e *engine.Engine, id image.Digest) *image.Manifest {
	t.Helper()
	img, err := e.Image(string(id))
	require.NoError(t, err)
	manifest, err := e.Store.Manifest(img.Manifest)
	require.NoError(t, err)
	return manifest
}

func TestPushOptionsThatCannotBe(t *testing.T) {
	e := newEngine(t)
	_, err := e.Import(t.Context(), bytes.NewReader(bigTar(t)), engine.ImportOptions{Name: "127.0.0.1:1/x"})
	require.NoError(t, err)
	for _, opts := range []engine.PushOptions{{Compression: "bzip2"}, {Level: 10}, {Compression: "zstd", Level: 23}, {Level: -1}} {
		_, err := e.Push(t.Context(), "127.0.0.1:1/x", "", opts)
		require.ErrorIs(t, err, engine.ErrOption)
	}
	_, err = e.Push(t.Context(), "127.0.0.1:1/x", "127.0.0.1:1/x@"+string(image.DigestBytes(nil)), engine.PushOptions{})
	require.ErrorIs(t, err, engine.ErrOption)
	_, err = e.Push(t.Context(), "no/such", "", engine.PushOptions{})
	require.ErrorIs(t, err, engine.ErrNoImage)
}

// This registry gives a session up when a connection breaks; so the upload begins anew.
func TestPushGoesOnAfterACut(t *testing.T) {
	const size = 20 << 20
	for name, pull := range map[string]bool{"compressed on the way": false, "of known size": true} {
		t.Run(name, func(t *testing.T) {
			reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
			proxy := testenv.StartProxy(t, reg.Host)
			e := newEngine(t)
			tar, source := layerTar(t, 1, size), reg.Host+"/source"
			if pull {
				remote{t, reg.Host}.pushImage("source", "latest", image.HostPlatform(), gzipLayer(t, tar))
				_, err := e.Pull(t.Context(), source, engine.PullOptions{})
				require.NoError(t, err)
			} else {
				_, err := e.Import(t.Context(), bytes.NewReader(tar), engine.ImportOptions{Name: source})
				require.NoError(t, err)
			}
			var patches atomic.Int64
			proxy.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPatch {
					return false
				}
				if n := patches.Add(1); n == 1 || n == 3 { // breaks off after a moment
					r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, 1<<20), brokenReader{}))
				}
				return false
			})
			_, err := e.Push(t.Context(), source, proxy.Host+"/cut", engine.PushOptions{})
			require.NoError(t, err)
			require.GreaterOrEqual(t, patches.Load(), int64(4), "the whole, then three pieces")
			second := newEngine(t)
			_, err = second.Pull(t.Context(), reg.Host+"/cut", engine.PullOptions{})
			require.NoError(t, err)
			requireLayer(t, second, tar)
		})
	}
}

// Whatever the way to the registry does, what arrives is what was sent, or nothing.
func TestPushThroughFaults(t *testing.T) {
	var mu sync.Mutex
	refused := map[string]int{}
	for name, harm := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"cut at every 64 KiB": func(_ http.ResponseWriter, r *http.Request) bool {
			r.Body = io.NopCloser(&cutBody{body: r.Body, left: 64 << 10})
			return false
		},
		"busy": func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			key := r.Method + r.URL.Path
			refused[key]++
			switch refused[key] {
			case 1:
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusTooManyRequests)
			case 2:
				w.WriteHeader(http.StatusServiceUnavailable)
			default:
				return false
			}
			return true
		},
		"slow": func(_ http.ResponseWriter, r *http.Request) bool {
			r.Body = io.NopCloser(slowBody{r.Body})
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
			proxy := testenv.StartProxy(t, reg.Host)
			proxy.Intercept(harm)
			e, tar := newEngine(t), layerTar(t, 1, 1<<20)
			_, err := e.Import(t.Context(), bytes.NewReader(tar), engine.ImportOptions{Name: proxy.Host + "/app"})
			require.NoError(t, err)
			pushed, err := e.Push(t.Context(), proxy.Host+"/app", "", engine.PushOptions{})
			require.NoError(t, err)
			require.Equal(t, string(pushed.Digest), reg.Header("/v2/app/manifests/latest").Get("Docker-Content-Digest"))
			second := newEngine(t)
			_, err = second.Pull(t.Context(), reg.Host+"/app", engine.PullOptions{})
			require.NoError(t, err)
			requireLayer(t, second, tar)
		})
	}
	t.Run("wrong bytes", func(t *testing.T) {
		reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
		proxy := testenv.StartProxy(t, reg.Host)
		proxy.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPatch {
				r.Body = io.NopCloser(&flippedBody{Reader: r.Body})
			}
			return false
		})
		e := newEngine(t)
		_, err := e.Import(t.Context(), bytes.NewReader(layerTar(t, 1, 8<<20)), engine.ImportOptions{Name: proxy.Host + "/app"})
		require.NoError(t, err)
		_, err = e.Push(t.Context(), proxy.Host+"/app", "", engine.PushOptions{Compression: "none"})
		require.ErrorContains(t, err, "DIGEST_INVALID")
		_, err = newEngine(t).Pull(t.Context(), reg.Host+"/app", engine.PullOptions{})
		require.ErrorIs(t, err, registry.ErrNotFound, "no manifest names what did not arrive")
	})
}

func TestPushOutlivesARestartOfTheRegistry(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	var patches atomic.Int64
	proxy.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && patches.Add(1) == 1 {
			r.Body = io.NopCloser(&atOffset{Reader: r.Body, left: 1 << 20, do: func() { reg.Stop(); reg.Start() }})
		}
		return false
	})
	e, tar := newEngine(t), layerTar(t, 1, 12<<20)
	_, err := e.Import(t.Context(), bytes.NewReader(tar), engine.ImportOptions{Name: proxy.Host + "/app"})
	require.NoError(t, err)
	_, err = e.Push(t.Context(), proxy.Host+"/app", "", engine.PushOptions{})
	require.NoError(t, err)
	require.Greater(t, patches.Load(), int64(1))
	second := newEngine(t)
	_, err = second.Pull(t.Context(), reg.Host+"/app", engine.PullOptions{})
	require.NoError(t, err)
	requireLayer(t, second, tar)
}

// atOffset does something when so many bytes have been read.
type atOffset struct {
	io.Reader
	left int
	do   func()
}

func (a *atOffset) Read(p []byte) (int, error) {
	if a.left <= 0 && a.do != nil {
		a.do()
		a.do = nil
	}
	n, err := a.Reader.Read(p)
	a.left -= n
	return n, err
}

// cutBody breaks off after some bytes; a body that ends before is not harmed.
type cutBody struct {
	body io.Reader
	left int
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.body.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// slowBody gives a little at a time.
type slowBody struct{ io.Reader }

func (s slowBody) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return s.Reader.Read(p[:min(len(p), 8<<10)])
}

// flippedBody has another first byte.
type flippedBody struct {
	io.Reader
	done bool
}

func (f *flippedBody) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if n > 0 && !f.done {
		p[0], f.done = p[0]^1, true
	}
	return n, err
}

func TestPushInChunksWhereThatIsWanted(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	e := newEngine(t)
	tar := layerTar(t, 1, 20<<20)
	_, err := e.Import(t.Context(), bytes.NewReader(tar), engine.ImportOptions{Name: proxy.Host + "/chunks"})
	require.NoError(t, err)
	proxy.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch {
			return false
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, 17<<20))
		if err != nil || len(body) >= 17<<20 {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return true
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		return false
	})
	for _, compression := range []string{"gzip", "none"} {
		_, err = e.Push(t.Context(), proxy.Host+"/chunks", proxy.Host+"/chunks:"+compression, engine.PushOptions{Compression: compression})
		require.NoError(t, err)
		second := newEngine(t)
		_, err = second.Pull(t.Context(), reg.Host+"/chunks:"+compression, engine.PullOptions{})
		require.NoError(t, err)
		requireLayer(t, second, tar)
	}
}

// Images of other tools go through tarn and come back to them with the digests they had.
func TestImagesOfOtherToolsComeBackTheSame(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.RequireTool(t, "skopeo", "podman", "buildah")
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	dir := testenv.TempDir(t)
	tar := testenv.BusyboxTar(t)
	containers := []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}
	run := func(name string, args ...string) string {
		t.Helper()
		if name != "skopeo" {
			args = append(containers, args...)
		}
		var errs bytes.Buffer
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Stderr = &errs
		out, err := cmd.Output()
		require.NoError(t, err, "%s %v: %s", name, args, errs.String())
		return strings.TrimSpace(string(out))
	}
	run("podman", "import", tar, "localhost/imported")
	run("podman", "push", "--tls-verify=false", "localhost/imported", reg.Host+"/podman")
	run("podman", "push", "--tls-verify=false", "--format", "v2s2", "localhost/imported", reg.Host+"/docker")
	working := run("buildah", "from", "scratch")
	run("buildah", "copy", working, tar, "/tarball")
	run("buildah", "config", "--env", "A=b", working)
	run("buildah", "commit", working, "localhost/built")
	run("buildah", "push", "--tls-verify=false", "--compression-format", "zstd", "localhost/built", reg.Host+"/buildah")
	run("skopeo", "copy", "--dest-tls-verify=false", "--src-tls-verify=false", "--format", "oci", "docker://"+reg.Host+"/docker", "docker://"+reg.Host+"/skopeo")
	e := newEngine(t)
	for _, tool := range []string{"podman", "docker", "buildah", "skopeo"} {
		t.Run(tool, func(t *testing.T) {
			pulled, err := e.Pull(t.Context(), reg.Host+"/"+tool, engine.PullOptions{})
			require.NoError(t, err)
			fresh := testenv.StartRegistry(t, testenv.RegistryOptions{})
			pushed, err := e.Push(t.Context(), reg.Host+"/"+tool, fresh.Host+"/back/"+tool, engine.PushOptions{})
			require.NoError(t, err)
			require.Equal(t, pulled.Digest, pushed.Digest)
			header := reg.Header("/v2/" + tool + "/manifests/latest")
			back := fresh.Header("/v2/back/" + tool + "/manifests/latest")
			for _, key := range []string{"Docker-Content-Digest", "Content-Type", "Content-Length"} {
				require.Equal(t, header.Get(key), back.Get(key))
			}
			require.Equal(t, pulled.ID.Hex(), run("podman", "pull", "-q", "--tls-verify=false", fresh.Host+"/back/"+tool))
			require.Equal(t, string(pulled.Digest), run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+fresh.Host+"/back/"+tool))
		})
	}
	t.Run("made by tarn", func(t *testing.T) {
		f, err := os.Open(tar)
		require.NoError(t, err)
		defer f.Close()
		id, err := e.Import(t.Context(), f, engine.ImportOptions{Name: reg.Host + "/tarn", Changes: []string{"CMD [\"sh\"]"}})
		require.NoError(t, err)
		for i, compression := range []string{"gzip", "none", "zstd"} {
			to := reg.Host + "/tarn:" + strconv.Itoa(i)
			_, err := e.Push(t.Context(), reg.Host+"/tarn", to, engine.PushOptions{Compression: compression})
			require.NoError(t, err)
			require.Equal(t, id.Hex(), run("podman", "pull", "-q", "--tls-verify=false", to))
		}
	})
}

func TestImagesOfDockerComeBackTheSame(t *testing.T) {
	docker := testenv.Docker(t)
	reg, fresh := testenv.StartRegistry(t, testenv.RegistryOptions{}), testenv.StartRegistry(t, testenv.RegistryOptions{})
	tar := testenv.BusyboxTar(t)
	name := reg.Host + "/docker/app"
	docker("import", "--change", `CMD ["sh"]`, tar, name)
	docker("push", "--quiet", name)
	e := newEngine(t)
	pulled, err := e.Pull(t.Context(), name, engine.PullOptions{})
	require.NoError(t, err)
	require.Equal(t, reg.Header("/v2/docker/app/manifests/latest").Get("Docker-Content-Digest"), string(pulled.Digest))
	require.Equal(t, strings.TrimSpace(docker("images", "--no-trunc", "--quiet", name)), string(pulled.ID))

	gone, err := e.Compact(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, gone, 1, "Docker compresses with Go's gzip")
	pushed, err := e.Push(t.Context(), name, fresh.Host+"/back", engine.PushOptions{})
	require.NoError(t, err)
	require.Equal(t, pulled.Digest, pushed.Digest)
	docker("rmi", "--force", string(pulled.ID))
	docker("pull", "--quiet", fresh.Host+"/back")
	require.Equal(t, string(pulled.ID), strings.TrimSpace(docker("images", "--no-trunc", "--quiet", fresh.Host+"/back")))

	f, err := os.Open(tar)
	require.NoError(t, err)
	defer f.Close()
	id, err := e.Import(t.Context(), f, engine.ImportOptions{Name: fresh.Host + "/tarn"})
	require.NoError(t, err)
	_, err = e.Push(t.Context(), fresh.Host+"/tarn", "", engine.PushOptions{})
	require.NoError(t, err)
	docker("pull", "--quiet", fresh.Host+"/tarn")
	require.Equal(t, string(id), strings.TrimSpace(docker("images", "--no-trunc", "--quiet", fresh.Host+"/tarn")))
}

// A token may expire while a layer is compressed and sent: what has been read of it is read again.
func TestPushOutlivesItsToken(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{Auth: testenv.TokenServer(t, "alice", "secret")})
	proxy := testenv.StartProxy(t, reg.Host)
	docker := t.TempDir()
	t.Setenv("DOCKER_CONFIG", docker)
	require.NoError(t, os.WriteFile(filepath.Join(docker, "config.json"),
		[]byte(`{"auths": {"`+proxy.Host+`": {"auth": "`+base64.StdEncoding.EncodeToString([]byte("alice:secret"))+`"}}}`), 0o600))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, reg.URL("/v2/"), nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	challenge := res.Header.Get("WWW-Authenticate")
	require.Contains(t, challenge, "Bearer")

	var expired atomic.Int64
	proxy.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && expired.Add(1) == 1 {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			w.Header().Set("WWW-Authenticate", challenge+`,scope="repository:app:pull,push"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	})
	e := newEngine(t)
	tar := layerTar(t, 1, 12<<20)
	_, err = e.Import(t.Context(), bytes.NewReader(tar), engine.ImportOptions{Name: proxy.Host + "/app"})
	require.NoError(t, err)
	_, err = e.Push(t.Context(), proxy.Host+"/app", "", engine.PushOptions{})
	require.NoError(t, err)
	require.Greater(t, expired.Load(), int64(1))
	second := newEngine(t)
	_, err = second.Pull(t.Context(), proxy.Host+"/app", engine.PullOptions{})
	require.NoError(t, err)
	requireLayer(t, second, tar)
}
