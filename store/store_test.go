package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "root"), t.TempDir())
	require.NoError(t, err)
	return s
}

func shared(t *testing.T, s *store.Store) *store.Lock {
	t.Helper()
	lock, err := s.Shared(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, lock.Unlock()) })
	return lock
}

func TestOpen(t *testing.T) {
	t.Run("again", func(t *testing.T) {
		s := open(t)
		again, err := store.Open(s.Root(), s.Run())
		require.NoError(t, err)
		require.Equal(t, s.Root(), again.Root())
	})
	t.Run("other format", func(t *testing.T) {
		s := open(t)
		require.NoError(t, os.WriteFile(filepath.Join(s.Root(), "version"), []byte("tarn store 99\n"), 0o600))
		_, err := store.Open(s.Root(), s.Run())
		require.ErrorIs(t, err, store.ErrFormat)
		require.ErrorContains(t, err, "tarn store 99")
	})
	t.Run("somebody's directory", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600))
		_, err := store.Open(dir, t.TempDir())
		require.ErrorIs(t, err, store.ErrFormat)
		require.ErrorContains(t, err, "thesis.tex")
	})
	t.Run("making was interrupted", func(t *testing.T) {
		s := open(t)
		require.NoError(t, os.Remove(filepath.Join(s.Root(), "version")))
		require.NoError(t, os.Remove(filepath.Join(s.Root(), "init")))
		_, err := store.Open(s.Root(), s.Run())
		require.NoError(t, err)
		require.DirExists(t, filepath.Join(s.Root(), "init"))
	})
}

func TestLocks(t *testing.T) {
	s := open(t)
	first, err := s.Shared(t.Context())
	require.NoError(t, err)
	second, err := s.Shared(t.Context())
	require.NoError(t, err, "shared with shared")

	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	cancel(reason)
	_, err = s.Exclusive(ctx)
	require.ErrorIs(t, err, reason, "exclusive must wait, and stop waiting when told")

	got := make(chan struct{})
	go func() {
		defer close(got)
		alone, err := s.Exclusive(t.Context())
		if err == nil {
			err = alone.Unlock()
		}
		if err != nil {
			t.Error(err)
		}
	}()
	require.NoError(t, first.Unlock())
	require.NoError(t, first.Unlock(), "twice is harmless")
	require.NoError(t, second.Unlock())
	<-got
}

func TestMethodsInsistOnTheirLock(t *testing.T) {
	s := open(t)
	lock, err := s.Shared(t.Context())
	require.NoError(t, err)
	_, err = s.Sweep(lock, store.Mounts{})
	require.Error(t, err, "a sweep under a shared lock")
	require.Error(t, s.RemoveImage(lock, store.Image{Name: "x"}))
	require.NoError(t, lock.Unlock())
	_, err = s.PutBlob(lock, []byte("x"))
	require.Error(t, err, "a lock that was given up")
	require.Error(t, s.SetImage(nil, store.Image{}))
}

func TestBlobs(t *testing.T) {
	s := open(t)
	lock := shared(t, s)
	content := []byte("some content")
	d, err := s.PutBlob(lock, content)
	require.NoError(t, err)
	require.Equal(t, image.DigestBytes(content), d)
	again, err := s.PutBlob(lock, content)
	require.NoError(t, err)
	require.Equal(t, d, again)
	got, err := s.ReadBlob(d, 100)
	require.NoError(t, err)
	require.Equal(t, content, got)
	_, err = s.ReadBlob(d, 5)
	require.ErrorContains(t, err, "longer than 5 bytes")

	_, err = s.OpenBlob(image.DigestBytes([]byte("other")))
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.OpenBlob("sha256:../../../../etc/passwd")
	require.ErrorIs(t, err, image.ErrDigest)

	path := filepath.Join(s.Root(), "blobs", "sha256", d.Hex())
	require.NoError(t, os.WriteFile(path, []byte("some c0ntent"), 0o600))
	_, err = s.ReadBlob(d, 100)
	require.ErrorIs(t, err, store.ErrDigest, "a flipped byte on the disk")
}

