package ociruntime

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseStat(t *testing.T) {
	rest := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 12345 20"
	for _, name := range []string{"sh", "a b", "a) Z 1", "((", ""} {
		st, err := parseStat([]byte("77 (" + name + ")" + rest))
		require.NoError(t, err)
		require.Equal(t, procStat{state: 'S', started: 12345}, st)
	}
	for _, bad := range []string{"", "77 (sh)", "77 (sh) S 1", "77 (sh)" + strings.ReplaceAll(rest, "12345", "x")} {
		_, err := parseStat([]byte(bad))
		require.Error(t, err)
	}
}

// A pid alone does not make a process alive: neither another one's, nor a zombie's.
func TestIsAlive(t *testing.T) {
	self, err := readStat(os.Getpid())
	require.NoError(t, err)
	alive, err := isAlive(os.Getpid(), self.started)
	require.NoError(t, err)
	require.True(t, alive)
	alive, err = isAlive(os.Getpid(), self.started+1)
	require.NoError(t, err)
	require.False(t, alive)

	cmd := exec.CommandContext(t.Context(), "true")
	require.NoError(t, cmd.Start())
	for st := (procStat{}); st.state != 'Z'; {
		st, err = readStat(cmd.Process.Pid)
		require.NoError(t, err)
	}
	st, err := readStat(cmd.Process.Pid)
	require.NoError(t, err)
	alive, err = isAlive(cmd.Process.Pid, st.started)
	require.NoError(t, err)
	require.False(t, alive)
	require.NoError(t, cmd.Wait())
	alive, err = isAlive(cmd.Process.Pid, st.started)
	require.NoError(t, err)
	require.False(t, alive)
}

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]int{"0": 0, "9": 9, "TERM": 15, "SIGTERM": 15, "term": 15, "64": 64, "RTMIN+1": 35} {
		got, err := parseSignal(name)
		require.NoError(t, err, name)
		require.EqualValues(t, want, got, name)
	}
	for _, bad := range []string{"", "65", "-1", "NOSUCH", "SIG"} {
		_, err := parseSignal(bad)
		require.Error(t, err, bad)
	}
}
