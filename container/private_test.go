package container_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

const privateEnv = "TARN_TEST_PRIVATE"

// setting is what a test that runs in a process of its own wants of it.
type setting struct {
	// Cgroups are "" for the host's, "v2", "v1" (the host's but version 2), "named" (one of version 1
	// without controllers) or "none".
	Cgroups string
	// Network has a network of its own, without any device.
	Network bool
}

// inPrivate runs the body of a test in a process of its own that has a private mount namespace: what
// happens on the machine meanwhile is not seen there, and what is changed there is not seen outside.
func inPrivate(t *testing.T, s setting, body func(t *testing.T)) {
	t.Helper()
	testenv.RequireRoot(t)
	if os.Getenv(privateEnv) == t.Name() {
		s.arrange(t)
		body(t)
		return
	}
	pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+pattern, "-test.v")
	cmd.Env = append(os.Environ(), privateEnv+"="+t.Name(), probeEnv+"="+probe)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if s.Network {
		cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWNET
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "it did not run")
}

// arrange makes the process as the test wants it.
func (s setting) arrange(t *testing.T) {
	t.Helper()
	if s.Cgroups == "v1" {
		if cgroupRoot(t) == "/sys/fs/cgroup/unified" {
			require.NoError(t, syscall.Unmount("/sys/fs/cgroup/unified", syscall.MNT_DETACH))
		} else {
			s.Cgroups = "named" // the controllers are version 2's on this machine
		}
	}
	if s.Cgroups != "" && s.Cgroups != "v1" {
		require.NoError(t, syscall.Unmount("/sys/fs/cgroup", syscall.MNT_DETACH))
	}
	switch s.Cgroups {
	case "v2":
		require.NoError(t, syscall.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""))
	case "named":
		require.NoError(t, syscall.Mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, ""))
		require.NoError(t, os.Mkdir("/sys/fs/cgroup/systemd", 0o755))
		require.NoError(t, syscall.Mount("cgroup", "/sys/fs/cgroup/systemd", "cgroup", 0, "none,name=systemd"))
	}
}

// decode reads what another process printed as JSON.
func decode[T any](t testing.TB, text string) (v T) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), &v), text)
	return v
}
