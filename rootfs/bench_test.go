package rootfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

func benchLayers(b *testing.B, s site, n int) []rootfs.Layer {
	b.Helper()
	var layers []rootfs.Layer
	for i := range n {
		layers = append(layers, storeLayer(b, s.root, dir("d", 0o755), file(fmt.Sprint("d/", i), 0o644)))
	}
	return layers
}

// BenchmarkMount is the first mount of each layer after a boot.
func BenchmarkMount(b *testing.B) {
	testenv.RequireErofsFile(b)
	s := newSite(b, rootfs.Erofs, testenv.TempDir(b))
	l := benchLayers(b, s, 1)[0]
	for b.Loop() {
		f, err := s.driver.Mount(b.Context(), l)
		require.NoError(b, err)
		f.Close()
		b.StopTimer()
		require.NoError(b, s.driver.Release(l))
		b.StartTimer()
	}
}

// BenchmarkMounted is every later one.
func BenchmarkMounted(b *testing.B) {
	testenv.RequireErofsFile(b)
	s := newSite(b, rootfs.Erofs, testenv.TempDir(b))
	l := benchLayers(b, s, 1)[0]
	for b.Loop() {
		f, err := s.driver.Mount(b.Context(), l)
		require.NoError(b, err)
		f.Close()
	}
	s.release(b, l)
}

// BenchmarkOverlay is what a start has to do over mounted layers: find them and stack them.
func BenchmarkOverlay(b *testing.B) {
	testenv.RequireErofsFile(b)
	for _, n := range []int{1, 100, 300} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newSite(b, rootfs.Erofs, testenv.TempDir(b))
			layers := benchLayers(b, s, n)
			for _, l := range layers {
				f, err := s.driver.Mount(b.Context(), l)
				require.NoError(b, err)
				f.Close()
			}
			upper, work := openDir(b, filepath.Join(s.base, "upper")), openDir(b, filepath.Join(s.base, "work"))
			for b.Loop() {
				lowers := make([]*os.File, 0, n)
				for _, l := range layers {
					f, err := s.driver.Mount(b.Context(), l)
					require.NoError(b, err)
					lowers = append(lowers, f)
				}
				mount, err := rootfs.Overlay(lowers, upper, work, rootfs.OverlayOptions{})
				require.NoError(b, err)
				mount.Close()
				for _, f := range lowers {
					f.Close()
				}
			}
			s.release(b, layers...)
		})
	}
}
