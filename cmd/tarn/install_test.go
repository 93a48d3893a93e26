package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

// TestInstall: what 'make install' leaves is complete, and of one piece.
func TestInstall(t *testing.T) {
	testenv.RequireTool(t, "make")
	bin, dest := t.TempDir(), t.TempDir()
	for _, target := range []string{"build", "install"} {
		out, err := exec.CommandContext(t.Context(), "make", "-C", "../..", target, "BIN="+bin, "DESTDIR="+dest, "PREFIX=/opt/tarn").CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	prefix := filepath.Join(dest, "opt/tarn")
	out, err := exec.CommandContext(t.Context(), filepath.Join(prefix, "bin/tarn"), "run", "--help").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range []string{"bin/tarn-monitor", "bin/tarn-runtime"} {
		require.FileExists(t, filepath.Join(prefix, name))
	}
	for _, name := range []string{"bash-completion/completions/tarn", "zsh/site-functions/_tarn", "fish/vendor_completions.d/tarn.fish"} {
		text, err := os.ReadFile(filepath.Join(prefix, "share", name))
		require.NoError(t, err)
		require.Contains(t, string(text), "__complete", name)
	}
	for _, whose := range []string{"system", "user"} {
		unit, err := os.ReadFile(filepath.Join(prefix, "lib/systemd", whose, "tarn-restart.service"))
		require.NoError(t, err)
		_, command, found := strings.Cut(string(unit), "\nExecStart=")
		require.True(t, found)
		require.FileExists(t, filepath.Join(dest, strings.Fields(command)[0]))
		require.NotContains(t, string(unit), "@")
	}
}
