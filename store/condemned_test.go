package store_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// condemn does to an object what is done where there is no room to rename it.
func condemn(t *testing.T, s *store.Store, elem ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{s.Root()}, elem...)...)
	require.NoError(t, os.Chmod(path, 0o700|fs.ModeSticky))
	return path
}

func requireSound(t *testing.T, s *store.Store) {
	t.Helper()
	lock := exclusive(t, s)
	census, err := s.Check(lock, store.Mounts{})
	require.NoError(t, err)
	for _, f := range census.Faults {
		require.True(t, f.Harmless, "%s: %v", f.Path, f.Err)
	}
	require.NoError(t, lock.Unlock())
}

func TestCondemnedLayerIsARemnant(t *testing.T) {
	s := open(t)
	lock := shared(t, s)
	stage, id := stageLayer(t, s, "tar")
	require.NoError(t, stage.Publish(lock, id))
	before, err := s.Layer(id)
	require.NoError(t, err)
	condemn(t, s, "layers", id.Hex())

	require.False(t, s.HasLayer(id))
	_, err = before.OpenTar()
	require.ErrorIs(t, err, store.ErrNotFound, "found before, and opened since")
	layers, err := s.Layers()
	require.NoError(t, err)
	require.Empty(t, layers)
	remnants, err := s.Remnants()
	require.NoError(t, err)
	require.Len(t, remnants, 1)
	require.Equal(t, id, remnants[0].DiffID)

	again, _ := stageLayer(t, s, "tar")
	require.NoError(t, again.Publish(lock, id), "the same layer comes again")
	require.True(t, s.HasLayer(id))
	require.Equal(t, []string{id.Hex() + ".0"}, list(t, s, "remnants"))
	layer, err := s.Layer(id)
	require.NoError(t, err)
	tarID, err := layer.ID()
	require.NoError(t, err)
	require.EqualValues(t, 1, tarID.Generation, "who borrows from the one before means that")
	require.NoError(t, lock.Unlock())
	requireSound(t, s)

	condemn(t, s, "layers", id.Hex())
	swept := sweep(t, s, exclusive(t, s))
	require.Empty(t, swept.Layers, "it was not there any more")
	require.NoError(t, s.CollectLeftovers())
	require.Empty(t, list(t, s, "layers"))
	require.Empty(t, list(t, s, "remnants"))
}

func TestCondemnedObjectsAreAbsent(t *testing.T) {
	s := open(t)
	lock := shared(t, s)
	img := putImage(t, s, lock, "docker.io/library/one:1", "base")
	chain := image.ChainID([]image.Digest{image.DigestBytes([]byte("base"))})
	makeInit := func() {
		init, err := s.NewStage()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(init.Path(), "x"), nil, 0o600))
		require.NoError(t, s.PublishInit(lock, init, chain))
	}
	makeVolume := func() bool {
		made, err := s.MakeVolume(store.VolumeRecord{Name: "data"}, true, func(dir *os.File) error {
			return os.WriteFile(filepath.Join(dir.Name(), "x"), nil, 0o600)
		})
		require.NoError(t, err)
		return made
	}
	makeContainer := func() *store.Container {
		c, err := s.CreateContainer(lock, store.ContainerRecord{Name: "web", Manifest: img.Manifest, ImageID: img.ID}, true)
		require.NoError(t, err)
		return c
	}
	for _, collected := range []bool{false, true} { // before others come to their places
		makeInit()
		require.True(t, makeVolume())
		c := makeContainer()
		condemned := []string{condemn(t, s, "init", chain.Hex()), condemn(t, s, "volumes", "data"), condemn(t, s, "containers", c.ID)}

		_, there, err := s.InitDir(chain)
		require.NoError(t, err)
		require.False(t, there)
		_, err = s.Volume("data")
		require.ErrorIs(t, err, store.ErrNotFound)
		require.ErrorIs(t, s.WithVolume("data", func(*os.File) error { return nil }), store.ErrNotFound)
		names, err := s.Volumes()
		require.NoError(t, err)
		require.Empty(t, names)
		for _, key := range []string{"web", c.ID, c.ID[:6]} {
			_, err = s.Container(key)
			require.ErrorIs(t, err, store.ErrNotFound)
		}
		containers, err := s.Containers()
		require.NoError(t, err)
		require.Empty(t, containers)
		require.NoError(t, lock.Unlock())
		requireSound(t, s)
		if collected {
			require.NoError(t, s.CollectLeftovers())
			for _, path := range condemned {
				require.NoDirExists(t, path)
			}
			require.Empty(t, list(t, s, "names"))
			lock = shared(t, s)
			continue
		}

		lock = shared(t, s)
		makeInit()
		require.True(t, makeVolume())
		c = makeContainer()
		require.NoError(t, s.CollectLeftovers())
		_, there, err = s.InitDir(chain)
		require.NoError(t, err)
		require.True(t, there)
		path, err := s.VolumePath("data")
		require.NoError(t, err)
		require.FileExists(t, filepath.Join(path, "x"))
		got, err := s.Container("web")
		require.NoError(t, err)
		require.Equal(t, c.ID, got.ID)
		require.NoError(t, s.RemoveContainer(got, true))
		require.NoError(t, lock.Unlock())
		alone := exclusive(t, s)
		require.NoError(t, s.RemoveVolume(alone, "data", true))
		require.ErrorIs(t, s.RemoveVolume(alone, "data", true), store.ErrNotFound)
		require.NoError(t, alone.Unlock())
		require.NoError(t, s.CollectLeftovers())
		require.NoError(t, os.RemoveAll(filepath.Join(s.Root(), "init", chain.Hex())))
		lock = shared(t, s)
	}
}
