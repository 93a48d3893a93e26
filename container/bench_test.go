package container_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
)

// overlayRoot stacks a fresh upper on a directory, as the engine does for "run --rm".
func overlayRoot(b testing.TB, lower, dir string) *os.File {
	b.Helper()
	fs, err := sys.OpenFS("overlay")
	if err != nil {
		b.Fatal(err)
	}
	defer fs.Close()
	options := [][2]string{{"lowerdir", lower}, {"upperdir", dir + "/upper"}, {"workdir", dir + "/work"}}
	for _, o := range options {
		if o[0] != "lowerdir" {
			if err := os.MkdirAll(o[1], 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := fs.String(o[0], o[1]); err != nil {
			b.Fatal(err)
		}
	}
	if err := fs.Flag("volatile"); err != nil {
		b.Fatal(err)
	}
	if err := fs.Create(); err != nil {
		b.Fatal(err)
	}
	mount, err := fs.Mount(0)
	if err != nil {
		b.Fatal(err)
	}
	return mount
}

// BenchmarkRun is the whole life of a container that runs true in a Debian root: overlay, start,
// end, everything taken away.
func BenchmarkRun(b *testing.B) {
	testenv.RequireRoot(b)
	lower := os.Getenv("TARN_BENCH_ROOT")
	if lower == "" {
		lower = testenv.DebianDir(b)
	}
	dir := testenv.TempDir(b)
	for i := range b.N {
		one := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(one, 0o755); err != nil {
			b.Fatal(err)
		}
		root := overlayRoot(b, lower, one)
		spec := container.DefaultSpec()
		spec.Process.Args = []string{"true"}
		spec.Hostname = "bench"
		spec.Linux.CgroupsPath = "tarn-bench/" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(i)
		c := container.New(spec)
		p, err := c.Start(b.Context(), container.Config{Root: root})
		if err != nil {
			b.Fatal(err)
		}
		_ = root.Close()
		if status, err := p.Wait(); status != 0 || err != nil {
			b.Fatal(status, err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
