package engine_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
)

// remote puts images into a registry with nothing but the protocol, as another tool's would be.
type remote struct {
	t    *testing.T
	host string
}

// layerTar gives the tar of a layer of some size that does not compress, different for each seed.
func layerTar(t *testing.T, seed byte, size int) []byte {
	noise := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(noise)
	return makeTar(t, file{"data/", ""}, file{"data/" + string('a'+rune(seed)), string(noise)}, file{"data/text", strings.Repeat("hello ", 1000)})
}

// pushBlob uploads a blob and gives its descriptor.
func (r remote) pushBlob(repo, mediaType string, data []byte) image.Descriptor {
	d := image.Descriptor{MediaType: mediaType, Digest: image.DigestBytes(data), Size: int64(len(data))}
	location := r.do(http.StatusAccepted, http.MethodPost, "http://"+r.host+"/v2/"+repo+"/blobs/uploads/", "", nil)
	separator := "?"
	if strings.Contains(location, "?") {
		separator = "&"
	}
	r.do(http.StatusCreated, http.MethodPut, location+separator+"digest="+string(d.Digest), "application/octet-stream", data)
	return d
}

// do sends a request, wants a status, and gives the header Location of the answer.
func (r remote) do(want int, method, url, contentType string, body []byte) string {
	req, err := http.NewRequestWithContext(r.t.Context(), method, url, bytes.NewReader(body))
	require.NoError(r.t, err)
	req.Header.Set("Content-Type", contentType)
	res, err := http.DefaultClient.Do(req)
	require.NoError(r.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(r.t, err)
	require.Equal(r.t, want, res.StatusCode, string(text))
	location, err := res.Location() // may be relative to the request
	if errors.Is(err, http.ErrNoLocation) {
		return ""
	}
	require.NoError(r.t, err)
	return location.String()
}

// pushManifest uploads anything as a manifest, under a tag or digest, and gives its descriptor.
func (r remote) pushManifest(repo, target, mediaType string, document any) image.Descriptor {
	raw, err := json.Marshal(document)
	require.NoError(r.t, err)
	d := image.Descriptor{MediaType: mediaType, Digest: image.DigestBytes(raw), Size: int64(len(raw))}
	if target == "" {
		target = string(d.Digest)
	}
	r.do(http.StatusCreated, http.MethodPut, "http://"+r.host+"/v2/"+repo+"/manifests/"+target, mediaType, raw)
	return d
}

// pushLayer is a layer as it is pushed: what it holds, and what the config says it does.
type pushLayer struct {
	mediaType string
	blob      []byte
	diffID    image.Digest
}

// gzipLayer compresses a tar as most tools do.
func gzipLayer(t *testing.T, tar []byte) pushLayer {
	return pushLayer{image.MediaTypeLayerGzip, gzipped(t, tar), image.DigestBytes(tar)}
}

// pushImage uploads an image of these layers, and gives the descriptor of its manifest.
func (r remote) pushImage(repo, tag string, platform image.Platform, layers ...pushLayer) image.Descriptor {
	config := &image.Config{Architecture: platform.Architecture, OS: platform.OS, Variant: platform.Variant, RootFS: image.RootFS{Type: "layers"}}
	config.Config.Cmd = image.Words{"/bin/true"}
	manifest := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		manifest.Layers = append(manifest.Layers, r.pushBlob(repo, l.mediaType, l.blob))
	}
	raw, err := config.Marshal()
	require.NoError(r.t, err)
	manifest.Config = r.pushBlob(repo, image.MediaTypeConfig, raw)
	d := r.pushManifest(repo, tag, image.MediaTypeManifest, manifest)
	d.Platform = &platform
	return d
}
