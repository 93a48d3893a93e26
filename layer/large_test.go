package layer_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/tartest"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

const gib = 1 << 30

// TestLargeFile mounts a tar with a file of 5 GiB in it, and others behind. Most of the tar is a hole,
// so it takes no room; for tarn it is a file like any other.
func TestLargeFile(t *testing.T) {
	const size, contents = 5*gib + 3, 512
	for name, header := range map[string][]byte{
		"GNU number": aNode("large", '0', map[int]string{tartest.AtSize: tartest.Base256(size, 12), tartest.AtMagic: tartest.GNU}),
		"octal":      aNode("large", '0', map[int]string{tartest.AtSize: tartest.Octal(size)}),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(testenv.TempDir(t), "layer.tar")
			tar, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
			must(t, err)
			defer tar.Close()
			write := func(data []byte, offset int64) {
				_, err := tar.WriteAt(data, offset)
				must(t, err)
			}
			write(header, 0)
			marks := []int64{0, 1<<31 - 4, 4*gib - 5, 4*gib - 512, 5*gib - 9, size - 8}
			for i, at := range marks {
				write([]byte{'m', 'a', 'r', 'k', ' ', byte('0' + i), '.', '.'}, contents+at)
			}
			write(join(aFile("behind", "it"), aLink("hard", "large"), tartest.End()), contents+5*gib+512)

			l := storeLayer(t, path)
			fsckModes(t, l, "-p")
			dir := sys.FDPath(mountLayer(t, rootfs.Erofs, l))
			for _, name := range []string{"large", "hard"} {
				sameWindows(t, filepath.Join(dir, name), io.NewSectionReader(tar, contents, size), marks)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "behind")); err != nil || string(got) != "it" {
				t.Errorf("the file behind it: %q, %v", got, err)
			}
		})
	}
}

// TestLargeSparseFile mounts what GNU tar makes of a file of 300 GiB with little data in it, in all its
// forms. The index may not grow with the holes.
func TestLargeSparseFile(t *testing.T) {
	const size = 300*gib + 123
	dir := testenv.TempDir(t)
	path := filepath.Join(dir, "sparse")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	marks := []int64{8192, 4 * gib, 123*gib + 4096, 299 * gib, size - 4219}
	for _, at := range marks {
		_, err := f.WriteAt(bytes.Repeat([]byte("data"), 1500)[:min(6000, size-at)], at)
		must(t, err)
	}
	for _, args := range [][]string{
		{"--format=oldgnu"},
		{"--format=gnu"},
		{"--format=posix", "--sparse-version=0.0"},
		{"--format=posix", "--sparse-version=0.1"},
		{"--format=posix", "--sparse-version=1.0"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			l := storeLayer(t, writeTemp(t, tartest.GNUTar(t, dir, append(args, "--sparse")...)))
			fsckModes(t, l, "-p")
			if used := diskUsed(t, filepath.Join(l.Dir, "index.erofs")); used > 1<<20 {
				t.Errorf("the index takes %d bytes of disk", used)
			}
			sameWindows(t, filepath.Join(sys.FDPath(mountLayer(t, rootfs.Erofs, l)), "sparse"), io.NewSectionReader(f, 0, size), marks)
			extracted := filepath.Join(sys.FDPath(mountLayer(t, rootfs.Dirs, l)), "sparse")
			sameWindows(t, extracted, io.NewSectionReader(f, 0, size), marks)
			if used := diskUsed(t, extracted); used > 1<<20 {
				t.Errorf("the extracted file takes %d bytes of disk", used)
			}
		})
	}
}

func diskUsed(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

// sameWindows compares a file with what it should hold around some offsets, at its end, and in size.
func sameWindows(t *testing.T, path string, want *io.SectionReader, around []int64) {
	t.Helper()
	f := openFile(t, path)
	info, err := f.Stat()
	must(t, err)
	if info.Size() != want.Size() {
		t.Errorf("%s has %d bytes, want %d", path, info.Size(), want.Size())
	}
	for _, at := range append(around, want.Size()) {
		start := max(0, at-3000)
		a, b := make([]byte, 12_000), make([]byte, 12_000)
		n, err := f.ReadAt(a, start)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		m, err := want.ReadAt(b, start)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !bytes.Equal(a[:n], b[:m]) {
			t.Errorf("%s: %d bytes at %d differ from the %d wanted", path, n, start, m)
		}
	}
}
