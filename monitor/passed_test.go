package monitor

import (
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
)

// TestFilesArePassedOn with a frame, no more of them than one takes.
func TestFilesArePassedOn(t *testing.T) {
	ours, theirs, err := sys.SocketPair()
	require.NoError(t, err)
	defer ours.Close()
	c := &connection{File: theirs}
	defer c.Close()
	frames := NewFrameReader(c)
	for range 2 { // the second time in place of those that nobody took
		readable, writable, err := os.Pipe()
		require.NoError(t, err)
		require.NoError(t, sys.SendFiles(ours, Frame(Names, []byte("x")), readable, writable))
		require.NoError(t, readable.Close())
		require.NoError(t, writable.Close())
		kind, content, err := frames.Next()
		require.NoError(t, err)
		require.Equal(t, Names, kind)
		require.Equal(t, "x", string(content))
	}
	files := c.takePassed()
	require.Len(t, files, 2)
	require.Empty(t, c.takePassed())
	_, err = files[1].WriteString("through it")
	require.NoError(t, err)
	require.NoError(t, files[1].Close())
	got, err := io.ReadAll(files[0])
	require.NoError(t, err)
	require.Equal(t, "through it", string(got))
	require.NoError(t, files[0].Close())

	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	require.NoError(t, sys.SendFiles(ours, Frame(Names, nil), null, null, null))
	_, _, err = frames.Next()
	require.NoError(t, err)
	require.LessOrEqual(t, len(c.takePassed()), maxPassed)
	require.NoError(t, ours.Close())
	_, _, err = frames.Next()
	require.ErrorIs(t, err, io.EOF)
}