func TestBlobVerifiedWhileWritten(t *testing.T) {
	s := open(t)
	lock := shared(t, s)
	want := image.DigestBytes([]byte("abc"))
	for name, tc := range map[string]struct {
		content string
		size    int64
	}{
		"other content": {"abd", 3}, "too long": {"abcd", 3}, "too short": {"ab", 3}, "other size": {"abc", 4},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.StageBlob(strings.NewReader(tc.content), want, tc.size)
			require.ErrorIs(t, err, store.ErrDigest)
			require.False(t, s.HasBlob(want))
		})
	}
	_, err := s.StageBlob(io.MultiReader(strings.NewReader("a"), errReader{}), want, 3)
	require.ErrorContains(t, err, "the reader broke")
	stage, err := s.StageBlob(strings.NewReader("abc"), want, -1)
	require.NoError(t, err)
	require.False(t, s.HasBlob(want), "staged is not visible")
	require.NoError(t, stage.Publish(lock))
	require.NoError(t, stage.Abort())
	require.True(t, s.HasBlob(want))
	require.Empty(t, list(t, s, "tmp"))

	sha512 := image.Digest("sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a" +
		"2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f")
	stage, err = s.StageBlob(strings.NewReader("abc"), sha512, 3)
	require.NoError(t, err)
	require.NoError(t, stage.Publish(lock))
	require.True(t, s.HasBlob(sha512))
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("the reader broke") }

func stageLayer(t *testing.T, s *store.Store, content string) (*store.LayerStage, image.Digest) {
	t.Helper()
	stage, err := s.StageLayer()
	require.NoError(t, err)
	_, err = stage.Tar.WriteString(content)
	require.NoError(t, err)
	_, err = stage.Index.WriteString("index of " + content)
	require.NoError(t, err)
	return stage, image.DigestBytes([]byte(content))
}

func TestLayers(t *testing.T) {
	s := open(t)
	lock := shared(t, s)
	stage, id := stageLayer(t, s, "tar one")
	require.False(t, s.HasLayer(id))
	require.NoError(t, stage.Publish(lock, id))
	require.NoError(t, stage.Abort(), "after publishing, nothing happens")
	layer, err := s.Layer(id)
	require.NoError(t, err)
	tar, err := layer.OpenTar()
	require.NoError(t, err)
	content, err := io.ReadAll(tar)
	require.NoError(t, err)
	require.NoError(t, tar.Close())
	require.Equal(t, "tar one", string(content))
	size, err := layer.Size()
	require.NoError(t, err)
	require.Equal(t, int64(7), size)

	twin, _ := stageLayer(t, s, "tar one")
	require.NoError(t, twin.Publish(lock, id), "the same layer again is success")
	aborted, other := stageLayer(t, s, "tar two")
	require.NoError(t, aborted.Abort())
	require.NoError(t, aborted.Abort())
	require.False(t, s.HasLayer(other))
	layers, err := s.Layers()
	require.NoError(t, err)
	require.Equal(t, []store.Layer{layer}, layers)
	require.Empty(t, list(t, s, "tmp"))

	_, err = s.Layer("sha256:../..")
	require.ErrorIs(t, err, image.ErrDigest)
}

