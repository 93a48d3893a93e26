package engine

import (
	"archive/tar"
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

func TestStageBlob(t *testing.T) {
	plain := make([]byte, 10240) // the end mark alone: a tar of nothing
	diffID := image.DigestBytes(plain)
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	_, err := zw.Write(plain)
	require.NoError(t, err)
	require.NoError(t, zw.Close())
	packed := buf.Bytes()
	blob := image.Descriptor{Digest: image.DigestBytes(packed), Size: int64(len(packed))}
	other := image.DigestBytes([]byte("other"))
	dated := bytes.Clone(packed)
	dated[4] ^= 1 // the time in gzip's header: the tar stays the same

	for name, tc := range map[string]struct {
		content []byte
		want    image.Descriptor
		diffID  image.Digest
		err     error
		kept    bool
	}{
		"compressed, kept as it is":   {packed, blob, diffID, nil, true},
		"without a manifest":          {packed, image.Descriptor{}, diffID, nil, false},
		"plain":                       {plain, image.Descriptor{Digest: diffID, Size: 10240}, diffID, nil, false},
		"the config lies":             {packed, blob, other, ErrDiffID, false},
		"the config lies, plain":      {plain, image.Descriptor{}, other, ErrDiffID, false},
		"the manifest lies":           {packed, image.Descriptor{Digest: other, Size: blob.Size}, diffID, store.ErrDigest, false},
		"the manifest lies on size":   {packed, image.Descriptor{Digest: blob.Digest, Size: 5}, diffID, store.ErrDigest, false},
		"the blob is another one":     {dated, blob, diffID, store.ErrDigest, false},
		"plain, the size is not that": {plain, image.Descriptor{Digest: diffID, Size: 5}, diffID, store.ErrDigest, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := openTestEngine(t)
			staged, err := e.stageBlob(t.Context(), bytes.NewReader(tc.content), tc.want, tc.diffID)
			if tc.err != nil {
				require.ErrorIs(t, err, tc.err)
			} else {
				require.NoError(t, err)
				require.Equal(t, tc.kept, staged.blob != nil)
				require.False(t, e.Store.HasLayer(diffID), "staged is not visible")
				publishStaged(t, e, staged)
				require.True(t, e.Store.HasLayer(diffID))
				require.Equal(t, tc.kept, e.Store.HasBlob(blob.Digest))
			}
			requireEmptyTmp(t, e)
		})
		t.Run(name+", the store has it", func(t *testing.T) {
			e := openTestEngine(t)
			first, err := e.stageBlob(t.Context(), bytes.NewReader(packed), blob, diffID)
			require.NoError(t, err)
			publishStaged(t, e, first)
			staged, err := e.stageBlob(t.Context(), bytes.NewReader(tc.content), tc.want, tc.diffID)
			if tc.err != nil {
				require.ErrorIs(t, err, tc.err)
			} else {
				require.NoError(t, err)
				require.Nil(t, staged.stage, "not written again")
				require.Nil(t, staged.blob)
				require.Equal(t, int64(len(plain)), staged.size)
				publishStaged(t, e, staged)
			}
			requireEmptyTmp(t, e)
		})
	}
}

func openTestEngine(t *testing.T) *Engine {
	t.Helper()
	e, err := Open(Options{Root: filepath.Join(t.TempDir(), "root"), Run: t.TempDir()})
	require.NoError(t, err)
	return e
}

func publishStaged(t *testing.T, e *Engine, staged *stagedLayer) {
	t.Helper()
	lock, err := e.Store.Shared(t.Context())
	require.NoError(t, err)
	require.NoError(t, staged.publish(lock))
	require.NoError(t, lock.Unlock())
	require.NoError(t, staged.abort())
}

