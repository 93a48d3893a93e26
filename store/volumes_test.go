package store_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/store"
)

func TestVolumes(t *testing.T) {
	root, run := testenv.TarnRoot(t)
	s, err := store.Open(root, run)
	require.NoError(t, err)
	rec := store.VolumeRecord{Name: "data", Created: time.Now().UTC().Round(0), Labels: map[string]string{"a": "1"}}
	fill := func(dir *os.File) error { return os.WriteFile(filepath.Join(dir.Name(), "f"), []byte("x"), 0o600) }
	made, err := s.MakeVolume(rec, true, fill)
	require.NoError(t, err)
	require.True(t, made)
	made, err = s.MakeVolume(store.VolumeRecord{Name: "data"}, false, func(*os.File) error { t.Error("filled again"); return nil })
	require.NoError(t, err)
	require.False(t, made)

	got, err := s.Volume("data")
	require.NoError(t, err)
	require.Equal(t, rec, got)
	path, err := s.VolumePath("data")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(path, "f"))

	record := filepath.Join(filepath.Dir(path), "volume.json")
	text, err := os.ReadFile(record)
	require.NoError(t, err)
	text[10] ^= 1
	require.NoError(t, os.WriteFile(record, text, 0o600))
	_, err = s.Volume("data")
	require.ErrorIs(t, err, store.ErrDamaged)

	shared, err := s.Shared(t.Context())
	require.NoError(t, err)
	require.Error(t, s.RemoveVolume(shared, "data", true), "a container could be made that has it")
	require.NoError(t, shared.Unlock())
	lock, err := s.Exclusive(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.RemoveVolume(lock, "data", true))
	require.ErrorIs(t, s.RemoveVolume(lock, "data", true), store.ErrNotFound)
	require.NoError(t, lock.Unlock())
	_, err = s.Volume("data")
	require.ErrorIs(t, err, store.ErrNotFound)
	require.Error(t, s.WithVolume("data", func(*os.File) error { return nil }))
	for _, name := range []string{"", "a", "../x", "a/b", ".hidden"} {
		_, err := s.MakeVolume(store.VolumeRecord{Name: name}, false, nil)
		require.Error(t, err, name)
	}
}
