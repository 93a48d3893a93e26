// Package servertest has the tests that every server.Content must pass. They speak HTTP, as clients
// do. (The tests of the distribution specification itself are run against "tarn serve", in cmd/tarn.)
package servertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry/server"
)

// Run runs all tests, each with a Content that fresh gives, empty.
func Run(t *testing.T, fresh func(t *testing.T) server.Content) {
	t.Helper()
	for name, test := range map[string]func(r *registry){
		"blobs":                           testBlobs,
		"ranges of blobs":                 testRanges,
		"uploads in pieces":               testPieces,
		"an upload goes on after a cut":   testCut,
		"a wrong digest leaves nothing":   testWrongDigest,
		"blobs of other repositories":     testMount,
		"many push the same":              testConcurrentPushes,
		"manifests":                       testManifests,
		"manifests that are refused":      testRefusedManifests,
		"deleting":                        testDeleting,
		"tags in pages":                   testTags,
		"referrers":                       testReferrers,
		"referrers in pages":              testReferrersPages,
		"what is not asked for like this": testNonsense,
		"web pages":                       testWebPages,
		"names like the protocol.s words": testNames,
	} {
		t.Run(name, func(t *testing.T) { test(start(t, fresh(t), server.Options{})) })
	}
	t.Run("read-only", func(t *testing.T) { testReadOnly(t, fresh(t)) })
}

const uploads = "/v2/a/b/blobs/uploads/"

func noise(size int, seed byte) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data) // never fails
	return data
}

func testBlobs(r *registry) {
	data := noise(3<<20, 1)
	d := image.DigestBytes(data)
	path := "/v2/a/b/blobs/" + string(d)
	r.refused(http.StatusNotFound, "BLOB_UNKNOWN", http.MethodGet, path, nil)
	r.pushBlob("a/b", "", data)
	r.pushBlob("a/b", "", data)
	a := r.do(http.StatusOK, http.MethodGet, path, nil)
	require.True(r, bytes.Equal(data, a.body))
	require.Equal(r, string(d), a.Header.Get("Docker-Content-Digest"))
	head := r.do(http.StatusOK, http.MethodHead, path, nil)
	require.Equal(r, fmt.Sprint(len(data)), head.Header.Get("Content-Length"))
	r.do(http.StatusNotModified, http.MethodGet, path, nil, "If-None-Match", a.Header.Get("ETag"))
	r.refused(http.StatusBadRequest, "DIGEST_INVALID", http.MethodGet, "/v2/a/b/blobs/sha256:0", nil)

	for algorithm := range map[string]bool{"sha384": true, "sha512": true} {
		sum, err := image.NewHash(algorithm)
		require.NoError(r, err)
		sum.Write(data)
		other := image.Digest(algorithm + ":").Of(sum)
		r.do(http.StatusCreated, http.MethodPost, uploads+"?digest="+string(other), data)
		a := r.do(http.StatusOK, http.MethodGet, "/v2/a/b/blobs/"+string(other), nil)
		require.True(r, bytes.Equal(data, a.body))
	}
	r.pushBlob("a/b", "", nil)
	require.Empty(r, r.do(http.StatusOK, http.MethodGet, "/v2/a/b/blobs/"+string(image.DigestBytes(nil)), nil).body)
}

func testRanges(r *registry) {
	data := noise(2048, 2)
	path := "/v2/a/b/blobs/" + string(r.pushBlob("a/b", "", data).Digest)
	for value, want := range map[string][]byte{
		"bytes=0-0": data[:1], "bytes=500-1499": data[500:1500], "bytes=500-": data[500:], "bytes=-500": data[1548:], "bytes=2000-9999": data[2000:],
	} {
		a := r.do(http.StatusPartialContent, http.MethodGet, path, nil, "Range", value)
		require.Equal(r, want, a.body, value)
		require.Contains(r, a.Header.Get("Content-Range"), "/2048")
	}
	for _, value := range []string{"bytes=2048-", "bytes=500-0", "bytes=x"} {
		r.do(http.StatusRequestedRangeNotSatisfiable, http.MethodGet, path, nil, "Range", value)
	}
}

