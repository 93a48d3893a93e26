package atomicfile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/atomicfile"
)

func TestWriteReplaces(t *testing.T) {
	for name, write := range map[string]func(string, []byte, os.FileMode) error{
		"Write": atomicfile.Write, "Replace": atomicfile.Replace,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			for _, content := range []string{"first", "second and longer", ""} {
				require.NoError(t, write(path, []byte(content), 0o640))
				got, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, content, string(got))
			}
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o640), info.Mode())
			require.Equal(t, []string{"file"}, names(t, dir))
		})
	}
}

func TestWriteFailureLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	require.NoError(t, os.MkdirAll(filepath.Join(path, "full"), 0o755))
	require.Error(t, atomicfile.Write(path, []byte("x"), 0o644), "a file cannot replace a directory")
	require.Equal(t, []string{"taken"}, names(t, dir))
	require.Error(t, atomicfile.Write(filepath.Join(dir, "missing", "x"), nil, 0o644))
}

func TestCollectSparesTheLiving(t *testing.T) {
	dir := t.TempDir()
	liveFile, err := atomicfile.CreateTemp(dir, 0o600)
	require.NoError(t, err)
	liveDir, err := atomicfile.MkdirTemp(dir)
	require.NoError(t, err)
	deadFile, err := atomicfile.CreateTemp(dir, 0o600)
	require.NoError(t, err)
	deadDir, err := atomicfile.MkdirTemp(dir)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(deadDir.Name(), "a", "b"), 0o755))
	require.NoError(t, deadFile.Close()) // as the kernel does when a process dies
	require.NoError(t, deadDir.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "other"), nil, 0o600))

	require.NoError(t, atomicfile.Collect(dir))
	require.ElementsMatch(t, []string{filepath.Base(liveFile.Name()), filepath.Base(liveDir.Name()), "other"}, names(t, dir))
	require.NoError(t, liveFile.Close())
	require.NoError(t, liveDir.Close())
}

func names(t *testing.T, dir string) []string {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var list []string
	for _, entry := range entries {
		list = append(list, entry.Name())
	}
	return list
}