func TestConcurrentPublishersOfOneLayer(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	for range 16 {
		stage, id := stageLayer(t, s, "the same")
		wg.Go(func() {
			lock, err := s.Shared(t.Context())
			if err == nil {
				err = errors.Join(stage.Publish(lock, id), lock.Unlock(), stage.Abort())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Len(t, list(t, s, "layers"), 1)
	require.Empty(t, list(t, s, "tmp"))
}

// putImage publishes a whole image with layers of the given contents.
func putImage(t *testing.T, s *store.Store, lock *store.Lock, name string, layers ...string) store.Image {
	t.Helper()
	config := &image.Config{Architecture: "amd64", OS: "linux", Comment: name, RootFS: image.RootFS{Type: "layers"}}
	manifest := `{"schemaVersion":2,"layers":[`
	for i, content := range layers {
		stage, id := stageLayer(t, s, content)
		require.NoError(t, stage.Publish(lock, id))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, id)
		manifest += strings.Repeat(",", min(i, 1)) + `{"mediaType":"` + image.MediaTypeLayer + `","size":1,"digest":"` + string(id) + `"}`
	}
	raw, err := config.Marshal()
	require.NoError(t, err)
	id, err := s.PutBlob(lock, raw)
	require.NoError(t, err)
	digest, err := s.PutBlob(lock, []byte(manifest+`],"config":{"mediaType":"`+image.MediaTypeConfig+`","size":1,"digest":"`+string(id)+`"}}`))
	require.NoError(t, err)
	img := store.Image{Name: name, Manifest: digest, ID: id, Created: time.Unix(1e9, 0).UTC()}
	require.NoError(t, s.SetImage(lock, img))
	return img
}

func TestImages(t *testing.T) {
	s := open(t)
	lock := shared(t, s)
	first := putImage(t, s, lock, "docker.io/library/a:1", "layer a")
	got, err := s.Image("docker.io/library/a:1")
	require.NoError(t, err)
	require.Equal(t, first, got)
	_, err = s.Image("docker.io/library/b:1")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Image("")
	require.ErrorIs(t, err, store.ErrNotFound)

	second := first
	second.Name = "docker.io/library/b:1"
	require.NoError(t, s.SetImage(lock, second))
	moved := putImage(t, s, lock, "docker.io/library/a:1", "layer a", "layer b")
	images, err := s.Images()
	require.NoError(t, err)
	require.Equal(t, []store.Image{moved, second}, images, "the first image still has a name")

	moved2 := putImage(t, s, lock, "docker.io/library/a:1", "layer c")
	images, err = s.Images()
	require.NoError(t, err)
	moved.Name = ""
	require.Equal(t, []store.Image{moved2, second, moved}, images, "an image that lost its name is kept without")

	// The same image by another manifest, as when it is pulled with layers compressed otherwise.
	manifest, err := s.ReadBlob(moved2.Manifest, image.MaxManifestSize)
	require.NoError(t, err)
	again := moved2
	again.Manifest, err = s.PutBlob(lock, append(manifest, '\n'))
	require.NoError(t, err)
	require.NoError(t, s.SetImage(lock, again))
	images, err = s.Records()
	require.NoError(t, err)
	require.NotContains(t, images, store.Image{Manifest: moved2.Manifest, ID: moved2.ID, Created: moved2.Created})
	require.Contains(t, images, again)
}

func TestSweep(t *testing.T) {
	s := open(t)
	lock, err := s.Exclusive(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, lock.Unlock()) }()
	one := putImage(t, s, lock, "docker.io/library/one:1", "base", "top one")
	two := putImage(t, s, lock, "docker.io/library/two:1", "base", "top two")
	oneConfig, err := s.Config(one.ID)
	require.NoError(t, err)
	init, err := s.NewStage()
	require.NoError(t, err)
	chain := image.ChainID(oneConfig.RootFS.DiffIDs)
	require.NoError(t, s.PublishInit(lock, init, chain))

	release := func(store.Layer) error { return nil }
	swept, err := s.Sweep(lock, store.Mounts{Release: release})
	require.NoError(t, err)
	require.Empty(t, swept)

	container, err := s.CreateContainer(lock, store.ContainerRecord{Manifest: one.Manifest, ImageID: one.ID}, true)
	require.NoError(t, err)
	require.NoError(t, s.RemoveImage(lock, one))
	require.ErrorIs(t, s.RemoveImage(lock, one), store.ErrNotFound)
	swept, err = s.Sweep(lock, store.Mounts{Release: release})
	require.NoError(t, err)
	require.Empty(t, swept, "the container holds the image")
	_, found, err := s.InitDir(chain)
	require.NoError(t, err)
	require.True(t, found)

	require.NoError(t, s.RemoveContainer(container, true))
	swept, err = s.Sweep(lock, store.Mounts{Release: func(store.Layer) error { return errors.New("still mounted") }})
	require.ErrorContains(t, err, "still mounted")
	require.Empty(t, swept.Layers)
	require.True(t, s.HasLayer(oneConfig.RootFS.DiffIDs[1]))
	swept, err = s.Sweep(lock, store.Mounts{Release: release})
	require.NoError(t, err)
	require.Equal(t, []image.Digest{image.DigestBytes([]byte("top one"))}, swept.Layers)
	_, found, err = s.InitDir(chain)
	require.NoError(t, err)
	require.False(t, found)
	for _, digest := range []image.Digest{two.Manifest, two.ID} {
		require.True(t, s.HasBlob(digest))
	}
	require.NoError(t, s.CollectLeftovers())
	require.Empty(t, list(t, s, "tmp"))
}

func TestSweepTakesNothingWhenARecordIsUnreadable(t *testing.T) {
	s := open(t)
	lock, err := s.Exclusive(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, lock.Unlock()) }()
	img := putImage(t, s, lock, "docker.io/library/one:1", "base")
	_, err = s.PutBlob(lock, []byte("referred to by nothing"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.Root(), "blobs", "sha256", img.ID.Hex()), []byte("{}"), 0o600))
	before := list(t, s, "blobs/sha256")
	_, err = s.Sweep(lock, store.Mounts{})
	require.ErrorIs(t, err, store.ErrDigest)
	require.Equal(t, before, list(t, s, "blobs/sha256"))
}

