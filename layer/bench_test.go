package layer_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/layer"
)

// BenchmarkIndex is the way from a tar in the page cache to an index on disk.
func BenchmarkIndex(b *testing.B) {
	tar, err := os.Open(testenv.DebianTar(b))
	if err != nil {
		b.Fatal(err)
	}
	defer tar.Close()
	dir := b.TempDir()
	b.Run("index", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			indexInto(b, dir, tar)
		}
	})
	b.Run("scan", func(b *testing.B) {
		for b.Loop() {
			if _, err := tar.Seek(0, io.SeekStart); err != nil {
				b.Fatal(err)
			}
			if _, err := layer.Scan(tar, layer.Limits{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stream", func(b *testing.B) {
		for b.Loop() {
			if _, err := tar.Seek(0, io.SeekStart); err != nil {
				b.Fatal(err)
			}
			if _, err := layer.Scan(struct{ io.Reader }{tar}, layer.Limits{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func indexInto(b *testing.B, dir string, tar *os.File) {
	if _, err := tar.Seek(0, io.SeekStart); err != nil {
		b.Fatal(err)
	}
	tree, err := layer.Scan(tar, layer.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	index, err := os.CreateTemp(dir, "index")
	if err != nil {
		b.Fatal(err)
	}
	defer index.Close()
	if _, err := tree.WriteIndex(index, plain(b, tar)); err != nil {
		b.Fatal(err)
	}
	if err := os.Remove(filepath.Clean(index.Name())); err != nil {
		b.Fatal(err)
	}
}
