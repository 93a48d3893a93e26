package rootfs_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/rootfs"
)

// owner is who a file belongs to.
func owner(t *testing.T, dir *os.File, name string) [2]uint32 {
	t.Helper()
	f, err := sys.OpenInRoot(dir, name, sys.OpenNoFollow)
	require.NoError(t, err)
	defer f.Close()
	st, err := sys.StatFile(f)
	require.NoError(t, err)
	return [2]uint32{st.UID, st.GID}
}

// Layers are shown to a user namespace as its own, whatever was said of them on the disk; what is written
// through the overlay has, on the disk, the owners that it has in the namespace.
func TestOwners(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		other := file("home/other", 0o600)
		other.Uid, other.Gid = 1000, 2000
		l := storeLayer(t, s.root, dir("home", 0o755), file("home/root", 0o644), other)
		defer s.release(t, l)
		lower := mountAll(t, s.driver, l)[0]
		base := filepath.Join(s.base, "c")
		for _, d := range []string{"upper", "work"} {
			require.NoError(t, os.MkdirAll(filepath.Join(base, d), 0o755))
		}
		h, err := sys.HoldNamespaces(0, nil, "0 700000 65536\n", "0 800000 65536\n", "")
		require.NoError(t, err)
		defer h.Close()
		users, err := h.Open(sys.NewUser)
		require.NoError(t, err)
		defer users.Close()
		owners := &rootfs.Owners{Users: users, UID: 700000, GID: 800000}
		defer owners.Close()
		mappedLower, err := owners.Map(lower)
		require.NoError(t, err)
		opened, err := sys.OpenPath(base)
		require.NoError(t, err)
		defer opened.Close()
		mappedBase, err := owners.Map(opened)
		require.NoError(t, err)
		upper, err := sys.OpenEntry(mappedBase, "upper", sys.OpenDirectory)
		require.NoError(t, err)
		defer upper.Close()
		work, err := sys.OpenEntry(mappedBase, "work", sys.OpenDirectory)
		require.NoError(t, err)
		defer work.Close()
		merged, err := rootfs.Overlay([]*os.File{mappedLower}, upper, work, rootfs.OverlayOptions{Run: s.run, Owners: owners})
		require.NoError(t, err)
		defer merged.Close()

		require.Equal(t, [2]uint32{700000, 800000}, owner(t, merged, "/home/root"))
		require.Equal(t, [2]uint32{701000, 802000}, owner(t, merged, "/home/other"))
		// Written to by the namespace's root.
		asUser(t, 700000, 800000, func() error {
			return os.WriteFile(filepath.Join(sys.FDPath(merged), "home/new"), nil, 0o600)
		})
		asUser(t, 700000, 800000, func() error {
			return os.WriteFile(filepath.Join(sys.FDPath(merged), "home/root"), []byte("changed"), 0o600)
		})
		require.NoError(t, os.Chown(filepath.Join(sys.FDPath(merged), "home/other"), 700005, 800006))
		for name, want := range map[string][2]uint32{"home/new": {0, 0}, "home/root": {0, 0}, "home/other": {5, 6}} {
			var st syscall.Stat_t
			require.NoError(t, syscall.Stat(filepath.Join(base, "upper", name), &st))
			require.Equal(t, want, [2]uint32{st.Uid, st.Gid}, name)
		}
		require.Error(t, os.Chown(filepath.Join(sys.FDPath(merged), "home/new"), 0, 0), "the host's root has no number there")
	})
}

func asUser(t *testing.T, uid, gid uint32, do func() error) {
	t.Helper()
	done := make(chan error)
	sys.OnOwnThread(func() {
		err := sys.Unshare(sys.NewMount)
		if err == nil {
			err = sys.BeRootOf(uid, gid)
		}
		if err == nil {
			err = do()
		}
		done <- err
	})
	require.NoError(t, <-done)
}