func TestContainers(t *testing.T) {
	s := open(t)
	lock := shared(t, s)
	img := putImage(t, s, lock, "docker.io/library/one:1", "base")
	rec := store.ContainerRecord{Name: "web", Manifest: img.Manifest, ImageID: img.ID, Created: time.Unix(1e9, 0).UTC(), Config: []byte(`{"a":1}`)}
	c, err := s.CreateContainer(lock, rec, true)
	require.NoError(t, err)
	require.Len(t, c.ID, 64)
	require.DirExists(t, c.UpperDir())
	require.DirExists(t, c.WorkDir())
	for _, key := range []string{"web", c.ID, c.ID[:12]} {
		got, err := s.Container(key)
		require.NoError(t, err)
		require.Equal(t, c.ContainerRecord, got.ContainerRecord)
	}
	_, err = s.CreateContainer(lock, rec, false)
	require.ErrorIs(t, err, store.ErrExists)
	require.Empty(t, list(t, s, "tmp"))

	var state struct{ Pid int }
	require.ErrorIs(t, c.ReadState(&state), store.ErrNotFound)
	require.NoError(t, c.WriteState(struct{ Pid int }{42}))
	require.NoError(t, c.ReadState(&state))
	require.Equal(t, 42, state.Pid)

	other, err := s.CreateContainer(lock, store.ContainerRecord{Manifest: img.Manifest, Created: time.Unix(2e9, 0)}, false)
	require.NoError(t, err)
	require.Equal(t, other.ID[:12], other.Name)
	all, err := s.Containers()
	require.NoError(t, err)
	require.Equal(t, []string{other.ID, c.ID}, []string{all[0].ID, all[1].ID}, "the newest first")

	require.NoError(t, s.RemoveContainer(c, true))
	_, err = s.Container("web")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.CreateContainer(lock, rec, true)
	require.NoError(t, err, "the name is free again")
	_, err = s.Container("../images")
	require.ErrorIs(t, err, store.ErrNotFound)
}

