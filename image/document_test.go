package image_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
)

func TestDocument(t *testing.T) {
	const empty = "application/vnd.oci.empty.v1+json"
	doc, err := image.ParseDocument([]byte(`{"schemaVersion":2,"mediaType":"` + image.MediaTypeManifest + `","config":` + descriptor(empty) +
		`,"layers":[` + descriptor("text/plain") + `],"subject":` + descriptor(image.MediaTypeManifest) + `,"annotations":{"a":"b"}}`))
	require.NoError(t, err)
	require.Equal(t, empty, doc.ArtifactType, "what has no type of its own has its config's")
	require.Len(t, doc.Blobs(), 2)
	require.NotNil(t, doc.Subject)
	require.Equal(t, map[string]string{"a": "b"}, doc.Annotations)

	doc, err = image.ParseDocument([]byte(`{"schemaVersion":2,"artifactType":"x/y","manifests":[]}`))
	require.NoError(t, err)
	require.Equal(t, "x/y", doc.ArtifactType)
	require.Equal(t, image.MediaTypeIndex, doc.MediaType)
	require.Empty(t, doc.Blobs())

	for name, raw := range map[string]string{
		"not JSON":                   `{`,
		"nothing":                    `{}`,
		"some other document":        `{"schemaVersion":2,"mediaType":"application/vnd.oci.artifact.manifest.v1+json"}`,
		"no config":                  `{"schemaVersion":2,"mediaType":"` + image.MediaTypeManifest + `","layers":[]}`,
		"schema version":             `{"schemaVersion":3,"config":` + descriptor(empty) + `,"layers":[]}`,
		"both":                       `{"schemaVersion":2,"config":` + descriptor(empty) + `,"manifests":[]}`,
		"a layer without digest":     `{"schemaVersion":2,"config":` + descriptor(empty) + `,"layers":[{"mediaType":"a/b","size":1}]}`,
		"a listed one with a path":   `{"schemaVersion":2,"manifests":[{"mediaType":"a/b","size":1,"digest":"sha256:../x"}]}`,
		"a subject with a bad size":  `{"schemaVersion":2,"manifests":[],"subject":{"mediaType":"a/b","size":-1,"digest":"` + someDigest + `"}}`,
		"a key twice":                `{"schemaVersion":2,"manifests":[],"Manifests":[]}`,
		"the type of something else": `{"schemaVersion":2,"mediaType":"` + image.MediaTypeIndex + `","config":` + descriptor(empty) + `}`,
	} {
		_, err := image.ParseDocument([]byte(raw))
		require.ErrorIs(t, err, image.ErrDocument, name)
	}
}

func TestDistributable(t *testing.T) {
	for mediaType, want := range map[string]bool{
		image.MediaTypeLayer: true, image.MediaTypeDockerGzip: true, "text/plain": true,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":    false,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":       false,
		"application/vnd.oci.image.layer.nondistributablesomething.v1.ta": true,
	} {
		require.Equal(t, want, image.Descriptor{MediaType: mediaType}.Distributable(), mediaType)
	}
}

func TestValidRepository(t *testing.T) {
	for s, want := range map[string]bool{
		"debian": true, "a/b/c": true, "docker.io/library/debian": true, "a__b-c.d": true,
		"": false, "A": false, "a:5/b": false, "a//b": false, "/a": false, "../a": false, "a/..": false, "a/.": false, "a@b": false,
	} {
		require.Equal(t, want, image.ValidRepository(s), s)
	}
	require.True(t, image.ValidTag("v1.2_x"))
	require.False(t, image.ValidTag("sha256:00"))
}
