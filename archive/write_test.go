package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/archive"
	"github.com/tarnfs/tarn/image"
	at "github.com/tarnfs/tarn/internal/archivetest"
)

func saved(t *testing.T, img at.Image, names ...string) archive.Saved {
	t.Helper()
	out := archive.Saved{MediaType: at.ManifestType, Manifest: img.Manifest, Config: img.Config}
	for _, name := range names {
		ref, err := image.ParseReference(name)
		require.NoError(t, err)
		out.Names = append(out.Names, ref)
	}
	for _, layer := range img.Layers {
		out.Layers = append(out.Layers, archive.Source{
			Descriptor: image.Descriptor{Digest: image.DigestBytes(layer.Blob), Size: int64(len(layer.Blob))},
			Open:       reader(layer.Blob),
		})
	}
	return out
}

func reader(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

func writeTar(t *testing.T, format archive.Format, images ...archive.Saved) []byte {
	t.Helper()
	var buf bytes.Buffer
	require.NoError(t, archive.WriteTar(t.Context(), &buf, format, images))
	return buf.Bytes()
}

func TestWhatIsWrittenReadsTheSame(t *testing.T) {
	one, other := two(t)
	images := []archive.Saved{saved(t, one, "one:1", "localhost:5000/x/one:2"), saved(t, other)}
	dir := t.TempDir()
	require.NoError(t, archive.WriteDir(t.Context(), dir, images))
	opened := map[archive.Format]*archive.Archive{}
	var err error
	opened[archive.OCIDir], err = archive.OpenDir(dir)
	require.NoError(t, err)
	for _, format := range []archive.Format{archive.DockerArchive, archive.OCIArchive} {
		opened[format], err = openTar(t, writeTar(t, format, images...))
		require.NoError(t, err)
	}
	for format, a := range opened {
		t.Run(string(format), func(t *testing.T) {
			got, err := a.Images(image.Platform{})
			require.NoError(t, err)
			require.Len(t, got, 2)
			requireImage(t, one, got[0], true)
			require.Equal(t, []string{"docker.io/library/one:1", "localhost:5000/x/one:2"}, got[0].Names)
			requireImage(t, other, got[1], true)
			require.Empty(t, got[1].Names)
			require.Empty(t, got[1].Tags)
			require.NoError(t, a.Close())
		})
	}
}

// TestOldDockerReadsIt: readers that know manifest.json alone find the same in it.
func TestOldDockerReadsIt(t *testing.T) {
	one, other := two(t)
	files := new(at.Archive)
	for r := tar.NewReader(bytes.NewReader(writeTar(t, archive.DockerArchive, saved(t, one, "one:1"), saved(t, other)))); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		if header.Typeflag == tar.TypeReg && header.Name != "oci-layout" {
			files.Add(header.Name, data)
		}
	}
	a, err := openTar(t, files.Tar(t))
	require.NoError(t, err)
	got, err := a.Images(image.Platform{})
	require.NoError(t, err)
	require.Len(t, got, 2)
	requireImage(t, one, got[0], false)
	requireImage(t, other, got[1], false)
	require.Equal(t, []string{"docker.io/library/one:1"}, got[0].Names)
}

func TestWritingIsDeterministicAndEachBlobOnce(t *testing.T) {
	one, other := two(t)
	images := []archive.Saved{saved(t, one, "one:1"), saved(t, other, "other:1"), saved(t, one, "again:1")}
	first := writeTar(t, archive.DockerArchive, images...)
	require.True(t, bytes.Equal(first, writeTar(t, archive.DockerArchive, images...)))
	count := map[string]int{}
	for r := tar.NewReader(bytes.NewReader(first)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.Zero(t, header.ModTime.Unix(), "no times")
		count[header.Name]++
	}
	require.Len(t, count, 2+2*2+2+3, "directories, documents, layers, and what lists them")
	for name, n := range count {
		require.Equal(t, 1, n, name)
	}
}

func TestWritingVerifies(t *testing.T) {
	one, _ := two(t)
	for name, spoil := range map[string]func(s *archive.Source){
		"other bytes": func(s *archive.Source) {
			s.Open = reader(bytes.Replace(one.Layers[0].Blob, []byte("hello"), []byte("HELLO"), 1))
		},
		"cut": func(s *archive.Source) { s.Open = reader(one.Layers[0].Blob[:700]) },
	} {
		t.Run(name, func(t *testing.T) {
			img := saved(t, one, "one:1")
			spoil(&img.Layers[0])
			err := archive.WriteTar(t.Context(), io.Discard, archive.OCIArchive, []archive.Saved{img})
			require.ErrorIs(t, err, archive.ErrMismatch)
			require.ErrorContains(t, err, at.Digest(one.Layers[0].Blob))
			dir := t.TempDir()
			require.ErrorIs(t, archive.WriteDir(t.Context(), dir, []archive.Saved{img}), archive.ErrMismatch)
			require.NoFileExists(t, filepath.Join(dir, "index.json"), "it would be taken for a layout")
		})
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, archive.WriteTar(ctx, io.Discard, archive.OCIArchive, []archive.Saved{saved(t, one)}), context.Canceled)
	require.ErrorIs(t, archive.WriteDir(t.Context(), filepath.Join(t.TempDir(), "absent"), nil), os.ErrNotExist)
}

func TestOtherDigests(t *testing.T) {
	one, _ := two(t)
	img := saved(t, one)
	sum := sha512.Sum512(one.Layers[0].Blob)
	img.Layers[0].Descriptor.Digest = image.Digest("sha512:" + hex.EncodeToString(sum[:]))
	dir := t.TempDir()
	require.NoError(t, archive.WriteDir(t.Context(), dir, []archive.Saved{img}))
	require.FileExists(t, filepath.Join(dir, "blobs", "sha512", hex.EncodeToString(sum[:])))
}

func TestParseFormat(t *testing.T) {
	for _, format := range archive.Formats() {
		got, err := archive.ParseFormat(string(format))
		require.NoError(t, err)
		require.Equal(t, format, got)
	}
	_, err := archive.ParseFormat("zip")
	require.ErrorContains(t, err, "docker-archive, oci-archive or oci-dir")
}
