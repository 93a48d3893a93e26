package server_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/registry/server"
)

// FuzzHandler sends anything: every answer is one of the protocol's, and none is a failure here.
func FuzzHandler(f *testing.F) {
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	f.Add("GET", "/v2/a/b/manifests/latest", "", "", "", []byte(nil))
	f.Add("PUT", "/v2/a/b/manifests/latest", "tag=x", "application/vnd.oci.image.index.v1+json", "", []byte(`{"schemaVersion":2,"manifests":[]}`))
	f.Add("PUT", "/v2/a/manifests/"+digest, "tag=x&tag=y", "", "", []byte(nil))
	f.Add("POST", "/v2/a/blobs/uploads/", "digest="+digest, "", "", []byte(nil))
	f.Add("POST", "/v2/a/blobs/uploads/", "mount="+digest+"&from=c", "", "", []byte(nil))
	f.Add("PATCH", "/v2/a/blobs/uploads/x", "", "", "0-4", []byte("hello"))
	f.Add("HEAD", "/v2/a/blobs/"+digest, "", "", "bytes=0-", []byte(nil))
	f.Add("GET", "/v2/_catalog", "n=1&last=a", "", "", []byte(nil))
	f.Add("GET", "/v2/a/tags/list", "n=-1", "", "", []byte(nil))
	f.Add("GET", "/v2/a/referrers/"+digest, "artifactType=x", "", "", []byte(nil))
	f.Add("DELETE", "/v2/a/blobs/uploads/blobs/uploads/x", "", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, method, path, query, contentType, contentRange string, body []byte) {
		handler := server.New(new(server.Memory), server.Options{Log: func(line string) {
			if method == http.MethodGet {
				t.Error(line)
			}
		}})
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", bytes.NewReader(body))
		r.Method, r.URL = method, &url.URL{Path: path, RawQuery: query}
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Content-Range", contentRange)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		require.GreaterOrEqual(t, w.Code, 200)
		require.Less(t, w.Code, 500, "%s", w.Body)
		require.NoError(t, handler.Close())
	})
}