func TestContainerNameOfTheDeadIsFree(t *testing.T) {
	s := open(t)
	lock := shared(t, s)
	img := putImage(t, s, lock, "docker.io/library/one:1", "base")
	// As when a process dies between taking the name and publishing the container.
	require.NoError(t, os.Symlink(strings.Repeat("0", 64), filepath.Join(s.Root(), "names", "web")))
	_, err := s.Container("web")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.CreateContainer(lock, store.ContainerRecord{Name: "web", Manifest: img.Manifest}, false)
	require.NoError(t, err)
}

func TestDamagedContainers(t *testing.T) {
	s := open(t)
	lock, err := s.Exclusive(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, lock.Unlock()) }()
	img := putImage(t, s, lock, "docker.io/library/one:1", "base")
	c, err := s.CreateContainer(lock, store.ContainerRecord{Manifest: img.Manifest}, false)
	require.NoError(t, err)
	config := filepath.Join(c.Dir(), "config.json")
	require.NoError(t, os.WriteFile(config, []byte(`{"id":`), 0o600))
	damaged, err := s.Container(c.ID)
	require.NoError(t, err)
	require.ErrorIs(t, damaged.Damaged, store.ErrDamaged)
	release := func(store.Layer) error { return nil }
	_, err = s.Sweep(lock, store.Mounts{Release: release})
	require.ErrorContains(t, err, "tarn rm", "what it needs is not known")

	// What a power cut leaves of a container that would be removed anyway is no container.
	for _, size := range []int64{1000, 0} {
		require.NoError(t, os.Truncate(config, 0))
		require.NoError(t, os.Truncate(config, size))
		_, err = s.Container(c.ID)
		require.ErrorIs(t, err, store.ErrNotFound)
		all, err := s.Containers()
		require.NoError(t, err)
		require.Empty(t, all)
		_, err = s.Sweep(lock, store.Mounts{Release: release})
		require.NoError(t, err)
	}
	_, err = s.CreateContainer(lock, store.ContainerRecord{Manifest: img.Manifest, Name: c.Name}, true)
	require.NoError(t, err, "the name is free")
	require.NoError(t, s.CollectLeftovers())
	require.Len(t, list(t, s, "containers"), 1)
}

func TestConcurrentNamesAndContainers(t *testing.T) {
	s := open(t)
	lock := shared(t, s)
	img := putImage(t, s, lock, "docker.io/library/one:1", "base")
	var wg sync.WaitGroup
	made := make(chan string, 16)
	for range 16 {
		wg.Go(func() {
			c, err := s.CreateContainer(lock, store.ContainerRecord{Name: "only", Manifest: img.Manifest}, false)
			switch {
			case err == nil:
				made <- c.ID
			case !errors.Is(err, store.ErrExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Len(t, made, 1)
}

func TestLeftoversAreCollected(t *testing.T) {
	s := open(t)
	living, _ := stageLayer(t, s, "living")
	dead, _ := stageLayer(t, s, "dead")
	dead.Forget()
	require.NoError(t, os.WriteFile(filepath.Join(s.Root(), "images", ".tmp-123"), []byte("{"), 0o600))
	images, err := s.Images()
	require.NoError(t, err, "an unfinished record is not a record")
	require.Empty(t, images)
	require.NoError(t, s.CollectLeftovers())
	require.Len(t, list(t, s, "tmp"), 1)
	require.Empty(t, list(t, s, "images"))
	require.NoError(t, living.Abort())
}

func TestSpoolFile(t *testing.T) {
	s := open(t)
	f, err := s.SpoolFile()
	require.NoError(t, err)
	_, err = io.Copy(f, bytes.NewReader(make([]byte, 1000)))
	require.NoError(t, err)
	require.Empty(t, list(t, s, "tmp"), "nothing to be left over")
	require.NoError(t, f.Close())
}

func list(t *testing.T, s *store.Store, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Root(), dir))
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
