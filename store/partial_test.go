package store_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "root"), t.TempDir())
	require.NoError(t, err)
	return s
}

func TestPartialIsGoneOnWith(t *testing.T) {
	s := openStore(t)
	content := []byte("the whole content")
	digest := image.DigestBytes(content)
	p, err := s.Partial(t.Context(), digest)
	require.NoError(t, err)
	require.Zero(t, p.Size)
	_, err = p.Append().Write(content[:5])
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = s.Partial(ctx, digest)
	require.ErrorIs(t, err, context.DeadlineExceeded, "one at a time")
	require.NoError(t, p.Close())

	p, err = s.Partial(t.Context(), digest)
	require.NoError(t, err)
	prefix, err := io.ReadAll(p.Prefix())
	require.NoError(t, err)
	require.Equal(t, content[:5], prefix)
	_, err = p.Append().Write(content[5:])
	require.NoError(t, err)
	require.Error(t, p.Publish(nil), "the store lock is needed")
	lock, err := s.Shared(t.Context())
	require.NoError(t, err)

	// Who waits meanwhile gets a fresh start, and not the blob.
	waiting := make(chan *store.Partial, 1)
	go func() {
		next, err := s.Partial(context.WithoutCancel(t.Context()), digest)
		if err != nil {
			t.Error(err)
		}
		waiting <- next
	}()
	require.NoError(t, p.Publish(lock))
	require.NoError(t, lock.Unlock())
	require.NoError(t, p.Close())
	got, err := s.ReadBlob(digest, 100)
	require.NoError(t, err)
	require.Equal(t, content, got)
	next := <-waiting
	require.Zero(t, next.Size)
	require.NoError(t, next.Close())
	left, err := os.ReadDir(filepath.Join(s.Root(), "partial"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestPartialsAreCollectedWhenNobodyComesBack(t *testing.T) {
	s := openStore(t)
	old, fresh, held := image.DigestBytes([]byte("old")), image.DigestBytes([]byte("fresh")), image.DigestBytes([]byte("held"))
	long := time.Now().Add(-30 * 24 * time.Hour)
	path := func(d image.Digest) string { return filepath.Join(s.Root(), "partial", "sha256-"+d.Hex()) }
	for _, d := range []image.Digest{old, fresh, held} {
		p, err := s.Partial(t.Context(), d)
		require.NoError(t, err)
		_, err = io.Copy(p.Append(), bytes.NewReader([]byte("some")))
		require.NoError(t, err)
		if d == held {
			defer p.Close()
		} else {
			require.NoError(t, p.Close())
		}
		if d != fresh {
			require.NoError(t, os.Chtimes(path(d), long, long))
		}
	}
	require.NoError(t, s.CollectLeftovers())
	require.NoFileExists(t, path(old))
	require.FileExists(t, path(fresh))
	require.FileExists(t, path(held))
}

func TestPinsKeepWhatHasNoNameYet(t *testing.T) {
	s := openStore(t)
	pins, err := s.NewPins()
	require.NoError(t, err)
	lock, err := s.Shared(t.Context())
	require.NoError(t, err)
	pinned, err := s.PutBlob(lock, []byte("pinned"))
	require.NoError(t, err)
	loose, err := s.PutBlob(lock, []byte("loose"))
	require.NoError(t, err)
	require.NoError(t, pins.Add(lock, "", pinned))
	require.NoError(t, lock.Unlock())
	require.Error(t, pins.Add(lock, "", pinned), "the store lock is needed")
	require.NoError(t, s.CollectLeftovers())

	sweep := func() []image.Digest {
		lock, err := s.Exclusive(t.Context())
		require.NoError(t, err)
		swept, err := s.Sweep(lock, store.Mounts{})
		require.NoError(t, err)
		require.NoError(t, lock.Unlock())
		require.NoError(t, s.CollectLeftovers())
		return swept.Blobs
	}
	require.Equal(t, []image.Digest{loose}, sweep())
	require.NoError(t, pins.Release())
	require.Equal(t, []image.Digest{pinned}, sweep())

	// Of a dead process only the file is left.
	dead := filepath.Join(s.Root(), "pins", ".tmp-dead")
	lock, err = s.Shared(t.Context())
	require.NoError(t, err)
	again, err := s.PutBlob(lock, []byte("pinned"))
	require.NoError(t, err)
	require.NoError(t, lock.Unlock())
	require.NoError(t, os.WriteFile(dead, []byte("layer \nblob "+string(again)+"\n"), 0o600))
	require.Equal(t, []image.Digest{again}, sweep())
	require.NoFileExists(t, dead)
}
