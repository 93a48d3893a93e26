package engine_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	at "github.com/tarnfs/tarn/internal/archivetest"
	"github.com/tarnfs/tarn/internal/diskusage"
	"github.com/tarnfs/tarn/rootfs"
)

func requireUsageIsDu(t *testing.T, e *engine.Engine) {
	t.Helper()
	want := du(t, e)
	usage, err := e.DiskUsage(t.Context())
	require.NoError(t, err)
	var sum int64
	for _, u := range usage {
		require.GreaterOrEqual(t, u.Size, int64(0), u.Type)
		require.LessOrEqual(t, u.Reclaimable, u.Size, u.Type)
		sum += u.Size
	}
	require.InEpsilon(t, want, sum, 0.01, "%+v", usage)
}

// TestUsageIsWhatDuSays: of a store with some of everything, kinds together are what du says, and what is listed of a
// kind is together what is said of it.
func TestUsageIsWhatDuSays(t *testing.T) {
	for _, driver := range []string{rootfs.Erofs, rootfs.Dirs} {
		t.Run(driver, func(t *testing.T) { requireUsageOfEverything(t, richStoreOf(t, driver)) })
	}
}

func requireUsageOfEverything(t *testing.T, h *host) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(h.Store.Root(), "partial"), 0o700))
	begun := filepath.Join(h.Store.Root(), "partial", "sha256-"+image.DigestBytes([]byte("begun")).Hex())
	require.NoError(t, os.WriteFile(begun, make([]byte, 200_000), 0o600))
	kept := map[string]at.Image{"docker.io/library/kept:1": at.NewImage("kept", gzLayer(t, layerTar(t, 5, 200_000)))}
	load(t, h.Engine, writeFile(t, "kept.tar", at.Layout(kept, "docker.io/library/kept:1").Tar(t)))
	requireUsageIsDu(t, h.Engine)
	requireListsAddUp(t, h.Engine)
	images, err := h.ImageUsage(t.Context())
	require.NoError(t, err)
	byName := map[string]*engine.ImageUsage{}
	for _, img := range images {
		require.Equal(t, img.OnDisk, img.Shared+img.Unique)
		for _, name := range img.Names {
			byName[name] = img
		}
		for _, s := range img.SharedWith {
			require.LessOrEqual(t, s.Size, img.Shared)
			back := int64(0)
			for _, other := range s.Image.SharedWith {
				if other.Image == img {
					back = other.Size
				}
			}
			require.Equal(t, s.Size, back)
		}
	}
	packed, a := byName["packed:latest"], byName["a:latest"]
	require.Equal(t, a, packed.SharedWith[0].Image)
	require.Greater(t, packed.Shared, packed.Size/2)
	require.Less(t, packed.Unique, packed.Size/2)
	require.Empty(t, byName["heir:latest"].SharedWith, "the one that lent is gone")
	require.Greater(t, byName["heir:latest"].Unique, int64(200_000))
	require.Equal(t, 1, byName["box:latest"].Containers)

	_, err = h.Prune(t.Context(), engine.PruneFilter{All: true}, engine.PruneReport{})
	require.NoError(t, err)
	requireUsageIsDu(t, h.Engine)
	requireSound(t, h.Engine)
}

// requireListsAddUp holds the lists of "df -v" against the totals.
func requireListsAddUp(t *testing.T, e *engine.Engine) {
	t.Helper()
	totals := map[string]int64{}
	usage, err := e.DiskUsage(t.Context())
	require.NoError(t, err)
	for _, u := range usage {
		require.NotZero(t, u.Size, u.Type)
		totals[u.Type] = u.Size
	}
	var sum int64
	containers, err := e.Containers(t.Context(), engine.ContainerFilter{All: true})
	require.NoError(t, err)
	for _, c := range containers {
		bytes, err := e.ContainerDisk(t.Context(), c)
		require.NoError(t, err)
		sum += bytes
	}
	require.Equal(t, totals["Containers"], sum)
	sum = 0
	volumes, err := e.VolumeUsage(t.Context())
	require.NoError(t, err)
	for _, v := range volumes {
		sum += v.Size
	}
	require.Equal(t, totals["Local Volumes"], sum)
}

// TestImagesAddUp: where nothing is shared by more than two images, what each has alone and what each two share is
// together what layers, manifests and configs take; of layers also what is left of a removed one.
func TestImagesAddUp(t *testing.T) {
	eachDriver(t, func(t *testing.T, h *hoard) {
		h.put("gone", rootTar(t, files(300, 330)...))
		h.put("a", rootTar(t, append(files(0, 40), files(300, 305)...)...))
		h.put("b", rootTar(t, append(files(30, 40), files(100, 130)...)...))
		h.put("c", rootTar(t, append(files(120, 130), append(files(200, 240), files(310, 315)...)...)...))
		h.remove("gone")
		require.NotEmpty(t, h.remnants())
		for _, name := range []string{"a", "b", "c"} {
			h.mounted(name) // the dirs driver extracts it
		}
		du(t, h.Engine) // has the disk decide where all is
		images, err := h.ImageUsage(t.Context())
		require.NoError(t, err)
		require.Len(t, images, 3)
		var sum, shared int64
		for _, img := range images {
			sum += img.Unique
			for _, with := range img.SharedWith {
				shared += with.Size // each from both sides
			}
		}
		require.Greater(t, shared, int64(2*200_000))
		require.Equal(t, h.taken("layers")+h.taken("remnants")+h.taken("blobs/sha256"), sum+shared/2)
	})
}

// taken gives what is below a directory takes on the disk, without that itself.
func (h *hoard) taken(dir string) (bytes int64) {
	h.t.Helper()
	entries, err := fs.ReadDir(os.DirFS(h.Store.Root()), dir)
	require.NoError(h.t, err)
	for _, entry := range entries {
		n, err := diskusage.Of(h.t.Context(), filepath.Join(h.Store.Root(), dir, entry.Name()))
		require.NoError(h.t, err)
		bytes += n
	}
	return bytes
}
