package engine_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/archivetest"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
	"github.com/tarnfs/tarn/store"
)

// requireSound checks a store, to the last byte.
func requireSound(t *testing.T, e *engine.Engine) {
	t.Helper()
	checked, err := e.Check(t.Context(), engine.CheckOptions{Deep: true})
	require.NoError(t, err)
	for _, f := range checked.Faults {
		t.Errorf("%s %s %s (%s): %v; needed by %q", f.Kind, f.ID, f.Part, f.Path, f.Err, checked.Users(f))
	}
	if t.Failed() {
		t.FailNow()
	}
}

// richStore makes a store with some of everything: layers that lend, borrow, and borrow from themselves, in
// place and packed, and from what is left of one that was removed; compressed layers, kept and made again;
// an entry that is no image; containers and a volume.
func richStore(t *testing.T) *host { return richStoreOf(t, rootfs.Erofs) }

func richStoreOf(t *testing.T, driver string) *host {
	t.Helper()
	h := newHost(t, driver)
	hoard := &hoard{t: t, Engine: h.Engine, tars: map[string][]byte{}, images: map[string]image.Digest{}}
	hoard.put("gone", rootTar(t, append(files(40, 52), content(900, 100_000))...))
	hoard.put("a", rootTar(t, files(0, 20)...))
	hoard.put("packed", rootTar(t, append(files(0, 17), files(100, 102)...)...))
	hoard.put("in-place", rootTar(t, append(append(files(200, 240), files(200, 204)...), files(3, 7)...)...))
	hoard.put("heir", rootTar(t, append(files(45, 50), content(900, 100_000))...))
	hoard.remove("gone")
	require.NotEmpty(t, hoard.remnants())

	images := threeImages(t)
	load(t, h.Engine, writeFile(t, "archive.tar", archivetest.Layout(images, threeNames()...).Tar(t)))
	_, err := h.Compact(t.Context(), nil)
	require.NoError(t, err)

	h.importFile("box", testenv.BusyboxTar(t))
	h.run("box", "worker", "cp /bin/busybox /copy; echo hello > /v/hello", func(o *engine.RunOptions) { o.Volumes = []string{"vol:/v"} })
	h.commit("worker", engine.CommitOptions{Name: "copied"})

	lock, err := h.Store.Shared(t.Context())
	require.NoError(t, err)
	img, err := h.Image("a")
	require.NoError(t, err)
	require.NoError(t, h.Store.SetEntry(lock, store.Entry{Repository: "docker.io/library/a", Manifest: img.Manifest, Created: time.Now().UTC()}))
	require.NoError(t, lock.Unlock())
	requireSound(t, h.Engine)
	return h
}

// copyStore copies a store as a user would, to another place.
func copyStore(t *testing.T, from *engine.Engine, to string) *engine.Engine {
	t.Helper()
	require.NoError(t, os.RemoveAll(to))
	out, err := exec.CommandContext(t.Context(), "cp", "-a", from.Store.Root(), to).CombinedOutput()
	require.NoError(t, err, "%s", out)
	e, err := engine.Open(engine.Options{Root: to, Run: from.Store.Run(), Driver: rootfs.Erofs})
	require.NoError(t, err)
	return e
}

// target is a file of a store whose every byte counts, or those of it that do.
type target struct {
	path   string // below the root
	size   int64
	counts func(offset int64) bool
}

// targets lists the files that a check answers for. What containers wrote is theirs alone to know.
func targets(t *testing.T, e *engine.Engine) []target {
	t.Helper()
	root := e.Store.Root()
	lent := lentBlocks(t, e)
	var list []target
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "upper" || d.Name() == "work" || name == "volumes") {
			return fs.SkipDir
		}
		info, err := d.Info()
		theirs := strings.HasPrefix(name, "containers/") && filepath.Ext(name) != ".json" // /etc/hosts and the like
		if err != nil || !d.Type().IsRegular() || info.Size() == 0 || name == "version" || theirs {
			return err
		}
		one := target{path: name, size: info.Size(), counts: func(int64) bool { return true }}
		if strings.HasPrefix(name, "remnants/") && d.Name() != "holes" {
			blocks := lent[filepath.Base(filepath.Dir(name))]
			one.counts = func(offset int64) bool { return blocks[offset/holes.BlockSize] }
		}
		list = append(list, one)
		return nil
	})
	require.NoError(t, err)
	return list
}

