package engine_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/rootfs"
)

// What the host does for a copy is done with programs, libraries or files of the container: it can decide what
// that is, and it runs with the host's rights.
//
// Guards: tars are decompressed by ourselves, links that come from the container are not followed.
func TestCVE2026_41567(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", changedTar(t, func(root string) {
		trap := "#!/bin/sh\necho ran >> /ran\ncat\n"
		for _, name := range []string{"gzip", "unpigz", "pigz", "zstd", "xz", "bzip2", "tar", "igzip"} {
			for _, dir := range []string{"bin", "usr/bin"} {
				require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
				_ = os.Remove(filepath.Join(root, dir, name))
				require.NoError(t, os.WriteFile(filepath.Join(root, dir, name), []byte(trap), 0o755))
			}
		}
		require.NoError(t, os.MkdirAll(filepath.Join(root, "out/sub"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, "out/sub/file"), []byte("evil"), 0o755))
	}))
	h.run("box", "c", "true")
	cp := func(from, to string, stdin *bytes.Buffer) error {
		_, err := h.Cp(t.Context(), from, to, engine.CpOptions{Stdin: stdin})
		return err
	}
	require.NoError(t, cp("-", "c:/", bytes.NewBuffer(gzipped(t, oneFile(t, "hello")))))
	dir := t.TempDir()
	_ = cp("c:/ran", filepath.Join(dir, "ran"), nil)
	require.NoFileExists(t, filepath.Join(dir, "ran"), "a program of the container was run by the host")
	require.NoError(t, cp("c:/hello", filepath.Join(dir, "hello"), nil))

	// A directory of the host in which the container's first copy has left a link.
	h.run("box", "links", "rm -r /out/sub; ln -s "+dir+" /out/sub")
	dest := t.TempDir()
	require.NoError(t, cp("links:/out", dest, nil))
	require.Error(t, cp("c:/out", dest, nil))
	require.NoFileExists(t, filepath.Join(dir, "file"), "a link of the container's was followed on the host")
}

// oneFile is a tar of one file.
func oneFile(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 2}))
	_, err := w.Write([]byte("hi"))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// While files are copied out and in, the container exchanges what is copied, and where it is copied to,
// with links to the host, with fifos and devices.
func TestCpWhileTheContainerSwaps(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", changedTar(t, func(string) {}))
	victim := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(victim, "file"), []byte("precious"), 0o600))
	c := h.startBox(`mkdir -p /a/dir/sub; echo mine > /a/dir/file; ln -s ` + victim + ` /a/link; mkfifo /a/fifo
		i=0; echo ready; while [ ! -e /stop ]; do
			mv /a/dir /a/t; mv -T /a/link /a/dir; mv /a/dir /a/link; mv -T /a/fifo /a/dir; mv /a/dir /a/fifo; mv /a/t /a/dir; done
		read x || true`)
	dir := t.TempDir()
	source := filepath.Join(dir, "new")
	require.NoError(t, os.WriteFile(source, []byte("overwritten"), 0o600))
	copied := 0
	for i := range 40 {
		out := filepath.Join(dir, string(rune('a'+i%26)))
		if _, err := h.Cp(t.Context(), "c:/a/dir/file", out, engine.CpOptions{}); err == nil {
			text, err := os.ReadFile(out)
			require.NoError(t, err)
			require.Contains(t, []string{"mine\n", "overwritten"}, string(text), "a file of the host was copied")
			copied++
		}
		_, _ = h.Cp(t.Context(), source, "c:/a/dir/file", engine.CpOptions{})
		_, _ = h.Cp(t.Context(), "c:/a", filepath.Join(t.TempDir(), "all"), engine.CpOptions{})
		text, err := os.ReadFile(filepath.Join(victim, "file"))
		require.NoError(t, err)
		require.Equal(t, "precious", string(text), "a file of the host was written to")
	}
	t.Logf("%d of 40 copies found the file", copied)
	empty := filepath.Join(dir, "stop")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	_, err := h.Cp(t.Context(), empty, "c:/stop", engine.CpOptions{})
	require.NoError(t, err)
	c.end()
	entries, err := os.ReadDir(victim)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}
