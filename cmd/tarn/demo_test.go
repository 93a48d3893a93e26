package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

const demoEnd = "That is all. No daemon ran, and nothing is left.\n"

// installDemo puts into a directory what 'make demo' runs, with this program as tarn.
func installDemo(t *testing.T, dir string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	for from, to := range map[string]string{
		self: "bin/tarn", "../../scripts/demo.sh": "scripts/demo.sh", "../../scripts/setup.sh": "scripts/setup.sh",
	} {
		out, err := exec.CommandContext(t.Context(), "install", "-D", from, filepath.Join(dir, to)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

func TestDemo(t *testing.T) {
	testenv.RequireErofsFile(t)
	dir := testenv.TempDir(t)
	installDemo(t, dir)
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "scripts/demo.sh"))
	cmd.Env = append(os.Environ(), "TARN_DEMO_DIR="+dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), demoEnd)
}

func TestDemoWithoutRoot(t *testing.T) {
	u := newOrdinary(t)
	installDemo(t, filepath.Join(u.dir, "tarn"))
	out := u.run("TARN_DEMO_DIR=$HOME ../tarn/scripts/demo.sh")
	require.Contains(t, out, demoEnd)
	require.Contains(t, out, "the layers were extracted, too")
}
