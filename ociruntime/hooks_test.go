package ociruntime_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// hook appends its name and the state it is told to a file of the host, or of the container.
func hook(name, file string) []specs.Hook {
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `{ printf "` + name + ` "; cat; echo; } >>` + file}}}
}

func TestHooksInTheirOrder(t *testing.T) {
	b := newBundle(t, "echo program >>/inside; sleep 100000")
	outside := filepath.Join(b.dir, "outside")
	b.spec.Hooks = &specs.Hooks{
		Prestart: hook("prestart", outside), CreateRuntime: hook("createRuntime", outside), //nolint:staticcheck // deprecated, and used
		CreateContainer: hook("createContainer", outside), StartContainer: hook("startContainer", "/inside"),
		Poststart: hook("poststart", outside), Poststop: hook("poststop", outside),
	}
	told := func(file string) (names []string, states []specs.State) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			name, state, ok := strings.Cut(strings.TrimSpace(line), " ")
			names = append(names, name)
			if !ok {
				continue
			}
			var s specs.State
			require.NoError(t, json.Unmarshal([]byte(state), &s))
			require.Equal(t, b.id, s.ID)
			require.Equal(t, b.dir, s.Bundle)
			states = append(states, s)
		}
		return names, states
	}
	b.must("create", b.id)
	pid := b.state().Pid
	names, states := told(outside)
	require.Equal(t, []string{"prestart", "createRuntime", "createContainer"}, names)
	for _, s := range states {
		require.Equal(t, specs.StateCreating, s.Status)
		require.Equal(t, pid, s.Pid)
	}
	require.NoFileExists(t, b.path("inside"))
	b.must("start", b.id)
	b.eventually(func() bool {
		names, states = told(b.path("inside"))
		return len(names) == 2
	})
	require.Equal(t, []string{"startContainer", "program"}, names)
	require.Equal(t, specs.StateCreated, states[0].Status)
	names, states = told(outside)
	require.Equal(t, "poststart", names[3])
	require.Equal(t, specs.StateRunning, states[3].Status)
	b.must("delete", "--force", b.id)
	names, states = told(outside)
	require.Equal(t, []string{"poststop"}, names[4:])
	require.Equal(t, specs.StateStopped, states[4].Status)
}

func TestFailingHooks(t *testing.T) {
	failing := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo so it is >&2; exit 1"}}}
	b := newBundle(t, "touch /ran")
	b.spec.Hooks = &specs.Hooks{CreateRuntime: failing}
	b.refuse("so it is", "create", b.id)
	b.requireNothingLeft()
	b.spec.Hooks = &specs.Hooks{StartContainer: failing}
	b.must("create", b.id)
	b.refuse("so it is", "start", b.id)
	require.Equal(t, specs.StateStopped, b.state().Status)
	require.NoFileExists(t, b.path("ran"))
	b.must("delete", b.id)
	// Those after the start only warn.
	b.spec.Hooks = &specs.Hooks{Poststart: failing, Poststop: failing}
	b.spec.Process.Args[2] = "exit 4"
	_, errOut, err := b.try("run", b.id)
	require.ErrorContains(t, err, "exit status 4")
	require.Equal(t, 2, strings.Count(errOut, "warning"), errOut)
}
