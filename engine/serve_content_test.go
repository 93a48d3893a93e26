package engine

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/registry/server"
	"github.com/tarnfs/tarn/registry/server/servertest"
)

func TestStoreAsRegistry(t *testing.T) {
	servertest.Run(t, func(t *testing.T) server.Content {
		e, err := Open(Options{Root: filepath.Join(t.TempDir(), "root"), Run: t.TempDir()})
		require.NoError(t, err)
		content := newStoreContent(e, func(line string) { t.Log(line) })
		t.Cleanup(func() { require.NoError(t, content.pending.close()) })
		return content
	})
}

// TestRemadeBlobIsMadeOnlyToBeRead asks for what most clients ask for first.
func TestRemadeBlobIsMadeOnlyToBeRead(t *testing.T) {
	const content = "compressed"
	made := 0
	answer := func(method, ranges string) *httptest.ResponseRecorder {
		blob := &remadeBlob{size: int64(len(content)), make: func() (io.ReadSeekCloser, error) {
			made++
			return struct {
				io.ReadSeeker
				io.Closer
			}{strings.NewReader(content), io.NopCloser(nil)}, nil
		}}
		r := httptest.NewRequestWithContext(t.Context(), method, "/", nil)
		if ranges != "" {
			r.Header.Set("Range", ranges)
		}
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, blob)
		require.NoError(t, blob.Close())
		return w
	}
	require.Equal(t, "10", answer(http.MethodHead, "").Header().Get("Content-Length"))
	require.Equal(t, http.StatusRequestedRangeNotSatisfiable, answer(http.MethodGet, "bytes=10-").Code)
	require.Zero(t, made)
	require.Equal(t, content, answer(http.MethodGet, "").Body.String())
	require.Equal(t, "press", answer(http.MethodGet, "bytes=3-7").Body.String())
	require.Equal(t, 2, made)
}
