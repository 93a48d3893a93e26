package faultpoint_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys/faultpoint"
	"github.com/tarnfs/tarn/internal/testenv"
)

func TestCallsAreSeenKilledAndFailed(t *testing.T) {
	testenv.RequireRoot(t)
	for name, tc := range map[string]struct {
		verdict faultpoint.Verdict
		call    string
		status  syscall.WaitStatus
		left    []string
	}{
		"all go on":    {left: []string{"c", "kept"}},
		"killed":       {verdict: faultpoint.Verdict{Kill: true}, call: "rename", status: 9, left: []string{"a", "kept"}},
		"a call fails": {verdict: faultpoint.Verdict{Errno: syscall.EIO}, call: "unlink", status: 1 << 8, left: []string{"b", "kept"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"a", "kept"} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-ec", "mv a b; ln -s kept c; rm b")
			if name == "killed" { // the shell would not be the one that is killed
				cmd = exec.CommandContext(t.Context(), "mv", "a", "b")
			}
			cmd.Dir = dir
			var out bytes.Buffer
			cmd.Stderr = &out
			var calls []string
			err := faultpoint.Run(cmd, []string{"a", "b", "c", dir}, func(c faultpoint.Call) faultpoint.Verdict {
				calls = append(calls, c.Name)
				require.Equal(t, len(calls), c.N)
				if c.Name == tc.call {
					return tc.verdict
				}
				return faultpoint.Verdict{}
			})
			if tc.status == 0 {
				require.NoError(t, err)
				require.Equal(t, []string{"rename", "symlink", "unlink"}, calls)
			} else {
				var exit *exec.ExitError
				require.ErrorAs(t, err, &exit)
				require.Equal(t, tc.status, exit.Sys())
			}
			if tc.verdict.Errno != 0 {
				require.Contains(t, out.String(), "Input/output error")
				tc.left = append(tc.left, "c")
			}
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			var names []string
			for _, entry := range entries {
				names = append(names, entry.Name())
			}
			require.ElementsMatch(t, tc.left, names)
		})
	}
}
