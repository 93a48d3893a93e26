package engine_test

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/rootfs"
)

// exported has GNU tar extract what Export wrote, and gives the directory.
func (h *host) exported(container string) string {
	h.t.Helper()
	dir := testenv.TempDir(h.t)
	path, out := filepath.Join(dir, "root.tar"), filepath.Join(dir, "out")
	require.NoError(h.t, h.Export(h.t.Context(), engine.ExportOptions{Container: container, Output: path}))
	require.NoError(h.t, os.Mkdir(out, 0o700))
	testenv.ExtractTar(h.t, path, out)
	return out
}

func TestExportIsWhatMountShows(t *testing.T) {
	busybox := testenv.BusyboxTar(t)
	for _, driver := range []string{rootfs.Erofs, rootfs.Dirs} {
		t.Run(driver, func(t *testing.T) {
			h := newHost(t, driver)
			h.importFile("box", busybox)
			c := h.startBox(busyboxChanges + "echo ready; read x || true")
			running := h.exported("c")
			c.end()
			ended := h.exported("c")
			want := h.mounted("c")
			require.Greater(t, treecmp.Equal(t, want, running, treecmp.Options{}), 400)
			treecmp.Equal(t, want, ended, treecmp.Options{})
			treecmp.Equal(t, want, h.exported("c"), treecmp.Options{})
		})
	}
}

// TestExportAndImport makes one layer of several.
func TestExportAndImport(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	h.run("box", "c", `echo new > /new; rm -r /home`)
	path := filepath.Join(t.TempDir(), "root.tar")
	require.NoError(t, h.Export(t.Context(), engine.ExportOptions{Container: "c", Output: path}))
	h.importFile("flat", path)
	require.Equal(t, "new\n", h.run("flat", "d", "cat /new; ls -d /home 2> /dev/null || true"))
	require.Empty(t, h.diff("d"))
}

func TestExportRefuses(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	h.run("box", "c", "true")
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		opts engine.ExportOptions
		is   error
		says string
	}{
		"no container": {engine.ExportOptions{Container: "nope", Output: filepath.Join(dir, "x")}, engine.ErrNoContainer, "nope"},
		"a terminal":   {engine.ExportOptions{Container: "c", Stdout: terminal(t)}, engine.ErrTerminal, "export c: refusing to write to a terminal: use -o FILE"},
		"a directory":  {engine.ExportOptions{Container: "c", Output: dir}, nil, dir + " is a directory"},
		"no directory": {engine.ExportOptions{Container: "c", Output: filepath.Join(dir, "no/x")}, os.ErrNotExist, "no/x"},
		"a full disk":  {engine.ExportOptions{Container: "c", Output: "/dev/full"}, syscall.ENOSPC, "/dev/full"},
	} {
		t.Run(name, func(t *testing.T) {
			err := h.Export(t.Context(), tc.opts)
			require.Error(t, err)
			if tc.is != nil {
				require.ErrorIs(t, err, tc.is)
			}
			require.ErrorContains(t, err, tc.says)
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

// TestExportToAPipe whose reader leaves ends with an error, and holds up nobody.
func TestExportToAPipe(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	h.run("box", "c", "true")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- h.Export(t.Context(), engine.ExportOptions{Container: "c", Stdout: w}) }()
	_, err = io.CopyN(io.Discard, r, 100_000)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.ErrorIs(t, <-done, syscall.EPIPE)
	require.NoError(t, w.Close())
	require.NoError(t, h.RemoveContainer(t.Context(), "c", engine.RemoveOptions{}))
}
