package registry

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
)

// blobFrom opens a blob of a registry that is this handler.
func blobFrom(t *testing.T, handler http.HandlerFunc, want image.Descriptor) *Blob {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", "/dev/null")
	client, err := New(Options{})
	require.NoError(t, err)
	client.backoff, client.stall = time.Millisecond, 100*time.Millisecond
	ref, err := image.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/x")
	require.NoError(t, err)
	repo, err := client.Repository(ref, Pull)
	require.NoError(t, err)
	blob, err := repo.Blob(t.Context(), want, 0)
	require.NoError(t, err)
	return blob
}

func TestBlobThatStallsIsAskedForAgain(t *testing.T) {
	data := make([]byte, 300<<10)
	_, _ = rand.Read(data)
	var asked atomic.Int64
	blob := blobFrom(t, func(w http.ResponseWriter, r *http.Request) {
		from := 0
		if at := r.Header.Get("Range"); at != "" {
			if _, err := fmt.Sscanf(at, "bytes=%d-", &from); err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
			w.WriteHeader(http.StatusPartialContent)
		}
		if asked.Add(1) < 3 {
			_, _ = w.Write(data[from : from+(100<<10)])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done() // and nothing more
			return
		}
		_, _ = w.Write(data[from:])
	}, image.Descriptor{Digest: image.DigestBytes(data), Size: int64(len(data))})
	got, err := io.ReadAll(blob)
	require.NoError(t, err)
	require.Equal(t, image.DigestBytes(data), image.DigestBytes(got))
	require.EqualValues(t, 3, asked.Load())
	require.NoError(t, blob.Close())
}

func TestBlobOfAnotherSizeOrRangeIsRefused(t *testing.T) {
	want := image.Descriptor{Digest: image.DigestBytes([]byte("x")), Size: 10}
	blob := blobFrom(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 20))
	}, want)
	_, err := io.ReadAll(blob)
	require.ErrorIs(t, err, ErrDigest)
	require.ErrorContains(t, err, "20 bytes, the manifest says 10")

	blob = blobFrom(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "" {
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write(make([]byte, 4)) // and breaks off
			return
		}
		w.Header().Set("Content-Range", "bytes 0-9/10")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(make([]byte, 10))
	}, want)
	_, err = io.ReadAll(blob)
	require.ErrorIs(t, err, ErrProtocol)
}

func TestBlobIsGivenUpWhenNothingComes(t *testing.T) {
	var asked atomic.Int64
	blob := blobFrom(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusBadGateway)
	}, image.Descriptor{Digest: image.DigestBytes([]byte("x")), Size: 10})
	_, err := io.ReadAll(blob)
	require.ErrorContains(t, err, "502")
	require.EqualValues(t, maxTries, asked.Load())
}