func testPieces(r *registry) {
	data := noise(100_000, 3)
	d := image.DigestBytes(data)
	location := r.do(http.StatusAccepted, http.MethodPost, uploads, nil).Header.Get("Location")
	a := r.do(http.StatusAccepted, http.MethodPatch, location, data[:40_000], "Content-Range", "0-39999")
	require.Equal(r, "0-39999", a.Header.Get("Range"))
	for _, value := range []string{"0-19999", "40001-60000", "80000-99999"} {
		a := r.do(http.StatusRequestedRangeNotSatisfiable, http.MethodPatch, location, data[:20_000], "Content-Range", value)
		require.Equal(r, "0-39999", a.Header.Get("Range"))
	}
	for _, value := range []string{"40000", "x-y", "-1-5", "50000-40000", "40000-99999999999999999999"} {
		r.do(http.StatusBadRequest, http.MethodPatch, location, data[:20_000], "Content-Range", value)
	}
	r.refused(http.StatusBadRequest, "SIZE_INVALID", http.MethodPatch, location, data[:10], "Content-Range", "40000-40010")
	a = r.do(http.StatusNoContent, http.MethodGet, location, nil)
	require.Equal(r, "0-39999", a.Header.Get("Range"))
	r.do(http.StatusAccepted, http.MethodPatch, location, data[40_000:70_000])
	r.refused(http.StatusBadRequest, "DIGEST_INVALID", http.MethodPut, location, nil)
	a = r.do(http.StatusCreated, http.MethodPut, location+"?digest="+string(d), data[70_000:], "Content-Range", "bytes 70000-99999/100000")
	require.True(r, bytes.Equal(data, r.do(http.StatusOK, http.MethodGet, a.Header.Get("Location"), nil).body))

	const unknown = "BLOB_UPLOAD_UNKNOWN"
	r.refused(http.StatusNotFound, unknown, http.MethodPatch, location, data)
	dropped := r.do(http.StatusAccepted, http.MethodPost, uploads, nil).Header.Get("Location")
	r.refused(http.StatusNotFound, unknown, http.MethodGet, strings.Replace(dropped, "/a/b/", "/c/", 1), nil)
	r.do(http.StatusNoContent, http.MethodDelete, dropped, nil)
	r.refused(http.StatusNotFound, unknown, http.MethodGet, dropped, nil)
	r.refused(http.StatusNotFound, unknown, http.MethodPut, uploads+"nonsense?digest="+string(d), data)
}

// testCut breaks the connection in the middle of a piece, and goes on from where the registry says.
func testCut(r *registry) {
	data := noise(1<<20, 4)
	location := r.do(http.StatusAccepted, http.MethodPost, uploads, nil).Header.Get("Location")
	address, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(r.url, "http://"))
	require.NoError(r, err)
	conn, err := net.DialTCP("tcp", nil, address)
	require.NoError(r, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", location, len(data))
	require.NoError(r, err)
	_, err = conn.Write(data[:300_000])
	require.NoError(r, err)
	require.NoError(r, conn.CloseWrite())
	_, err = io.ReadAll(conn) // until the registry has noticed
	require.NoError(r, err)

	a := r.do(http.StatusNoContent, http.MethodGet, location, nil)
	var last int
	_, err = fmt.Sscanf(a.Header.Get("Range"), "0-%d", &last)
	require.NoError(r, err)
	require.Equal(r, 299_999, last)
	r.do(http.StatusCreated, http.MethodPut, location+"?digest="+string(image.DigestBytes(data)), data[last+1:],
		"Content-Range", fmt.Sprintf("%d-%d", last+1, len(data)-1))
	r.do(http.StatusOK, http.MethodHead, "/v2/a/b/blobs/"+string(image.DigestBytes(data)), nil)
}

func testWrongDigest(r *registry) {
	data, want := noise(5000, 5), image.DigestBytes([]byte("something else"))
	r.refused(http.StatusBadRequest, "DIGEST_INVALID", http.MethodPost, uploads+"?digest="+string(want), data)
	location := r.do(http.StatusAccepted, http.MethodPost, uploads, nil).Header.Get("Location")
	r.refused(http.StatusBadRequest, "DIGEST_INVALID", http.MethodPut, location+"?digest="+string(want), data)
	r.do(http.StatusNotFound, http.MethodGet, location, nil)
	r.do(http.StatusNotFound, http.MethodGet, "/v2/a/b/blobs/"+string(want), nil)
	r.do(http.StatusNotFound, http.MethodGet, "/v2/a/b/blobs/"+string(image.DigestBytes(data)), nil)
	for _, digest := range []string{"sha256:..%2f..", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:" + strings.Repeat("A", 64)} {
		r.refused(http.StatusBadRequest, "DIGEST_INVALID", http.MethodPost, uploads+"?digest="+digest, data)
	}
}

