package engine

import (
	"bytes"
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
		"plain, the size is not that": {plain, image.Descriptor{Digest: diffID, Size: 5}, diffID, store.ErrDigest, false},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Open(Options{Root: filepath.Join(t.TempDir(), "root"), Run: t.TempDir()})
			require.NoError(t, err)
			staged, err := e.stageBlob(t.Context(), bytes.NewReader(tc.content), tc.want, tc.diffID)
			if tc.err != nil {
				require.ErrorIs(t, err, tc.err)
			} else {
				require.NoError(t, err)
				require.Equal(t, tc.kept, staged.blob != nil)
				require.False(t, e.Store.HasLayer(diffID), "staged is not visible")
				lock, err := e.Store.Shared(t.Context())
				require.NoError(t, err)
				require.NoError(t, staged.publish(lock))
				require.NoError(t, lock.Unlock())
				require.NoError(t, staged.abort())
				require.True(t, e.Store.HasLayer(diffID))
				require.Equal(t, tc.kept, e.Store.HasBlob(blob.Digest))
			}
			left, err := os.ReadDir(filepath.Join(e.Store.Root(), "tmp"))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}
