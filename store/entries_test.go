package store_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

func put(t *testing.T, s *store.Store, lock *store.Lock, content string) image.Digest {
	t.Helper()
	d, err := s.PutBlob(lock, []byte(content))
	require.NoError(t, err)
	return d
}

func descriptor(mediaType string, d image.Digest) string {
	return fmt.Sprintf(`{"mediaType":%q,"size":1,"digest":%q}`, mediaType, d)
}

// putArtifact publishes an artifact of one blob.
func putArtifact(t *testing.T, s *store.Store, lock *store.Lock, content string) image.Digest {
	t.Helper()
	return put(t, s, lock, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, image.MediaTypeManifest,
		descriptor("application/vnd.oci.empty.v1+json", put(t, s, lock, "{}")),
		descriptor("application/octet-stream", put(t, s, lock, content))))
}

func putIndex(t *testing.T, s *store.Store, lock *store.Lock, manifests ...image.Digest) image.Digest {
	t.Helper()
	list := make([]string, 0, len(manifests))
	for _, d := range manifests {
		list = append(list, descriptor(image.MediaTypeManifest, d))
	}
	return put(t, s, lock, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, image.MediaTypeIndex, strings.Join(list, ",")))
}

func exclusive(t *testing.T, s *store.Store) *store.Lock {
	t.Helper()
	lock, err := s.Exclusive(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, lock.Unlock()) })
	return lock
}

func sweep(t *testing.T, s *store.Store, lock *store.Lock) store.Swept {
	t.Helper()
	swept, err := s.Sweep(lock, store.Mounts{})
	require.NoError(t, err)
	return swept
}

const (
	repository = "docker.io/library/a"
	named      = repository + ":1"
)

func TestEntries(t *testing.T) {
	s := open(t)
	entries, err := s.Entries()
	require.NoError(t, err)
	require.Empty(t, entries)
	lock := exclusive(t, s)
	artifact := putArtifact(t, s, lock, "signature")
	created := time.Unix(1e9, 0).UTC()
	byTag := store.Entry{Repository: repository, Tag: "1", Manifest: artifact, Created: created}
	byDigest := store.Entry{Repository: repository, Manifest: artifact, Created: created}
	elsewhere := store.Entry{Repository: "ghcr.io/b", Tag: "1", Manifest: artifact, Created: created}
	for _, e := range []store.Entry{byTag, elsewhere, byDigest} {
		require.NoError(t, s.SetEntry(lock, e))
	}
	entries, err = s.Entries()
	require.NoError(t, err)
	require.Equal(t, []store.Entry{byDigest, byTag, elsewhere}, entries)
	got, err := s.Entry(repository, "1")
	require.NoError(t, err)
	require.Equal(t, byTag, got)
	got, err = s.EntryByDigest(repository, artifact)
	require.NoError(t, err)
	require.Equal(t, byDigest, got)
	_, err = s.Entry(repository, "2")
	require.ErrorIs(t, err, store.ErrNotFound)

	require.NoError(t, s.RemoveEntry(lock, byTag))
	require.ErrorIs(t, s.RemoveEntry(lock, byTag), store.ErrNotFound)
	_, err = s.Entry(repository, "1")
	require.ErrorIs(t, err, store.ErrNotFound)
	require.Error(t, s.SetEntry(lock, store.Entry{Repository: repository, Manifest: "sha256:../.."}))
}

func TestANameMeansOneThing(t *testing.T) {
	hasEntry := func(t *testing.T, s *store.Store) bool {
		t.Helper()
		_, err := s.Entry(repository, "1")
		if err != nil {
			require.ErrorIs(t, err, store.ErrNotFound)
		}
		return err == nil
	}
	t.Run("an artifact takes an image's name", func(t *testing.T) {
		s := open(t)
		lock := shared(t, s)
		img := putImage(t, s, lock, named, "layer")
		require.NoError(t, s.SetEntry(lock, store.Entry{Repository: repository, Tag: "1", Manifest: putArtifact(t, s, lock, "x")}))
		require.True(t, hasEntry(t, s))
		_, err := s.Image(named)
		require.ErrorIs(t, err, store.ErrNotFound)
		images, err := s.Images()
		require.NoError(t, err)
		img.Name = ""
		require.Equal(t, []store.Image{img}, images)
	})
	t.Run("an image takes an artifact's name", func(t *testing.T) {
		s := open(t)
		lock := exclusive(t, s)
		require.NoError(t, s.SetEntry(lock, store.Entry{Repository: repository, Tag: "1", Manifest: putArtifact(t, s, lock, "x")}))
		img := putImage(t, s, lock, named, "layer")
		require.False(t, hasEntry(t, s))
		require.NoError(t, s.RemoveImage(lock, img))
		require.False(t, hasEntry(t, s), "what it replaced does not come back")
	})
	t.Run("the image's record was written, the entry was not removed", func(t *testing.T) {
		s := open(t)
		lock := exclusive(t, s)
		require.NoError(t, s.SetEntry(lock, store.Entry{Repository: repository, Tag: "1", Manifest: putArtifact(t, s, lock, "x")}))
		file := filepath.Join(s.Root(), "entries", list(t, s, "entries")[0])
		record, err := os.ReadFile(file)
		require.NoError(t, err)
		putImage(t, s, lock, named, "layer")
		require.NoError(t, os.WriteFile(file, record, 0o600))
		require.False(t, hasEntry(t, s))
		entries, err := s.Entries()
		require.NoError(t, err)
		require.Empty(t, entries)
		sweep(t, s, lock)
		require.NoFileExists(t, file)
	})
}

