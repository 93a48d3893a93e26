package server

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestUploadsAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	u := newUploads(func() time.Time { return now })
	add := func() *upload {
		writer, err := new(Memory).NewBlob(t.Context(), "sha256")
		require.NoError(t, err)
		session := u.add("a/b", writer)
		return session
	}
	hasRoom := func() bool {
		room, err := u.makeRoom()
		require.NoError(t, err)
		return room
	}
	first := add()
	for range maxUploads - 2 {
		u.release(add())
	}
	require.True(t, hasRoom())
	last := add()
	u.release(last)
	require.False(t, hasRoom())

	now = now.Add(maxUploadAge - 1)
	_, err := u.take(t.Context(), "a/b", last.id)
	require.NoError(t, err)
	u.release(last)
	require.False(t, hasRoom())
	now = now.Add(1)
	require.True(t, hasRoom())
	require.Len(t, u.sessions, 2, "one was asked for, one is being worked on")
	u.release(first)
	_, err = u.take(t.Context(), "a/b", first.id)
	require.NoError(t, err)

	waiting, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = u.take(waiting, "a/b", first.id)
	require.ErrorIs(t, err, context.Canceled, "another request works on it")
	require.NoError(t, first.drop())
	u.release(first)
	_, err = u.take(t.Context(), "a/b", first.id)
	require.ErrorIs(t, err, errNoUpload)
	require.NoError(t, u.close())
	require.Empty(t, u.sessions)
}

func TestParseContentRange(t *testing.T) {
	for value, want := range map[string][2]int64{"0-0": {0, 0}, "5-9": {5, 9}, "bytes 5-9/10": {5, 9}, "bytes 5-9/*": {5, 9}} {
		first, last, err := parseContentRange(value)
		require.NoError(t, err, value)
		require.Equal(t, want, [2]int64{first, last})
	}
	for _, value := range []string{"", "-", "5", "5-", "-5", "9-5", "a-b", "5-9-10", "bytes=5-9", "0-1099511627776", "0-9223372036854775808"} {
		_, _, err := parseContentRange(value)
		require.Error(t, err, value)
	}
}
