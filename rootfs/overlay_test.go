package rootfs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

// newImage stores and mounts a two-layer image with one driver.
func newImage(t *testing.T, driver string) (s site, lowers []*os.File) {
	t.Helper()
	requireDriver(t, driver)
	base := testenv.TempDir(t)
	noLeaks(t, base)
	s = newSite(t, driver, base)
	layers := []rootfs.Layer{
		storeEntries(t, s.root,
			entry{Header: dir("d", 0o755)}, entry{Header: file("d/f", 0o644)},
			entry{Header: dir("d/deep", 0o755)}, entry{Header: file("d/deep/g", 0o644)},
			entry{Header: file("big", 0o644), content: []byte(strings.Repeat("big\n", 1<<20))}),
		storeLayer(t, s.root, dir("e", 0o755), file("e/f", 0o644)),
	}
	t.Cleanup(func() { s.release(t, layers...) })
	return s, mountAll(t, s.driver, layers...)
}

func onEachImage(t *testing.T, test func(t *testing.T, s site, lowers []*os.File)) {
	t.Helper()
	for _, driver := range []string{rootfs.Erofs, rootfs.Dirs} {
		t.Run(driver, func(t *testing.T) {
			s, lowers := newImage(t, driver)
			test(t, s, lowers)
		})
	}
}

func stat(t testing.TB, elem ...string) *syscall.Stat_t {
	t.Helper()
	var st syscall.Stat_t
	require.NoError(t, syscall.Lstat(strings.Join(elem, "/"), &st))
	return &st
}

func TestOneDeviceAndSteadyInodeNumbers(t *testing.T) {
	onEachImage(t, func(t *testing.T, s site, lowers []*os.File) {
		st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{})
		root := stat(t, st.path, ".")
		for _, name := range []string{"d", "d/f", "e", "e/f", "big"} {
			before := stat(t, st.path, name)
			require.Equal(t, root.Dev, before.Dev, "%s: find -xdev and tar --one-file-system go by this", name)
			require.NoError(t, os.Chtimes(filepath.Join(st.path, name), epoch, epoch))
			after := stat(t, st.path, name)
			require.Equal(t, before.Ino, after.Ino, "%s after copy-up", name)
			require.Equal(t, before.Dev, after.Dev, name)
		}
	})
}

func TestMetadataChangesCopyNoData(t *testing.T) {
	onEachImage(t, func(t *testing.T, s site, lowers []*os.File) {
		st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{})
		require.NoError(t, os.Chmod(filepath.Join(st.path, "big"), 0o600))
		up := stat(t, s.base, "upper", "big")
		require.Equal(t, uint32(0o600), up.Mode&0o777)
		require.LessOrEqual(t, up.Blocks, int64(8), "at most a block for the attributes")
		require.Len(t, readAll(t, filepath.Join(st.path, "big")), 4<<20)
	})
}

func TestRenamedDirectoryIsNotCopied(t *testing.T) {
	onEachImage(t, func(t *testing.T, s site, lowers []*os.File) {
		st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{})
		require.NoError(t, os.Rename(filepath.Join(st.path, "d"), filepath.Join(st.path, "moved")))
		require.NoFileExists(t, filepath.Join(s.base, "upper", "moved", "f"))
		require.Equal(t, "d/deep/g", readAll(t, filepath.Join(st.path, "moved", "deep", "g")))
	})
}

// change does to a container's root what tests of views compare.
func change(t testing.TB, root string) {
	t.Helper()
	require.NoError(t, os.Chmod(filepath.Join(root, "big"), 0o600))
	require.NoError(t, os.Rename(filepath.Join(root, "d"), filepath.Join(root, "moved")))
	require.NoError(t, os.Remove(filepath.Join(root, "moved", "f")))
	require.NoError(t, os.WriteFile(filepath.Join(root, "moved", "new"), []byte("new"), 0o644))
	require.NoError(t, os.RemoveAll(filepath.Join(root, "e")))
	require.NoError(t, os.Mkdir(filepath.Join(root, "e"), 0o700))
}

func TestMergedViewIsWhatTheContainerSees(t *testing.T) {
	onEachImage(t, func(t *testing.T, s site, lowers []*os.File) {
		st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{})
		change(t, st.path)
		want := listing(t, st.path)

		live, err := rootfs.MergedView(st.upper, lowers, rootfs.OverlayOptions{})
		require.NoError(t, err)
		defer live.Close()
		require.Equal(t, want, listing(t, sys.FDPath(live)), "while the container is mounted")
		require.ErrorIs(t, os.WriteFile(filepath.Join(sys.FDPath(live), "x"), nil, 0o644), syscall.EROFS)

		require.NoError(t, st.mount.Close())
		stopped, err := rootfs.MergedView(st.upper, lowers, rootfs.OverlayOptions{})
		require.NoError(t, err)
		defer stopped.Close()
		require.Equal(t, want, listing(t, sys.FDPath(stopped)), "after it")
	})
}

