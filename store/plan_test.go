package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// TestPlanBelievesWhatWasMeasured of an extracted layer, as long as that is the same one.
func TestPlanBelievesWhatWasMeasured(t *testing.T) {
	s := open(t)
	lock, err := s.Exclusive(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, lock.Unlock()) }()
	drop := store.Selection{Images: []store.Image{putImage(t, s, lock, "docker.io/library/one:1", "layer")}}
	l, err := s.Layer(image.DigestBytes([]byte("layer")))
	require.NoError(t, err)
	extract := func(size int) string {
		tree := filepath.Join(l.Dir(), "root")
		require.NoError(t, os.RemoveAll(tree))
		require.NoError(t, os.Mkdir(tree, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(tree, "file"), make([]byte, size), 0o600))
		return tree
	}
	planned := func(sizes store.Sizes) (bytes int64) {
		losses, err := s.Plan(t.Context(), lock, drop, store.Mounts{}, sizes)
		require.NoError(t, err)
		for _, loss := range losses {
			bytes += loss.Bytes
		}
		return bytes
	}
	tree := extract(500_000)
	before := planned(nil)
	require.Greater(t, before, int64(500_000))
	sizes, err := s.Measure(t.Context(), drop, store.Mounts{})
	require.NoError(t, err)
	require.NoError(t, os.Truncate(filepath.Join(tree, "file"), 0))
	require.Equal(t, before, planned(sizes), "it is not counted again")
	require.NoError(t, os.Rename(tree, tree+".old"))
	extract(100_000)
	require.Equal(t, planned(nil), planned(sizes))
	require.Less(t, planned(nil), before-300_000)
}