func TestSweepFollowsEntries(t *testing.T) {
	s := open(t)
	lock := exclusive(t, s)
	loose := put(t, s, lock, "nothing refers to this")
	artifact := putArtifact(t, s, lock, "signature")
	listed := putArtifact(t, s, lock, "listed")
	lie := put(t, s, lock, "not a manifest, though an index says so")
	index := putIndex(t, s, lock, listed, image.DigestBytes([]byte("absent")), lie)
	outer := putIndex(t, s, lock, index, index)
	// A tar that is not compressed lies in layers/ only.
	stage, tar := stageLayer(t, s, "a tar")
	require.NoError(t, stage.Publish(lock, tar))
	plain := put(t, s, lock, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, image.MediaTypeManifest,
		descriptor(image.MediaTypeConfig, put(t, s, lock, "a config")), descriptor(image.MediaTypeLayer, tar)))
	entries := []store.Entry{
		{Repository: repository, Tag: "sig", Manifest: artifact},
		{Repository: repository, Manifest: outer},
		{Repository: repository, Manifest: plain},
	}
	for _, e := range entries {
		require.NoError(t, s.SetEntry(lock, e))
	}
	require.Equal(t, store.Swept{Blobs: []image.Digest{loose}}, sweep(t, s, lock))
	require.True(t, s.HasLayer(tar))

	require.NoError(t, s.RemoveEntry(lock, entries[0]))
	require.ElementsMatch(t, []image.Digest{artifact, image.DigestBytes([]byte("signature"))}, sweep(t, s, lock).Blobs)
	require.NoError(t, s.RemoveEntry(lock, entries[1]))
	require.NoError(t, s.RemoveEntry(lock, entries[2]))
	require.Equal(t, []image.Digest{tar}, sweep(t, s, lock).Layers)
	require.Empty(t, list(t, s, "blobs/sha256"))
}

func TestSweepTakesNothingWhenAnEntryIsUnreadable(t *testing.T) {
	s := open(t)
	lock := exclusive(t, s)
	require.NoError(t, s.SetEntry(lock, store.Entry{Repository: repository, Tag: "1", Manifest: putArtifact(t, s, lock, "x")}))
	loose := put(t, s, lock, "loose")
	record := filepath.Join(s.Root(), "entries", list(t, s, "entries")[0])
	require.NoError(t, os.WriteFile(record, []byte("{"), 0o600))
	_, err := s.Sweep(lock, store.Mounts{})
	require.ErrorIs(t, err, store.ErrDamaged)
	require.True(t, s.HasBlob(loose))
}

func TestBlobWriter(t *testing.T) {
	content := []byte("some bytes")
	sum := func(algorithm string) image.Digest {
		d := image.Digest(algorithm + ":")
		h, err := image.NewHash(algorithm)
		require.NoError(t, err)
		h.Write(content)
		return d.Of(h)
	}
	for name, tc := range map[string]struct {
		hashed string
		want   image.Digest
		err    error
	}{
		"as announced":      {"sha256", sum("sha256"), nil},
		"another algorithm": {"sha256", sum("sha512"), nil},
		"sha512 announced":  {"sha512", sum("sha512"), nil},
		"wrong":             {"sha256", image.DigestBytes([]byte("other")), store.ErrDigest},
		"no digest":         {"sha256", "sha256:../../passwd", image.ErrDigest},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			w, err := s.NewBlob(tc.hashed)
			require.NoError(t, err)
			for _, b := range content {
				_, err := w.Write([]byte{b})
				require.NoError(t, err)
			}
			require.Equal(t, int64(len(content)), w.Size())
			require.NoError(t, s.CollectLeftovers(), "its maker lives")
			stage, err := w.Finish(tc.want)
			require.NoError(t, w.Abort(), "the writer is spent")
			if tc.err != nil {
				require.ErrorIs(t, err, tc.err)
				require.Empty(t, list(t, s, "tmp"))
				return
			}
			require.NoError(t, err)
			f, err := stage.Open()
			require.NoError(t, err)
			var got bytes.Buffer
			_, err = got.ReadFrom(f)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			require.Equal(t, content, got.Bytes())
			require.False(t, s.HasBlob(tc.want), "not before it is published")
			require.NoError(t, stage.Publish(shared(t, s)))
			require.True(t, s.HasBlob(tc.want))
			_, err = stage.Open()
			require.ErrorIs(t, err, store.ErrNotFound)
			require.Empty(t, list(t, s, "tmp"))
		})
	}
	_, err := open(t).NewBlob("md5")
	require.ErrorIs(t, err, image.ErrDigest)
}
