package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
)

// TestLegacyOverlay tries on this kernel what one before 6.8 is given.
func TestLegacyOverlay(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.RequireFilesystem(t, "overlay")
	base := testenv.TempDir(t)
	made := func(name string) *os.File {
		f, err := openMade(filepath.Join(base, name), 0o755)
		require.NoError(t, err)
		t.Cleanup(func() { drop(f) })
		return f
	}
	var lowers []*os.File
	for i := range 300 {
		lowers = append(lowers, made(fmt.Sprint("lower", i)))
		require.NoError(t, os.WriteFile(filepath.Join(lowers[i].Name(), fmt.Sprint(i)), nil, 0o600))
	}
	opts := OverlayOptions{Run: base}

	mount, err := legacyOverlay(lowers[:150], made("upper"), made("work"), opts)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(sys.FDPath(mount), "new"), nil, 0o600))
	entries, err := os.ReadDir(sys.FDPath(mount))
	require.NoError(t, err)
	require.Len(t, entries, 151)
	drop(mount)

	mount, err = legacyOverlay(lowers[:2], nil, nil, opts)
	require.NoError(t, err)
	require.Error(t, os.WriteFile(filepath.Join(sys.FDPath(mount), "new"), nil, 0o600))
	drop(mount)

	_, err = legacyOverlay(lowers, nil, nil, opts)
	require.ErrorIs(t, err, ErrTooManyLayers)
	left, err := filepath.Glob(filepath.Join(base, "overlay-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestDirectoriesByPath tries what kernels that take no O_PATH descriptors are given.
func TestDirectoriesByPath(t *testing.T) {
	testenv.RequireRoot(t)
	base := testenv.TempDir(t)
	fs, err := sys.OpenFS("overlay")
	require.NoError(t, err)
	defer fs.Close()
	set := directorySetter{fs: fs, paths: true}
	for _, name := range []string{"a", "b"} {
		require.NoError(t, os.Mkdir(filepath.Join(base, name), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(base, name, name), nil, 0o600))
		f, err := sys.OpenPath(filepath.Join(base, name))
		require.NoError(t, err)
		defer drop(f)
		require.NoError(t, set.set("lowerdir+", f))
	}
	require.NoError(t, fs.Create())
	mount, err := fs.Mount(sys.AttrReadOnly)
	require.NoError(t, err)
	defer drop(mount)
	entries, err := os.ReadDir(sys.FDPath(mount))
	require.NoError(t, err)
	require.Len(t, entries, 2)
}
