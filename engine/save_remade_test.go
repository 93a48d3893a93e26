package engine

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
	at "github.com/tarnfs/tarn/internal/archivetest"
	"github.com/tarnfs/tarn/store"
)

// TestSaveMakesCompressedFormsAgain: a blob that is not kept, as it is known how to make it, is in the
// archive like any other, and is not kept when the archive is loaded again.
func TestSaveMakesCompressedFormsAgain(t *testing.T) {
	tar := at.LayerTar(t, at.File{Name: "f", Content: string(bytes.Repeat([]byte("words "), 100_000))})
	c, err := newCompressor("gzip", 0)
	require.NoError(t, err)
	var blob bytes.Buffer
	w, err := c.writer(&blob)
	require.NoError(t, err)
	_, err = w.Write(tar)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	img := at.NewImage("x", at.Layer{Tar: tar, Blob: blob.Bytes(), MediaType: at.LayerGzipType})
	path := filepath.Join(t.TempDir(), "x.tar")
	require.NoError(t, os.WriteFile(path, at.Layout(map[string]at.Image{"a/b:1": img}, "a/b:1").Tar(t), 0o600))

	e := openTestEngine(t)
	_, err = e.Load(t.Context(), LoadOptions{Input: path})
	require.NoError(t, err)
	digest := image.DigestBytes(blob.Bytes())
	require.NoError(t, e.keepRecipe(t.Context(), store.Recipe{
		Blob: digest, Size: int64(blob.Len()), DiffID: image.DigestBytes(tar), Compressor: c.String(),
	}))
	lock, err := e.Store.Exclusive(t.Context())
	require.NoError(t, err)
	require.NoError(t, e.Store.DropBlob(lock, digest))
	require.NoError(t, lock.Unlock())
	require.False(t, e.Store.HasBlob(digest))

	out := filepath.Join(t.TempDir(), "out.tar")
	require.NoError(t, e.Save(t.Context(), SaveOptions{Images: []string{"a/b:1"}, Output: out}))
	requireEmptyTmp(t, e)
	elsewhere := openTestEngine(t)
	loaded, err := elsewhere.Load(t.Context(), LoadOptions{Input: out})
	require.NoError(t, err)
	require.Equal(t, img.ID(), string(loaded[0].ID))
	found, err := elsewhere.Image("a/b:1")
	require.NoError(t, err)
	require.Equal(t, at.Digest(img.Manifest), string(found.Manifest))
	require.True(t, elsewhere.Store.HasBlob(digest))

	_, err = e.Load(t.Context(), LoadOptions{Input: out})
	require.NoError(t, err)
	require.False(t, e.Store.HasBlob(digest), "it can still be made again")
}
