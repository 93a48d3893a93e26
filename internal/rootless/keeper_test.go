package rootless

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKeeperFile(t *testing.T) {
	k, err := keeperOf(os.Getpid())
	require.NoError(t, err)
	read, ok := parseKeeper(k.String())
	require.True(t, ok)
	require.Equal(t, k, read)
	for _, text := range []string{"", "1", "1 2", "1 2 3", "a b c d", "-"} {
		_, ok := parseKeeper(text)
		require.False(t, ok, "%q", text)
	}
}

// A number that is another process's by now is no keeper, but one in the same namespaces is.
func TestKeeperGone(t *testing.T) {
	k, err := keeperOf(os.Getpid())
	require.NoError(t, err)
	k.start--
	_, _, err = k.open()
	require.ErrorIs(t, err, os.ErrProcessDone)
	next, ok := k.successor()
	require.True(t, ok)
	users, mounts, err := next.open()
	require.NoError(t, err)
	require.NoError(t, users.Close())
	require.NoError(t, mounts.Close())
	k.users++
	_, ok = k.successor()
	require.False(t, ok)
}