func testMount(r *registry) {
	d := r.pushBlob("one", "", noise(100, 6)).Digest
	a := r.do(http.StatusCreated, http.MethodPost, "/v2/two/blobs/uploads/?from=one&mount="+string(d), nil)
	require.Equal(r, "/v2/two/blobs/"+string(d), a.Header.Get("Location"))
	r.do(http.StatusOK, http.MethodHead, a.Header.Get("Location"), nil)
	r.do(http.StatusCreated, http.MethodPost, "/v2/three/blobs/uploads/?mount="+string(d), nil)
	// What is not there has to be uploaded.
	a = r.do(http.StatusAccepted, http.MethodPost, "/v2/two/blobs/uploads/?from=one&mount="+string(image.DigestBytes([]byte("absent"))), nil)
	r.do(http.StatusNoContent, http.MethodGet, a.Header.Get("Location"), nil)
}

func testConcurrentPushes(r *registry) {
	data := noise(1<<20, 7)
	d := image.DigestBytes(data)
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, r.url+uploads+"?digest="+string(d), bytes.NewReader(data))
			if err != nil {
				r.Error(err)
				return
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				r.Error(err)
				return
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusCreated {
				r.Errorf("status %d", res.StatusCode)
			}
		})
	}
	clients.Wait()
	require.True(r, bytes.Equal(data, r.do(http.StatusOK, http.MethodGet, "/v2/a/b/blobs/"+string(d), nil).body))
}