func TestCopiedStoreWorks(t *testing.T) {
	onEachImage(t, func(t *testing.T, s site, lowers []*os.File) {
		layers := layersOf(t, s)
		st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{})
		change(t, st.path)
		want := listing(t, st.path)
		require.NoError(t, st.mount.Close())

		other := newSite(t, s.driver.Name(), filepath.Join(s.base, "other"))
		for _, name := range []string{"root", "upper", "work"} {
			out, err := exec.CommandContext(t.Context(), "cp", "-a", filepath.Join(s.base, name), other.base).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
		var moved []rootfs.Layer
		for _, l := range layers {
			d := filepath.Join(other.root, "layers", filepath.Base(l.Dir))
			moved = append(moved, layerIn(d))
		}
		again := mountAll(t, other.driver, moved...)
		upper, work := openDir(t, filepath.Join(other.base, "upper")), openDir(t, filepath.Join(other.base, "work"))
		mount, err := rootfs.Overlay(again, upper, work, rootfs.OverlayOptions{})
		require.NoError(t, err)
		require.Equal(t, want, listing(t, sys.FDPath(mount)))
		require.NoError(t, os.WriteFile(filepath.Join(sys.FDPath(mount), "moved", "deep", "g"), []byte("changed"), 0o644))
		require.Equal(t, "changed", readAll(t, filepath.Join(sys.FDPath(mount), "moved", "deep", "g")))
		require.NoError(t, mount.Close())
		other.release(t, moved...)
	})
}

// layersOf finds the two layers of newImage again, the lowest first.
func layersOf(t testing.TB, s site) []rootfs.Layer {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(s.root, "layers", "*"))
	require.NoError(t, err)
	layers := make([]rootfs.Layer, 2)
	for _, d := range dirs {
		l := layerIn(d)
		if strings.Contains(readAll(t, tarPath(l)), "e/f") {
			layers[1] = l
		} else {
			layers[0] = l
		}
	}
	return layers
}

func TestUpperBeginsAsTheImagesRoot(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		root := withXattrs(dir(".", 0o1711), "user.a", "b", "trusted.overlay.opaque", "y")
		root.Uid, root.Gid = 7, 8
		l := storeLayer(t, s.root, root, file("f", 0o644))
		lowers := mountAll(t, s.driver, l)
		st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{})
		require.Equal(t, listing(t, view(t, lowers))[0], listing(t, st.path)[0])
		require.Contains(t, listing(t, st.path)[0], "7:8")
		require.Contains(t, listing(t, st.path)[0], `trusted.overlay.opaque="y" user.a="b"`)
		require.Equal(t, "f", readAll(t, filepath.Join(st.path, "f")), "and the attribute steers nothing")
		s.release(t, l)
	})
}

func TestReadOnlyWithUpper(t *testing.T) {
	s, lowers := newImage(t, rootfs.Erofs)
	st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{ReadOnly: true})
	require.ErrorIs(t, os.WriteFile(filepath.Join(st.path, "x"), nil, 0o644), syscall.EROFS)
	require.Equal(t, "d/f", readAll(t, filepath.Join(st.path, "d/f")))
}

func TestVolatileUpperIsMountedOnce(t *testing.T) {
	s, lowers := newImage(t, rootfs.Erofs)
	st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{Volatile: true})
	require.NoError(t, os.WriteFile(filepath.Join(st.path, "x"), nil, 0o644))
	require.DirExists(t, filepath.Join(s.base, "work", "work", "incompat", "volatile"))
	require.NoError(t, st.mount.Close())
	_, err := rootfs.Overlay(lowers, st.upper, st.work, rootfs.OverlayOptions{})
	require.Error(t, err)
}

func TestStackOfFewLayers(t *testing.T) {
	s, lowers := newImage(t, rootfs.Erofs)
	for _, n := range []int{0, 1, 2} {
		require.Len(t, listing(t, view(t, lowers[:n])), []int{1, 3, 8}[n], "%d layers", n)
		st := overlayOn(t, filepath.Join(s.base, fmt.Sprint(n)), lowers[:n], rootfs.OverlayOptions{})
		require.NoError(t, os.WriteFile(filepath.Join(st.path, "x"), nil, 0o644))
		require.Len(t, listing(t, st.path), []int{2, 4, 9}[n], "%d layers with an upper", n)
		require.NoError(t, st.mount.Close())
	}
}

func TestLayerLimitIsTheKernels(t *testing.T) {
	testenv.RequireRoot(t)
	base := testenv.TempDir(t)
	noLeaks(t, base)
	var lowers []*os.File
	for i := range rootfs.MaxLowers + 1 {
		lowers = append(lowers, openDir(t, filepath.Join(base, fmt.Sprint("l", i))))
	}
	most := overlayOn(t, base, lowers[:rootfs.MaxLowers], rootfs.OverlayOptions{})
	require.NoError(t, os.WriteFile(filepath.Join(most.path, "x"), nil, 0o644))
	_, err := rootfs.Overlay(lowers, nil, nil, rootfs.OverlayOptions{})
	require.ErrorIs(t, err, rootfs.ErrTooManyLayers)
	require.EqualError(t, err, "overlay of 501 layers: too many layers: the kernel stacks at most 500")
}

func TestErrorHasTheKernelsWords(t *testing.T) {
	testenv.RequireRoot(t)
	base := testenv.TempDir(t)
	require.NoError(t, os.WriteFile(filepath.Join(base, "f"), nil, 0o600))
	lower, err := os.Open(filepath.Join(base, "f"))
	require.NoError(t, err)
	defer lower.Close()
	_, err = rootfs.Overlay([]*os.File{lower, lower}, nil, nil, rootfs.OverlayOptions{})
	require.ErrorIs(t, err, syscall.EINVAL)
	require.ErrorContains(t, err, "overlay of 2 layers: "+filepath.Join(base, "f")+": overlay: lowerdir+=")
	require.ErrorContains(t, err, "is not a directory)")
}
