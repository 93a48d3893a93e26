package subid_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/subid"
)

func TestRanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subuid")
	require.NoError(t, os.WriteFile(path, []byte("# x\nann:100000:65536\nbob:1:2:3\n1000:165536:10\nann:4294967290:5\n\n"), 0o600))
	got, err := subid.Ranges(path, "ann", "1000")
	require.NoError(t, err)
	require.Equal(t, []subid.Range{{100000, 65536}, {165536, 10}, {4294967290, 5}}, got)
	got, err = subid.Ranges(path, "bob")
	require.NoError(t, err)
	require.Empty(t, got)
	got, err = subid.Ranges(path+"x", "ann")
	require.NoError(t, err)
	require.Empty(t, got)
	for _, line := range []string{"a:1:0", "a:-1:5", "a:x:1", "a:4294967295:2", "a:4294967296:1"} {
		require.NoError(t, os.WriteFile(path, []byte(line), 0o600))
		_, err := subid.Ranges(path, "a")
		require.Error(t, err, line)
	}
}
