package engine_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/archive"
	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	at "github.com/tarnfs/tarn/internal/archivetest"
	"github.com/tarnfs/tarn/store"
)

// savedNames gives the names and IDs in an archive that was saved.
func savedNames(t *testing.T, path string) map[image.Digest][]string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	a, err := archive.OpenTar(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	images, err := a.Images(image.Platform{})
	require.NoError(t, err)
	names := map[image.Digest][]string{}
	for _, img := range images {
		require.NotContains(t, names, img.ID(), "each image once")
		names[img.ID()] = img.Names
	}
	return names
}

func TestSaveNames(t *testing.T) {
	e := newEngine(t)
	one, two := importTar(t, e, "tool:1", "x"), importTar(t, e, "tool:2", "y")
	require.NoError(t, e.Tag(t.Context(), "tool:1", "ghcr.io/me/tool:1"))
	record, err := e.Store.Image("docker.io/library/tool:1")
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		refs []string
		want map[image.Digest][]string
	}{
		"a tag":              {[]string{"tool:1"}, map[image.Digest][]string{one: {"docker.io/library/tool:1"}}},
		"all tags":           {[]string{"tool"}, map[image.Digest][]string{one: {"docker.io/library/tool:1"}, two: {"docker.io/library/tool:2"}}},
		"two names of one":   {[]string{"tool:1", "ghcr.io/me/tool:1", "tool:1"}, map[image.Digest][]string{one: {"docker.io/library/tool:1", "ghcr.io/me/tool:1"}}},
		"an ID":              {[]string{one.Short()}, map[image.Digest][]string{one: nil}},
		"an ID with sha256:": {[]string{string(two)}, map[image.Digest][]string{two: nil}},
		"a digest":           {[]string{"tool@" + string(record.Manifest)}, map[image.Digest][]string{one: nil}},
		"a tag and a digest": {[]string{"tool:1@" + string(record.Manifest)}, map[image.Digest][]string{one: {"docker.io/library/tool:1"}}},
		"an ID and a name":   {[]string{one.Hex(), "tool:1"}, map[image.Digest][]string{one: {"docker.io/library/tool:1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out.tar")
			require.NoError(t, e.Save(t.Context(), engine.SaveOptions{Images: tc.refs, Output: out}))
			require.Equal(t, tc.want, savedNames(t, out))
			info, err := os.Stat(out)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode())
		})
	}
}

func TestSaveOutputs(t *testing.T) {
	e := newEngine(t)
	importTar(t, e, "tool:1", "x")
	refs := []string{"tool:1"}
	want := filepath.Join(t.TempDir(), "want")
	require.NoError(t, e.Save(t.Context(), engine.SaveOptions{Images: refs, Output: want}))
	wanted, err := os.ReadFile(want)
	require.NoError(t, err)

	t.Run("standard output", func(t *testing.T) {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		got := make(chan []byte, 1)
		go func() {
			data, _ := io.ReadAll(r) // compared below
			got <- data
		}()
		require.NoError(t, e.Save(t.Context(), engine.SaveOptions{Images: refs, Stdout: w}))
		require.NoError(t, w.Close())
		require.True(t, bytes.Equal(wanted, <-got))
	})
	t.Run("over a file, through a link", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("old"), 0o644))
		require.NoError(t, os.Symlink("file", filepath.Join(dir, "link")))
		require.NoError(t, e.Save(t.Context(), engine.SaveOptions{Images: refs, Output: filepath.Join(dir, "link")}))
		got, err := os.ReadFile(filepath.Join(dir, "file"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(wanted, got))
		target, err := os.Readlink(filepath.Join(dir, "link"))
		require.NoError(t, err)
		require.Equal(t, "file", target)
	})
	t.Run("a fifo", func(t *testing.T) {
		fifo := filepath.Join(t.TempDir(), "fifo")
		require.NoError(t, syscall.Mkfifo(fifo, 0o600))
		got := make(chan []byte, 1)
		go func() {
			data, _ := os.ReadFile(fifo) // compared below
			got <- data
		}()
		require.NoError(t, e.Save(t.Context(), engine.SaveOptions{Images: refs, Output: fifo}))
		require.True(t, bytes.Equal(wanted, <-got))
	})
	t.Run("an empty directory", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, e.Save(t.Context(), engine.SaveOptions{Images: refs, Output: dir, Format: "oci-dir"}))
		require.FileExists(t, filepath.Join(dir, "index.json"))
	})
}

