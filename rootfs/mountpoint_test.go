package rootfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

func TestMountAtAndUnmount(t *testing.T) {
	s, lowers := newImage(t, rootfs.Erofs)
	point := filepath.Join(s.run, "mounts", "an-image")

	there, err := rootfs.Mounted(point)
	require.NoError(t, err)
	require.False(t, there)
	require.ErrorIs(t, rootfs.Unmount(point), rootfs.ErrNotMounted)

	mount := viewMount(t, lowers)
	require.NoError(t, rootfs.MountAt(t.Context(), mount, point))
	require.NoError(t, mount.Close())
	there, err = rootfs.Mounted(point)
	require.NoError(t, err)
	require.True(t, there)
	require.Equal(t, "d/f", readAll(t, filepath.Join(point, "d/f")))
	require.ErrorIs(t, rootfs.MountAt(t.Context(), viewMount(t, lowers), point), rootfs.ErrMounted)

	open, err := os.Open(filepath.Join(point, "d/f"))
	require.NoError(t, err)
	require.ErrorIs(t, rootfs.Unmount(point), rootfs.ErrBusy)
	require.NoError(t, open.Close())
	require.NoError(t, rootfs.Unmount(point))
	require.NoDirExists(t, point)
	require.ErrorIs(t, rootfs.Unmount(point), rootfs.ErrNotMounted)
}

func TestMountAtRefusesSymlink(t *testing.T) {
	s, lowers := newImage(t, rootfs.Erofs)
	elsewhere := filepath.Join(s.base, "elsewhere")
	require.NoError(t, os.Mkdir(elsewhere, 0o755))
	point := filepath.Join(s.run, "mounts", "x")
	require.NoError(t, os.MkdirAll(filepath.Dir(point), 0o755))
	require.NoError(t, os.Symlink(elsewhere, point))
	require.Error(t, rootfs.MountAt(t.Context(), viewMount(t, lowers), point))
	require.Empty(t, mountsBelow(t, elsewhere))
}

func TestMountAtSamePlaceAtOnce(t *testing.T) {
	s, lowers := newImage(t, rootfs.Erofs)
	point := filepath.Join(s.run, "mounts", "x")
	var won, lost atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		mount := viewMount(t, lowers)
		wg.Go(func() {
			err := rootfs.MountAt(t.Context(), mount, point)
			if err == nil {
				won.Add(1)
			} else if errors.Is(err, rootfs.ErrMounted) {
				lost.Add(1)
			}
		})
	}
	wg.Wait()
	require.Equal(t, int32(1), won.Load())
	require.Equal(t, int32(7), lost.Load())
	// The losers' mounts are closed by the test's end; the winner's is the one at point.
	t.Cleanup(func() { require.NoError(t, sys.Detach(point)) })
}

func TestLiveRoot(t *testing.T) {
	onEachImage(t, func(t *testing.T, s site, lowers []*os.File) {
		namespace := readLink(t, "/proc/self/ns/mnt")
		st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{})
		inside := filepath.Join(s.base, "inside")
		require.NoError(t, rootfs.MountAt(t.Context(), st.mount, inside))
		pid := startContainer(t, inside)
		require.NoError(t, st.mount.Close())
		require.NoError(t, rootfs.Unmount(inside))

		live, err := rootfs.LiveRoot(pid)
		require.NoError(t, err)
		outside := filepath.Join(s.run, "containers", "id", "merged")
		require.NoError(t, rootfs.MountAt(t.Context(), live, outside))
		require.NoError(t, live.Close())
		require.Equal(t, "d/f", readAll(t, filepath.Join(outside, "d/f")))
		require.NoError(t, os.WriteFile(filepath.Join(outside, "from-outside"), []byte("hello"), 0o644))
		require.Equal(t, "hello", readAll(t, filepath.Join(s.base, "upper", "from-outside")), "it is the container's own overlay")
		require.Empty(t, mountsBelow(t, outside), "what is mounted in the container stays there")
		require.NoError(t, rootfs.Unmount(outside))

		// This process is where it was, on whatever thread the work was done.
		for range 100 {
			live, err := rootfs.LiveRoot(pid)
			require.NoError(t, err)
			require.NoError(t, live.Close())
			require.Equal(t, namespace, readLink(t, "/proc/self/ns/mnt"))
		}
	})
}

func readLink(t *testing.T, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	require.NoError(t, err)
	return target
}

func TestLiveRootOfDeadProcess(t *testing.T) {
	testenv.RequireRoot(t)
	_, err := rootfs.LiveRoot(1 << 22)
	require.Error(t, err)
	require.ErrorIs(t, err, os.ErrProcessDone)
}