func requireEmptyTmp(t *testing.T, e *Engine) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(e.Store.Root(), "tmp"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestWhatCompressedDataMayGrowTo(t *testing.T) {
	e := openTestEngine(t)
	e.leastLayerLimit = 1 << 20
	zeros := make([]byte, 16<<20)
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	_, err := zw.Write(zeros)
	require.NoError(t, err)
	require.NoError(t, zw.Close())
	bomb := buf.Bytes()
	require.Less(t, e.layerLimit(int64(len(bomb))), int64(len(zeros)))
	want := image.Descriptor{Digest: image.DigestBytes(bomb), Size: int64(len(bomb))}

	_, err = e.stageBlob(t.Context(), bytes.NewReader(bomb), want, image.DigestBytes(zeros))
	require.ErrorIs(t, err, ErrTooBig)
	_, err = e.hashTar(t.Context(), bytes.NewReader(bomb), e.layerLimit(want.Size))
	require.ErrorIs(t, err, ErrTooBig)
	path := filepath.Join(t.TempDir(), "x.tar.gz")
	require.NoError(t, os.WriteFile(path, bomb, 0o600))
	_, err = e.Load(t.Context(), LoadOptions{Input: path})
	require.ErrorIs(t, err, ErrTooBig, "a whole archive")
	requireEmptyTmp(t, e)

	e.leastLayerLimit = leastLayerLimit
	staged, err := e.stageBlob(t.Context(), bytes.NewReader(bomb), want, image.DigestBytes(zeros))
	require.NoError(t, err)
	require.NoError(t, staged.abort())
	require.Equal(t, int64(maxLayerSize), e.layerLimit(1<<60), "no overflow")
}

// TestLenderRemovedBeforePublishing: between the moment when a layer finds what it can borrow and
// the one when it is there, the lender is removed.
func TestLenderRemovedBeforePublishing(t *testing.T) {
	e, err := Open(Options{Root: filepath.Join(t.TempDir(), "root"), Run: t.TempDir()})
	require.NoError(t, err)
	noise := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(noise)
	pack := func(before string) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for name, content := range map[string]string{before: before, "noise": string(noise)} {
			require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
			_, err := w.Write([]byte(content))
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		return buf.Bytes()
	}
	_, err = e.Import(t.Context(), bytes.NewReader(pack("lender")), ImportOptions{Name: "lender"})
	require.NoError(t, err)
	data := pack("borrower")
	staged, err := e.stagePlain(t.Context(), bytes.NewReader(data), maxLayerSize)
	require.NoError(t, err)
	_, err = e.RemoveImage(t.Context(), "lender", RemoveImageOptions{})
	require.NoError(t, err)
	_, err = e.Import(t.Context(), bytes.NewReader(pack("another")), ImportOptions{Name: "another"})
	require.NoError(t, err)
	_, err = e.RemoveImage(t.Context(), "another", RemoveImageOptions{}) // sweeps once more
	require.NoError(t, err)

	lock, err := e.Store.Shared(t.Context())
	require.NoError(t, err)
	require.NoError(t, staged.publish(lock))
	require.NoError(t, lock.Unlock())
	l, err := e.Store.Layer(staged.diffID)
	require.NoError(t, err)
	m, err := l.Holes()
	require.NoError(t, err)
	require.Greater(t, m.Borrowed(), int64(250_000))
	stored, err := l.OpenTar()
	require.NoError(t, err)
	got, err := io.ReadAll(stored)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	require.NoError(t, stored.Close())
	require.NoError(t, staged.abort())

	lock, err = e.Store.Exclusive(t.Context())
	require.NoError(t, err)
	_, err = e.Store.Sweep(lock, store.Mounts{}) // no image has it
	require.NoError(t, err)
	require.NoError(t, lock.Unlock())
	require.NoError(t, e.Store.CollectLeftovers())
	for _, dir := range []string{"layers", "remnants", "tmp"} {
		left, err := os.ReadDir(filepath.Join(e.Store.Root(), dir))
		require.NoError(t, err)
		require.Empty(t, left, dir)
	}
}