func TestSaveRefuses(t *testing.T) {
	e := newEngine(t)
	importTar(t, e, "tool:1", "x")
	dir := t.TempDir()
	full := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(full, "mine"), nil, 0o600))
	for name, tc := range map[string]struct {
		opts  engine.SaveOptions
		err   error
		names string
	}{
		"a terminal":              {engine.SaveOptions{Images: []string{"tool:1"}, Stdout: terminal(t)}, engine.ErrTerminal, "-o FILE"},
		"a terminal by its name":  {engine.SaveOptions{Images: []string{"tool:1"}, Output: "/dev/ptmx"}, engine.ErrTerminal, ""},
		"a directory to a stream": {engine.SaveOptions{Images: []string{"tool:1"}, Format: "oci-dir"}, engine.ErrOption, "-o DIR"},
		"a format that is none":   {engine.SaveOptions{Images: []string{"tool:1"}, Format: "zip"}, engine.ErrOption, `"zip"`},
		"no such image":           {engine.SaveOptions{Images: []string{"tool:1", "tool:2"}, Output: filepath.Join(dir, "x")}, engine.ErrNoImage, "tool:2"},
		"a directory as a file":   {engine.SaveOptions{Images: []string{"tool:1"}, Output: dir}, nil, "oci-dir"},
		"a directory with files":  {engine.SaveOptions{Images: []string{"tool:1"}, Output: full, Format: "oci-dir"}, nil, "not empty"},
		"a file as a directory":   {engine.SaveOptions{Images: []string{"tool:1"}, Output: filepath.Join(full, "mine"), Format: "oci-dir"}, syscall.ENOTDIR, "mine"},
		"below no directory":      {engine.SaveOptions{Images: []string{"tool:1"}, Output: filepath.Join(dir, "a", "b")}, os.ErrNotExist, "a/b"},
	} {
		t.Run(name, func(t *testing.T) {
			err := e.Save(t.Context(), tc.opts)
			require.Error(t, err)
			if tc.err != nil {
				require.ErrorIs(t, err, tc.err)
			}
			require.ErrorContains(t, err, tc.names)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, entries)
		})
	}
}

// TestSaveThatFailsLeavesWhatWasThere: the store is damaged, or the user gives up.
func TestSaveThatFailsLeavesWhatWasThere(t *testing.T) {
	img := at.NewImage("x", gzLayer(t, bigTar(t)), at.PlainLayer(at.LayerTar(t, at.File{Name: "f"})))
	damage := map[string]struct {
		spoil func(t *testing.T, e *engine.Engine)
		err   error
		names string
	}{
		"a layer has rotted": {func(t *testing.T, e *engine.Engine) {
			l, err := e.Store.Layer(image.Digest(at.Digest(img.Layers[1].Tar)))
			require.NoError(t, err)
			f, err := os.OpenFile(filepath.Join(l.Dir(), "layer.tar"), os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte("x"), 700)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}, archive.ErrMismatch, at.Digest(img.Layers[1].Tar)},
		"a blob is gone": {func(t *testing.T, e *engine.Engine) {
			require.NoError(t, os.Remove(filepath.Join(e.Store.Root(), at.BlobName(at.Digest(img.Layers[0].Blob)))))
		}, store.ErrNotFound, at.Digest(img.Layers[0].Blob)},
	}
	for name, tc := range damage {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			load(t, e, writeFile(t, "x.tar", at.Layout(map[string]at.Image{"a:1": img}, "a:1").Tar(t)))
			tc.spoil(t, e)
			out := writeFile(t, "out.tar", []byte("old"))
			err := e.Save(t.Context(), engine.SaveOptions{Images: []string{"a:1"}, Output: out})
			require.ErrorIs(t, err, tc.err)
			require.ErrorContains(t, err, tc.names)
			requireOnly(t, out, "old")

			made, empty := filepath.Join(t.TempDir(), "made"), t.TempDir()
			require.ErrorIs(t, e.Save(t.Context(), engine.SaveOptions{Images: []string{"a:1"}, Output: made, Format: "oci-dir"}), tc.err)
			require.NoDirExists(t, made)
			require.ErrorIs(t, e.Save(t.Context(), engine.SaveOptions{Images: []string{"a:1"}, Output: empty, Format: "oci-dir"}), tc.err)
			entries, err := os.ReadDir(empty)
			require.NoError(t, err)
			require.Empty(t, entries)
		})
	}
	t.Run("given up", func(t *testing.T) {
		e := newEngine(t)
		load(t, e, writeFile(t, "x.tar", at.Layout(map[string]at.Image{"a:1": img}, "a:1").Tar(t)))
		out := writeFile(t, "out.tar", []byte("old"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := e.Save(ctx, engine.SaveOptions{Images: []string{"a:1"}, Output: out})
		require.ErrorIs(t, err, context.Canceled)
		requireOnly(t, out, "old")
	})
}

// requireOnly checks that a directory holds one file, as it was.
func requireOnly(t *testing.T, path, content string) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, content, string(data))
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1)
}
