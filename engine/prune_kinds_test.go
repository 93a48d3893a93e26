package engine_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/rootfs"
	"github.com/tarnfs/tarn/store"
)

// TestPruneFreesWhatItSaid of each kind of thing that may go, with both drivers.
func TestPruneFreesWhatItSaid(t *testing.T) {
	for _, driver := range []string{rootfs.Erofs, rootfs.Dirs} {
		t.Run(driver, func(t *testing.T) {
			h := richStoreOf(t, driver)
			t.Run("shown", func(t *testing.T) { (&host{h.Engine, t}).pruneShown() })
			t.Run("leftovers", func(t *testing.T) { (&host{h.Engine, t}).pruneLeftovers() })
			t.Run("volumes", func(t *testing.T) { (&host{h.Engine, t}).pruneVolumes() })
			t.Run("everything", func(t *testing.T) { (&host{h.Engine, t}).pruneEverything() })
		})
	}
}

// pruneShown: of images that were removed while they were shown, and what these borrow, nothing goes before that ends.
func (h *host) pruneShown() {
	const lender, borrower = "a", "packed"
	ids, want, dirs := map[string]image.Digest{}, map[string]map[string]*treecmp.Entry{}, map[string]string{}
	for _, name := range []string{lender, borrower} {
		img, err := h.Image(name)
		require.NoError(h.t, err)
		ids[name], dirs[name] = img.ID, h.mounted(string(img.ID)) // "a" may be the beginning of a container's ID
		want[name], err = treecmp.Read(dirs[name], treecmp.Options{})
		require.NoError(h.t, err)
	}
	for name := range ids {
		_, err := h.RemoveImage(h.t.Context(), name, engine.RemoveImageOptions{Force: true})
		require.NoError(h.t, err)
	}
	requirePruned(h.t, h.Engine, engine.PruneFilter{})
	for name := range ids {
		forget(h.t, dirs[name])
		got, err := treecmp.Read(dirs[name], treecmp.Options{})
		require.NoError(h.t, err)
		require.Empty(h.t, treecmp.DiffEntries(want[name], got))
	}
	h.umount(string(ids[lender]))
	pruned := requirePruned(h.t, h.Engine, engine.PruneFilter{})
	require.Len(h.t, pruned.Losses, 1)
	require.True(h.t, pruned.Losses[0].Lent, "of the lender stays what the other one shows")
	h.umount(string(ids[borrower]))
	requirePruned(h.t, h.Engine, engine.PruneFilter{})
	for _, gone := range ids {
		_, err := h.Image(string(gone))
		require.ErrorIs(h.t, err, engine.ErrNoImage)
	}
}

