package archive_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

// gnuTar packs a directory with GNU tar.
func gnuTar(t *testing.T, dir string, flags ...string) []byte {
	t.Helper()
	testenv.RequireTool(t, "tar")
	path := filepath.Join(t.TempDir(), "packed.tar")
	args := append([]string{"--create", "--file", path, "--directory", dir}, flags...)
	out, err := exec.CommandContext(t.Context(), "tar", append(args, ".")...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}
