package engine_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/testenv"
)

// Environment of a test program that pulls for another test, to be killed while it does.
const (
	envPullRoot = "TARN_TEST_PULL_ROOT"
	envPullName = "TARN_TEST_PULL_NAME"
)

func TestMain(m *testing.M) {
	root := os.Getenv(envPullRoot)
	if root == "" {
		testenv.InOwnNetwork()
		os.Exit(m.Run())
	}
	e, err := engine.Open(engine.Options{Root: root, Run: root + "-run"})
	if err == nil {
		_, err = e.Pull(context.Background(), os.Getenv(envPullName), engine.PullOptions{})
	}
	if err != nil {
		_, _ = io.WriteString(os.Stderr, err.Error())
		os.Exit(1)
	}
}

// pullElsewhere starts a pull in a process of its own.
func pullElsewhere(t *testing.T, e *engine.Engine, name string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), envPullRoot+"="+e.Store.Root(), envPullName+"="+name)
	cmd.Stderr = new(bytes.Buffer)
	require.NoError(t, cmd.Start())
	return cmd
}

// trickle lets some bytes of a blob through, says so, and then holds the rest until it is let go.
type trickle struct {
	body  io.Reader
	left  int
	there chan<- struct{}
	gone  <-chan struct{}
}

func (s *trickle) Read(p []byte) (int, error) {
	if s.left == 0 {
		select {
		case s.there <- struct{}{}:
		default:
		}
		<-s.gone
		return 0, io.ErrUnexpectedEOF
	}
	n, err := s.body.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

func TestPullGoesOnAfterKill(t *testing.T) {
	const first = 5 << 20
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	tar := layerTar(t, 1, 8<<20)
	layer := gzipLayer(t, tar)
	digest := image.DigestBytes(layer.blob)
	remote{t, reg.Host}.pushImage("killed", "latest", image.HostPlatform(), layer)
	there, gone := make(chan struct{}, 1), make(chan struct{})
	proxy.ChangeBodies(func(r *http.Request, body io.Reader) io.Reader {
		if strings.HasSuffix(r.URL.Path, string(digest)) {
			return &trickle{body, first, there, gone}
		}
		return body
	})
	e := newEngine(t)
	cmd := pullElsewhere(t, e, proxy.Host+"/killed")
	<-there
	partial := filepath.Join(e.Store.Root(), "partial", "sha256-"+digest.Hex())
	for size := int64(0); size < first-(2<<20); time.Sleep(time.Millisecond) { // it writes by the megabyte
		if info, err := os.Stat(partial); err == nil {
			size = info.Size()
		}
	}
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	close(gone)

	proxy.ChangeBodies(nil)
	var sent atomic.Int64
	proxy.ChangeBodies(func(r *http.Request, body io.Reader) io.Reader {
		if strings.HasSuffix(r.URL.Path, string(digest)) {
			return io.TeeReader(body, counter{&sent})
		}
		return body
	})
	_, err := e.Pull(t.Context(), proxy.Host+"/killed", engine.PullOptions{})
	require.NoError(t, err)
	requireLayer(t, e, tar)
	require.LessOrEqual(t, sent.Load(), int64(len(layer.blob)-first+(2<<20)), "only the rest is fetched")
	requireNoLeftovers(t, e)
	requireEmpty(t, e, "partial")
	requireEmpty(t, e, "pins")
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

func TestPullOutlivesARestartOfTheRegistry(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	tar := layerTar(t, 1, 4<<20)
	layer := gzipLayer(t, tar)
	remote{t, reg.Host}.pushImage("restart", "latest", image.HostPlatform(), layer)
	there, gone := make(chan struct{}, 1), make(chan struct{})
	var blobs atomic.Int64
	proxy.ChangeBodies(func(r *http.Request, body io.Reader) io.Reader {
		if strings.HasSuffix(r.URL.Path, string(image.DigestBytes(layer.blob))) && blobs.Add(1) == 1 {
			return &trickle{body, 1 << 20, there, gone}
		}
		return body
	})
	e := newEngine(t)
	done := make(chan error, 1)
	go func() {
		_, err := e.Pull(t.Context(), proxy.Host+"/restart", engine.PullOptions{})
		done <- err
	}()
	<-there
	reg.Stop()
	close(gone)
	time.Sleep(500 * time.Millisecond) // some tries fail meanwhile
	reg.Start()
	require.NoError(t, <-done)
	requireLayer(t, e, tar)
	require.Greater(t, blobs.Load(), int64(1))
}

// Where ranges are not to be had, the blob is read again up to where it broke off.
func TestPullFromARegistryWithoutRanges(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	proxy := testenv.StartProxy(t, reg.Host)
	tar := layerTar(t, 1, 2<<20)
	remote{t, reg.Host}.pushImage("plain", "latest", image.HostPlatform(), gzipLayer(t, tar))
	var blobs atomic.Int64
	proxy.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range")
		return false
	})
	proxy.ChangeBodies(func(r *http.Request, body io.Reader) io.Reader {
		if strings.Contains(r.URL.Path, "/blobs/") && blobs.Add(1) < 4 {
			return io.MultiReader(io.LimitReader(body, blobs.Load()*(300<<10)), brokenReader{})
		}
		return body
	})
	e := newEngine(t)
	_, err := e.Pull(t.Context(), proxy.Host+"/plain", engine.PullOptions{})
	require.NoError(t, err)
	requireLayer(t, e, tar)
}
