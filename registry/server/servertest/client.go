package servertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry/server"
)

// registry is a registry and a client of it that knows nothing but HTTP.
type registry struct {
	*testing.T
	url     string
	content server.Content
}

func start(t *testing.T, content server.Content, options server.Options) *registry {
	t.Helper()
	handler := server.New(content, options)
	web := httptest.NewServer(handler)
	t.Cleanup(func() {
		web.Close()
		require.NoError(t, handler.Close())
	})
	return &registry{T: t, url: web.URL, content: content}
}

// answer is what came back.
type answer struct {
	*http.Response
	body []byte
}

// do sends a request, header as name and value in turn, and wants a status.
func (r *registry) do(want int, method, path string, body []byte, header ...string) *answer {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), method, r.url+path, bytes.NewReader(body))
	require.NoError(r, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(r, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(r, err)
	require.Equal(r, want, res.StatusCode, "%s %s: %s", method, path, text)
	return &answer{Response: res, body: text}
}

// refused wants an error with a code of the specification.
func (r *registry) refused(want int, code, method, path string, body []byte, header ...string) {
	r.Helper()
	a := r.do(want, method, path, body, header...)
	var e struct {
		Errors []struct{ Code, Message string } `json:"errors"`
	}
	require.NoError(r, json.Unmarshal(a.body, &e), "%s", a.body)
	require.Len(r, e.Errors, 1)
	require.Equal(r, code, e.Errors[0].Code)
	require.NotEmpty(r, e.Errors[0].Message)
}

// pushBlob uploads a blob in one request, and gives its descriptor.
func (r *registry) pushBlob(repository, mediaType string, data []byte) image.Descriptor {
	r.Helper()
	d := image.DigestBytes(data)
	r.do(http.StatusCreated, http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+string(d), data)
	return image.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// artifact makes a manifest around blobs, which it pushes, and gives its bytes.
func (r *registry) artifact(repository, kind string, edit func(m *image.Manifest), blobs ...string) []byte {
	r.Helper()
	m := &image.Manifest{
		SchemaVersion: 2, MediaType: image.MediaTypeManifest, ArtifactType: kind,
		Config: r.pushBlob(repository, "application/vnd.oci.empty.v1+json", []byte("{}")),
		Layers: []image.Descriptor{},
	}
	for _, blob := range blobs {
		m.Layers = append(m.Layers, r.pushBlob(repository, "application/octet-stream", []byte(blob)))
	}
	if edit != nil {
		edit(m)
	}
	raw, err := json.Marshal(m)
	require.NoError(r, err)
	return raw
}

// putManifest pushes a manifest under a tag, or by its digest if that is "".
func (r *registry) putManifest(repository, tag, mediaType string, raw []byte) image.Digest {
	r.Helper()
	d := image.DigestBytes(raw)
	target := tag
	if tag == "" {
		target = string(d)
	}
	a := r.do(http.StatusCreated, http.MethodPut, "/v2/"+repository+"/manifests/"+target, raw, "Content-Type", mediaType)
	require.Equal(r, string(d), a.Header.Get("Docker-Content-Digest"))
	return d
}

// wantManifest wants to get exactly raw.
func (r *registry) wantManifest(repository, reference string, raw []byte) {
	r.Helper()
	path := "/v2/" + repository + "/manifests/" + reference
	a := r.do(http.StatusOK, http.MethodGet, path, nil)
	require.Equal(r, raw, a.body)
	head := r.do(http.StatusOK, http.MethodHead, path, nil)
	for _, a := range []*answer{a, head} {
		require.Equal(r, fmt.Sprint(len(raw)), a.Header.Get("Content-Length"))
		require.Equal(r, string(image.DigestBytes(raw)), a.Header.Get("Docker-Content-Digest"))
	}
}

// strings reads a list of strings in a JSON object.
func (r *registry) strings(path, key string) (list []string, next string) {
	r.Helper()
	a := r.do(http.StatusOK, http.MethodGet, path, nil)
	var object map[string]json.RawMessage
	require.NoError(r, json.Unmarshal(a.body, &object))
	require.NoError(r, json.Unmarshal(object[key], &list))
	require.NotNil(r, list)
	return list, nextOf(r, a)
}

// nextOf gives the path of the next page, "" if there is none.
func nextOf(r *registry, a *answer) string {
	r.Helper()
	link := a.Header.Get("Link")
	if link == "" {
		return ""
	}
	var next string
	_, err := fmt.Sscanf(link, "<%s rel=\"next\"", &next)
	require.NoError(r, err, link)
	require.True(r, len(next) > 2 && next[len(next)-2:] == ">;", link)
	return next[:len(next)-2]
}