// lentBlocks gives the blocks of each remnant's file that some layer borrows.
func lentBlocks(t *testing.T, e *engine.Engine) map[string]map[int64]bool {
	t.Helper()
	lent := make(map[string]map[int64]bool)
	layers, err := e.Store.Layers()
	require.NoError(t, err)
	for _, l := range layers {
		m, err := l.Holes()
		require.NoError(t, err)
		for _, r := range m.Ranges {
			if r.Device == 0 {
				continue
			}
			id := m.Lenders[r.Device-1]
			name := fmt.Sprintf("%x.%d", id.DiffID, id.Generation)
			if lent[name] == nil {
				lent[name] = make(map[int64]bool)
			}
			for block := range r.Count {
				lent[name][int64(r.At+block)] = true
			}
		}
	}
	return lent
}

// damage flips bits in a file, or cuts it short, and says what it did, and whether that was a single bit.
func (g target) damage(t *testing.T, r *rand.Rand, root string) (what string, single bool) {
	t.Helper()
	path := filepath.Join(root, g.path)
	if r.IntN(4) == 0 {
		size := r.Int64N(g.size)
		if strings.HasSuffix(path, "state.json") && size == 0 {
			size = 1 // an empty one is what a power cut may leave
		}
		require.NoError(t, os.Truncate(path, size))
		return fmt.Sprintf("%s cut to %d of %d bytes", g.path, size, g.size), false
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	var where []int64
	for range 1 + r.IntN(2)*r.IntN(3) {
		at := r.Int64N(g.size)
		for !g.counts(at) {
			at = r.Int64N(g.size)
		}
		if slices.Contains(where, at) {
			continue // the same bit again would mend it
		}
		var b [1]byte
		_, err := f.ReadAt(b[:], at)
		require.NoError(t, err)
		b[0] ^= 1 << r.IntN(8)
		_, err = f.WriteAt(b[:], at)
		require.NoError(t, err)
		where = append(where, at)
	}
	return fmt.Sprintf("%s with bits flipped at %v of %d", g.path, where, g.size), len(where) == 1
}

// damageCases is how many times something is damaged: TARN_DAMAGE_CASES, or few.
func damageCases(t *testing.T) int {
	t.Helper()
	text := os.Getenv("TARN_DAMAGE_CASES")
	if text == "" {
		return 60
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// TestDamageIsFoundAndMended: whatever file of a store is damaged, check --deep says so, and repair mends it from
// an archive of the images; what is only here, and cannot be told from its seal, it says it cannot.
func TestDamageIsFoundAndMended(t *testing.T) {
	pristine := richStore(t)
	archive := filepath.Join(testenv.TempDir(t), "saved.tar")
	require.NoError(t, pristine.Save(t.Context(), engine.SaveOptions{Images: everyImage(t, pristine.Engine), Output: archive}))
	place := filepath.Join(testenv.TempDir(t), "copy")
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TARN_DAMAGE_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("TARN_DAMAGE_SEED=%d", seed)
	files := targets(t, pristine.Engine)
	r := rand.New(rand.NewPCG(seed, 1))
	mended := 0
	for range damageCases(t) {
		e := copyStore(t, pristine.Engine, place)
		what, single := files[r.IntN(len(files))].damage(t, r, place)
		checked, err := e.Check(t.Context(), engine.CheckOptions{Deep: true})
		require.NoError(t, err, what)
		require.NotEmpty(t, checked.Faults, "not found: "+what)
		repaired, err := e.Repair(t.Context(), engine.RepairOptions{From: []string{archive}, Offline: true})
		require.NoError(t, err, what)
		if len(repaired.Left) == 0 {
			require.NotEmpty(t, repaired.Mended, what)
			requireSound(t, e)
			mended++
			continue
		}
		require.False(t, single, what)
		onlyHere := strings.HasPrefix(what, "entries/") || strings.Contains(what, "/config.json ")
		require.True(t, onlyHere, "%s: %+v", what, repaired.Left)
		require.ErrorIs(t, repaired.Left[0].Why, store.ErrNoSource, what)
	}
	t.Logf("%d of %d mended", mended, damageCases(t))
}

// everyImage names all images, those without a name by their ID.
func everyImage(t *testing.T, e *engine.Engine) []string {
	t.Helper()
	var names []string
	for _, record := range records(t, e) {
		if record.Name == "" {
			names = append(names, string(record.ID))
		} else {
			names = append(names, record.Name)
		}
	}
	return names
}
