package layer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/internal/tartest"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// TestExtractBesideTraps extracts into a directory that has, where the tar has something, a symbolic link
// to a file or directory outside.
func TestExtractBesideTraps(t *testing.T) {
	testenv.RequireRoot(t)
	for name, tar := range map[string][]byte{
		"a file":             aFile("trap", "overwritten"),
		"an empty file":      aFile("trap", ""),
		"a hole":             join(pax("GNU.sparse.size", "100", "GNU.sparse.map", "0,0"), aFile("trap", "")),
		"a directory":        join(aDir("trap"), aFile("trap/file", "overwritten")),
		"an implied one":     aFile("trap/file", "overwritten"),
		"a symbolic link":    aSymlink("trap", "x"),
		"a hard link":        join(aFile("a", "x"), aLink("trap", "a")),
		"a device":           aDevice("trap", '3', 1, 3),
		"a fifo":             aNode("trap", '6', nil),
		"a whiteout":         aFile(".wh.trap", ""),
		"an opaque one":      aFile("trap/.wh..wh..opq", ""),
		"a whiteout in a":    aFile("trap/.wh.file", ""),
		"what a link has":    join(aFile("trap", "x"), aLink("z", "trap")),
		"a mode of its own":  aNode("trap", '5', map[int]string{tartest.AtMode: "0000777\x00", tartest.AtUID: "0000007\x00"}),
		"another's contents": tartest.Body(aNode("trap", '0', map[int]string{tartest.AtSize: tartest.Octal(3), tartest.AtMode: "0004777\x00"}), "new"),
	} {
		for _, target := range []string{"outside", "outside/file"} {
			t.Run(name+" over a link to "+target, func(t *testing.T) {
				base := newTrap(t)
				before := readDir(t, base, "outside")
				root := filepath.Join(base, "root")
				must(t, os.Symlink("../"+target, filepath.Join(root, "trap")))
				err := layer.Extract(t.Context(), plain(t, inMemory(t, join(tar, tartest.End()))), openFile(t, root), layer.ExtractOptions{})
				if !errors.Is(err, os.ErrExist) || !strings.HasPrefix(err.Error(), `extract "trap": `) {
					t.Errorf("error %v, want %v that names it", err, os.ErrExist)
				}
				sameTree(t, "outside", before, readDir(t, base, "outside"))
			})
		}
	}
}

// newTrap makes a directory with one called root, and one called outside that nothing may change.
func newTrap(t testing.TB) string {
	t.Helper()
	base := testenv.TempDir(t)
	must(t, os.Mkdir(filepath.Join(base, "root"), 0o755))
	must(t, os.Mkdir(filepath.Join(base, "outside"), 0o751))
	must(t, os.WriteFile(filepath.Join(base, "outside", "file"), []byte("precious"), 0o640))
	return base
}

func readDir(t testing.TB, elem ...string) tree {
	t.Helper()
	return readTree(t, openFile(t, filepath.Join(elem...)))
}

// TestExtractWhileDirectoriesAreSwapped has someone replace the directories that are being extracted into
// by links that lead outside, and back, as fast as the kernel can.
func TestExtractWhileDirectoriesAreSwapped(t *testing.T) {
	testenv.RequireRoot(t)
	var tar []byte
	for i := range 60 {
		sub := fmt.Sprint("swapped/d", i%10)
		file := fmt.Sprint(sub, "/file", i)
		tar = join(tar, aDir(sub), aFile(file, "contents"), aLink(fmt.Sprint("swapped/link", i), file), aLink(fmt.Sprint(sub, "/link", i), "first"),
			aSymlink(fmt.Sprint(sub, "/soft", i), "x"), aNode(fmt.Sprint(sub, "/fifo", i), '6', nil), aFile(fmt.Sprint(sub, "/.wh.", i), ""))
	}
	tar = join(aFile("first", "x"), tar, tartest.End())
	outcomes := map[string]int{}
	for range 12 {
		base := newTrap(t)
		root := filepath.Join(base, "root")
		swapped := filepath.Join(root, "swapped")
		trap := filepath.Join(base, "trap")
		must(t, os.Symlink("../outside", trap)) // for both places
		must(t, os.Symlink("../outside", filepath.Join(base, "outside", "d1")))
		before := readDir(t, base, "outside")
		ctx, cancel := context.WithCancel(t.Context())
		var swapper sync.WaitGroup
		swapper.Go(func() {
			for ctx.Err() == nil {
				// Whether it succeeds is chance: that it is tried is the test.
				_ = unix.Renameat2(unix.AT_FDCWD, swapped, unix.AT_FDCWD, trap, unix.RENAME_EXCHANGE)
			}
		})
		err := layer.Extract(t.Context(), plain(t, inMemory(t, tar)), openFile(t, root), layer.ExtractOptions{})
		cancel()
		swapper.Wait()
		var pathError *os.PathError
		switch {
		case err == nil:
			outcomes["done"]++
		case errors.As(err, &pathError):
			outcomes[pathError.Op+": "+pathError.Err.Error()]++
		default:
			t.Errorf("an error that is not the kernel's: %v", err)
		}
		sameTree(t, "outside", before, readDir(t, base, "outside"))
		if t.Failed() {
			break
		}
	}
	t.Logf("%v", outcomes)
}

// TestExtractStops gives up when it is told to, and with the name of what could not be read.
func TestExtractStops(t *testing.T) {
	testenv.RequireRoot(t)
	tar := join(aFile("a", "x"), aFile("victim", strings.Repeat("contents", 1000)), tartest.End())
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	dir := openFile(t, testenv.TempDir(t))
	if err := layer.Extract(ctx, plain(t, inMemory(t, tar)), dir, layer.ExtractOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
	sameTree(t, "cancelled", model{}.entries(), withRootOf(model{}.entries(), readTree(t, dir)))

	scanned := mustScan(t, bytes.NewReader(tar))
	file := inMemory(t, tar)
	whole := plain(t, file)
	must(t, file.Truncate(3000))
	err := layer.Materialize(t.Context(), scanned, whole, dir)
	if !errors.Is(err, tarfile.ErrTruncated) || !strings.Contains(err.Error(), "victim") {
		t.Errorf("cut short meanwhile: error %v", err)
	}
}

// withRootOf makes the roots of two trees the same, for tests that do not care.
func withRootOf(want, got tree) tree {
	got["."] = want["."]
	return got
}