func testManifests(r *registry) {
	r.refused(http.StatusNotFound, "NAME_UNKNOWN", http.MethodGet, "/v2/a/b/tags/list", nil)
	r.refused(http.StatusNotFound, "MANIFEST_UNKNOWN", http.MethodGet, "/v2/a/b/manifests/latest", nil)
	first := r.artifact("a/b", "x/y", nil, "one")
	d := r.putManifest("a/b", "", image.MediaTypeManifest, first)
	r.wantManifest("a/b", string(d), first)
	r.refused(http.StatusNotFound, "MANIFEST_UNKNOWN", http.MethodGet, "/v2/other/manifests/"+string(d), nil)
	tags, _ := r.strings("/v2/a/b/tags/list", "tags")
	require.Empty(r, tags)

	r.putManifest("a/b", "latest", image.MediaTypeManifest, first)
	second := append(bytes.Clone(first), ' ') // bytes count, not what they mean
	r.putManifest("a/b", "latest", image.MediaTypeManifest, second)
	r.wantManifest("a/b", "latest", second)
	r.wantManifest("a/b", string(d), first)
	a := r.do(http.StatusCreated, http.MethodPut, "/v2/a/b/manifests/"+string(d)+"?tag=x&tag=y", first, "Content-Type", image.MediaTypeManifest)
	require.Equal(r, []string{"x", "y"}, a.Header.Values("OCI-Tag"))
	r.wantManifest("a/b", "y", first)

	// An index may list what is not there.
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"size":5,"digest":%q}]}`,
		image.MediaTypeIndex, image.MediaTypeManifest, image.DigestBytes([]byte("absent")))
	r.putManifest("a/b", "index", image.MediaTypeIndex, index)
	r.wantManifest("a/b", "index", index)
	require.Equal(r, image.MediaTypeIndex, r.do(http.StatusOK, http.MethodHead, "/v2/a/b/manifests/index", nil).Header.Get("Content-Type"))
	tags, _ = r.strings("/v2/a/b/tags/list", "tags")
	require.Equal(r, []string{"index", "latest", "x", "y"}, tags)
	repositories, _ := r.strings("/v2/_catalog", "repositories")
	require.Equal(r, []string{"a/b"}, repositories)
}

func testRefusedManifests(r *registry) {
	good := r.artifact("a/b", "x/y", nil, "one")
	absent := r.artifact("a/b", "x/y", func(m *image.Manifest) {
		m.Layers = []image.Descriptor{{MediaType: "a/b", Digest: image.DigestBytes([]byte("absent")), Size: 6}}
	})
	wrongSize := r.artifact("a/b", "x/y", func(m *image.Manifest) { m.Layers[0].Size++ }, "one")
	const invalid = "MANIFEST_INVALID"
	for name, tc := range map[string]struct {
		status             int
		code, target, kind string
		raw                []byte
	}{
		"a blob is missing":  {http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", "t", image.MediaTypeManifest, absent},
		"a size is wrong":    {http.StatusBadRequest, invalid, "t", image.MediaTypeManifest, wrongSize},
		"another digest":     {http.StatusBadRequest, "DIGEST_INVALID", string(image.DigestBytes(nil)), image.MediaTypeManifest, good},
		"not a digest":       {http.StatusBadRequest, "DIGEST_INVALID", "sha256:baddigeststring", image.MediaTypeManifest, good},
		"another type":       {http.StatusBadRequest, invalid, "t", image.MediaTypeIndex, good},
		"an unknown type":    {http.StatusBadRequest, invalid, "t", "application/json", []byte(`{"schemaVersion":2,"mediaType":"application/json"}`)},
		"Docker's schema 1":  {http.StatusBadRequest, invalid, "t", "", []byte(`{"schemaVersion":1,"fsLayers":[]}`)},
		"not JSON":           {http.StatusBadRequest, invalid, "t", "", []byte("hello")},
		"nothing":            {http.StatusBadRequest, invalid, "t", "", nil},
		"too long":           {http.StatusRequestEntityTooLarge, "SIZE_INVALID", "t", image.MediaTypeManifest, append(good, bytes.Repeat([]byte(" "), image.MaxManifestSize)...)},
		"a tag that is none": {http.StatusBadRequest, invalid, string(image.DigestBytes(good)) + "?tag=-x", image.MediaTypeManifest, good},
	} {
		r.Run(name, func(t *testing.T) {
			on := *r
			on.T = t
			on.refused(tc.status, tc.code, http.MethodPut, "/v2/a/b/manifests/"+tc.target, tc.raw, "Content-Type", tc.kind)
		})
	}
	r.do(http.StatusNotFound, http.MethodGet, "/v2/a/b/manifests/t", nil)
	// Some layers are got from elsewhere.
	foreign := r.artifact("a/b", "x/y", func(m *image.Manifest) {
		m.Layers = []image.Descriptor{{
			MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar", Digest: image.DigestBytes([]byte("absent")), Size: 6,
		}}
	})
	r.putManifest("a/b", "foreign", image.MediaTypeManifest, foreign)
}

func testDeleting(r *registry) {
	raw := r.artifact("a/b", "x/y", nil, "one")
	d, blob := image.DigestBytes(raw), image.DigestBytes([]byte("one"))
	for _, tag := range []string{"s", "t", "u"} {
		r.putManifest("a/b", tag, image.MediaTypeManifest, raw)
	}
	r.putManifest("c", "t", image.MediaTypeManifest, raw)
	r.refused(http.StatusMethodNotAllowed, "UNSUPPORTED", http.MethodDelete, "/v2/a/b/blobs/"+string(blob), nil)
	r.do(http.StatusAccepted, http.MethodDelete, "/v2/a/b/manifests/t", nil)
	r.refused(http.StatusNotFound, "MANIFEST_UNKNOWN", http.MethodDelete, "/v2/a/b/manifests/t", nil)
	r.do(http.StatusNotFound, http.MethodGet, "/v2/a/b/manifests/t", nil)
	r.wantManifest("a/b", "s", raw)
	r.wantManifest("a/b", string(d), raw)

	r.do(http.StatusAccepted, http.MethodDelete, "/v2/a/b/manifests/"+string(d), nil)
	for _, reference := range []string{"s", "u", string(d)} {
		r.do(http.StatusNotFound, http.MethodGet, "/v2/a/b/manifests/"+reference, nil)
	}
	r.refused(http.StatusNotFound, "NAME_UNKNOWN", http.MethodGet, "/v2/a/b/tags/list", nil)
	r.refused(http.StatusNotFound, "MANIFEST_UNKNOWN", http.MethodDelete, "/v2/a/b/manifests/"+string(d), nil)
	r.wantManifest("c", "t", raw)
	r.do(http.StatusOK, http.MethodGet, "/v2/c/blobs/"+string(blob), nil)
	r.do(http.StatusAccepted, http.MethodDelete, "/v2/c/manifests/"+string(d), nil)

	// A registry may sweep at once what nothing refers to.
	path := "/v2/c/blobs/" + string(r.pushBlob("c", "", []byte("one")).Digest)
	r.do(http.StatusAccepted, http.MethodDelete, path, nil)
	r.do(http.StatusNotFound, http.MethodHead, path, nil)
	r.refused(http.StatusNotFound, "BLOB_UNKNOWN", http.MethodDelete, path, nil)
}

func testTags(r *registry) {
	raw := r.artifact("a/b", "x/y", nil)
	all := make([]string, 25)
	for i := range all {
		all[i] = fmt.Sprintf("t%02d", i)
		r.putManifest("a/b", all[i], image.MediaTypeManifest, raw)
	}
	var got []string
	for next := "/v2/a/b/tags/list?n=10"; next != ""; {
		var page []string
		page, next = r.strings(next, "tags")
		require.LessOrEqual(r, len(page), 10)
		got = append(got, page...)
	}
	require.Equal(r, all, got)
	for query, want := range map[string][]string{
		"": all, "?n=0": {}, "?last=t22": all[23:], "?last=t225": all[23:], "?last=z": {}, "?n=100": all,
	} {
		page, next := r.strings("/v2/a/b/tags/list"+query, "tags")
		require.Equal(r, want, page, query)
		require.Empty(r, next)
	}
	for _, n := range []string{"-1", "x", "99999999999999999999"} {
		r.refused(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", http.MethodGet, "/v2/a/b/tags/list?n="+n, nil)
	}
}

// listReferrers reads one page of the list.
func listReferrers(r *registry, path string) (*image.Index, *answer) {
	a := r.do(http.StatusOK, http.MethodGet, path, nil)
	require.Equal(r, image.MediaTypeIndex, a.Header.Get("Content-Type"))
	index, err := image.ParseIndex(a.body)
	require.NoError(r, err)
	return index, a
}

func testReferrers(r *registry) {
	subject := r.artifact("a/b", "x/y", nil, "the subject")
	about := &image.Descriptor{MediaType: image.MediaTypeManifest, Digest: image.DigestBytes(subject), Size: int64(len(subject))}
	path := "/v2/a/b/referrers/" + string(about.Digest)
	index, _ := listReferrers(r, path)
	require.Empty(r, index.Manifests, "no referrers is no error, not even of what is not there")

	signature := r.artifact("a/b", "x/signature", func(m *image.Manifest) {
		m.Subject, m.Annotations = about, map[string]string{"by": "me"}
	}, "signature")
	a := r.do(http.StatusCreated, http.MethodPut, "/v2/a/b/manifests/"+string(image.DigestBytes(signature)), signature, "Content-Type", image.MediaTypeManifest)
	require.Equal(r, string(about.Digest), a.Header.Get("OCI-Subject"))
	untyped := r.artifact("a/b", "", func(m *image.Manifest) { m.Subject = about }, "untyped")
	r.putManifest("a/b", "untyped", image.MediaTypeManifest, untyped)
	r.putManifest("elsewhere", "", image.MediaTypeManifest, signature)
	r.putManifest("a/b", "subject", image.MediaTypeManifest, subject)
	list, err := json.Marshal(&image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: []image.Descriptor{}, Subject: about})
	require.NoError(r, err)
	r.putManifest("a/b", "list", image.MediaTypeIndex, list)

	index, _ = listReferrers(r, path)
	require.ElementsMatch(r, []image.Descriptor{
		{
			MediaType: image.MediaTypeManifest, Digest: image.DigestBytes(signature), Size: int64(len(signature)),
			ArtifactType: "x/signature", Annotations: map[string]string{"by": "me"},
		},
		{MediaType: image.MediaTypeManifest, Digest: image.DigestBytes(untyped), Size: int64(len(untyped)), ArtifactType: "application/vnd.oci.empty.v1+json"},
		{MediaType: image.MediaTypeIndex, Digest: image.DigestBytes(list), Size: int64(len(list))},
	}, index.Manifests)
	index, a = listReferrers(r, path+"?artifactType=x/signature")
	require.Len(r, index.Manifests, 1)
	require.Equal(r, "artifactType", a.Header.Get("OCI-Filters-Applied"))
	r.do(http.StatusAccepted, http.MethodDelete, "/v2/a/b/manifests/"+string(image.DigestBytes(signature)), nil)
	index, _ = listReferrers(r, path)
	require.Len(r, index.Manifests, 2)
	r.refused(http.StatusBadRequest, "DIGEST_INVALID", http.MethodGet, "/v2/a/b/referrers/latest", nil)
}

func testReferrersPages(r *registry) {
	about := &image.Descriptor{MediaType: image.MediaTypeManifest, Digest: image.DigestBytes([]byte("subject")), Size: 7}
	want := make(map[image.Digest]bool)
	for i := range 5 {
		raw := r.artifact("a/b", "x/y", func(m *image.Manifest) {
			m.Subject, m.Annotations = about, map[string]string{"long": strings.Repeat(fmt.Sprint(i), 1<<20)}
		})
		want[r.putManifest("a/b", "", image.MediaTypeManifest, raw)] = true
	}
	pages := 0
	for next := "/v2/a/b/referrers/" + string(about.Digest) + "?artifactType=x/y"; next != ""; pages++ {
		index, a := listReferrers(r, next)
		require.Less(r, len(a.body), image.MaxManifestSize)
		for _, d := range index.Manifests {
			require.True(r, want[d.Digest])
			delete(want, d.Digest)
		}
		next = nextOf(r, a)
	}
	require.Empty(r, want)
	require.Equal(r, 3, pages)
}

func testNonsense(r *registry) {
	r.do(http.StatusOK, http.MethodGet, "/v2/", nil)
	require.Equal(r, "registry/2.0", r.do(http.StatusOK, http.MethodGet, "/v2", nil).Header.Get("Docker-Distribution-API-Version"))
	for path, status := range map[string]int{
		"/": http.StatusNotFound, "/v1/": http.StatusNotFound, "/v2/a/b/": http.StatusNotFound, "/v2/a/b/tags/": http.StatusNotFound,
		"/v2/a/b/blobs": http.StatusNotFound, "/v2//tags/list": http.StatusBadRequest, "/v2/A/tags/list": http.StatusBadRequest,
		"/v2/a/../b/tags/list": http.StatusBadRequest, "/v2/..%2f..%2fetc/tags/list": http.StatusBadRequest,
		"/v2/a%00b/tags/list": http.StatusBadRequest, "/v2/a/manifests/a%2fb": http.StatusNotFound,
		"/v2/a/manifests/..": http.StatusBadRequest, "/v2/a/blobs/..%2f..%2fversion": http.StatusNotFound,
		"/v2/" + strings.Repeat("a", 300) + "/tags/list": http.StatusBadRequest,
	} {
		a := r.do(status, http.MethodGet, path, nil)
		require.Equal(r, "application/json", a.Header.Get("Content-Type"), path)
	}
	for path, method := range map[string]string{
		"/v2/a/blobs/uploads/": http.MethodGet, "/v2/a/tags/list": http.MethodPost, "/v2/_catalog": http.MethodDelete,
		"/v2/a/blobs/" + string(image.DigestBytes(nil)): http.MethodPut,
	} {
		a := r.do(http.StatusMethodNotAllowed, method, path, nil)
		require.NotEmpty(r, a.Header.Get("Allow"), path)
	}
}

func testWebPages(r *registry) {
	data := []byte("from a page")
	path := uploads + "?digest=" + string(image.DigestBytes(data))
	r.refused(http.StatusForbidden, "DENIED", http.MethodPost, path, data, "Origin", "http://registry.example:5000")
	r.do(http.StatusNotFound, http.MethodGet, "/v2/a/b/blobs/"+string(image.DigestBytes(data)), nil)
}

// testNames uses the words of the protocol as names.
func testNames(r *registry) {
	for _, repository := range []string{"manifests", "blobs/uploads", "v2/tags/list", "a/manifests/b", "a.b/c__d/e-f"} {
		raw := r.artifact(repository, "x/y", nil, repository)
		r.putManifest(repository, "list", image.MediaTypeManifest, raw)
		r.wantManifest(repository, "list", raw)
		location := r.do(http.StatusAccepted, http.MethodPost, "/v2/"+repository+"/blobs/uploads/", nil).Header.Get("Location")
		r.do(http.StatusNoContent, http.MethodGet, location, nil)
	}
}

func testReadOnly(t *testing.T, content server.Content) {
	writable := start(t, content, server.Options{})
	raw := writable.artifact("a/b", "x/y", nil, "one")
	writable.putManifest("a/b", "t", image.MediaTypeManifest, raw)
	r := start(t, content, server.Options{ReadOnly: true})
	r.wantManifest("a/b", "t", raw)
	for path, method := range map[string]string{
		uploads: http.MethodPost, "/v2/a/b/manifests/u": http.MethodPut, "/v2/a/b/manifests/t": http.MethodDelete,
		"/v2/a/b/blobs/" + string(image.DigestBytes([]byte("one"))): http.MethodDelete, uploads + "x": http.MethodPatch,
	} {
		r.refused(http.StatusMethodNotAllowed, "UNSUPPORTED", method, path, raw, "Content-Type", image.MediaTypeManifest)
	}
	r.wantManifest("a/b", "t", raw)
}