// pruneLeftovers: what commands that were killed, and power cuts, may leave.
func (h *host) pruneLeftovers() {
	root := h.Store.Root()
	write := func(size int, elem ...string) string {
		path := filepath.Join(append([]string{root}, elem...)...)
		require.NoError(h.t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(h.t, os.WriteFile(path, make([]byte, size), 0o600))
		return path
	}
	write(30_000, "tmp", ".tmp-dead", "layer.tar")
	write(50_000, "containers", "0123456789abcdef", "upper", "file")
	write(0, "containers", "0123456789abcdef", "config.json")
	old := write(90_000, "partial", "sha256-"+image.DigestBytes([]byte("old")).Hex())
	weekAgo := time.Now().Add(-8 * 24 * time.Hour)
	require.NoError(h.t, os.Chtimes(old, weekAgo, weekAgo))
	young := write(90_000, "partial", "sha256-"+image.DigestBytes([]byte("young")).Hex())

	// An image took this name from it, and was killed before it was removed.
	img, err := h.Image("box")
	require.NoError(h.t, err)
	lock, err := h.Store.Shared(h.t.Context())
	require.NoError(h.t, err)
	require.NoError(h.t, h.Store.SetEntry(lock, store.Entry{Repository: "docker.io/library/past", Tag: "latest", Manifest: img.Manifest, Created: weekAgo}))
	past, err := filepath.Glob(filepath.Join(root, "entries", "*.json"))
	require.NoError(h.t, err)
	records := map[string][]byte{}
	for _, path := range past {
		records[path], err = os.ReadFile(path)
		require.NoError(h.t, err)
	}
	require.NoError(h.t, lock.Unlock())
	require.NoError(h.t, h.Tag(h.t.Context(), "box", "past"))
	for path, record := range records {
		require.NoError(h.t, os.WriteFile(path, record, 0o600))
	}

	pruned := requirePruned(h.t, h.Engine, engine.PruneFilter{Until: time.Now().Add(-30 * 24 * time.Hour)})
	require.Greater(h.t, pruned.Bytes(), int64(170_000))
	h.requireKinds(pruned, store.KindFile, store.KindContainer, store.KindPartial, store.KindEntry)
	require.NoFileExists(h.t, old, "it goes with the next command, whatever the filter")
	require.FileExists(h.t, young)
	pruned = requirePruned(h.t, h.Engine, engine.PruneFilter{})
	require.Greater(h.t, pruned.Bytes(), int64(90_000))
	_, err = h.RemoveImage(h.t.Context(), "past", engine.RemoveImageOptions{})
	require.NoError(h.t, err)
}

// pruneVolumes with and without names.
func (h *host) pruneVolumes() {
	h.run("box", "scratch", "head -c 300000 /bin/busybox > /scratch/x", func(o *engine.RunOptions) { o.Volumes = []string{"/scratch", "named:/named"} })
	require.NoError(h.t, h.RemoveContainer(h.t.Context(), "scratch", engine.RemoveOptions{}))
	for _, all := range []bool{false, true} {
		filter := engine.VolumeFilter{All: all}
		before := du(h.t, h.Engine)
		plan, err := h.PlanPruneVolumes(h.t.Context(), filter)
		require.NoError(h.t, err)
		require.Len(h.t, plan, 1)
		names, freed, err := h.PruneVolumes(h.t.Context(), filter)
		require.NoError(h.t, err)
		require.Equal(h.t, []string{plan[0].ID}, names)
		require.Equal(h.t, plan[0].Bytes, freed)
		require.Equal(h.t, before-du(h.t, h.Engine), freed)
	}
	volumes, err := h.Volumes(h.t.Context(), engine.VolumeFilter{})
	require.NoError(h.t, err)
	require.Len(h.t, volumes, 1, "the one of a container")
}

// pruneEverything: containers, images, what these lent to others that go with them, compressed forms and recipes.
func (h *host) pruneEverything() {
	before := du(h.t, h.Engine)
	plan, err := h.PlanPruneContainers(h.t.Context(), engine.PruneFilter{})
	require.NoError(h.t, err)
	ids, freed, err := h.PruneContainers(h.t.Context(), engine.PruneFilter{})
	require.NoError(h.t, err)
	require.Len(h.t, ids, len(plan))
	require.NotEmpty(h.t, ids)
	require.Equal(h.t, (&engine.Pruned{Losses: plan}).Bytes(), freed)
	require.Equal(h.t, before-du(h.t, h.Engine), freed)
	h.requireKinds(requirePruned(h.t, h.Engine, engine.PruneFilter{All: true}), store.KindImage, store.KindLayer, store.KindRemnant, store.KindBlob, store.KindInit, store.KindRecipe)
	for _, dir := range []string{"images", "entries", "layers", "remnants", "init", "recipes", "tmp"} {
		requireEmpty(h.t, h.Engine, dir)
	}
}

func (h *host) requireKinds(pruned *engine.Pruned, kinds ...store.Kind) {
	h.t.Helper()
	for _, kind := range kinds {
		there := slices.ContainsFunc(pruned.Losses, func(l engine.Lost) bool { return l.Kind == string(kind) })
		require.True(h.t, there, "%s: %+v", kind, pruned)
	}
}
