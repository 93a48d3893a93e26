package engine_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
)

// sweep removes an image of no worth, so that what is left over is looked at again.
func (h *hoard) sweep() {
	h.t.Helper()
	h.put("nothing", rootTar(h.t))
	h.remove("nothing")
}

func (h *hoard) remnants() []string {
	h.t.Helper()
	list, err := filepath.Glob(filepath.Join(h.Store.Root(), "remnants", "*"))
	require.NoError(h.t, err)
	return list
}

func permutations(names []string) [][]string {
	if len(names) == 0 {
		return [][]string{nil}
	}
	var all [][]string
	for i, name := range names {
		rest := append(append([]string{}, names[:i]...), names[i+1:]...)
		for _, p := range permutations(rest) {
			all = append(all, append([]string{name}, p...))
		}
	}
	return all
}

// TestLendersGoInEveryOrder: a, b and c borrow from each other, little and itself from all.
func TestLendersGoInEveryOrder(t *testing.T) {
	tars := map[string][]byte{
		"a":      rootTar(t, files(0, 40)...),
		"b":      rootTar(t, append(files(20, 40), files(100, 120)...)...),
		"c":      rootTar(t, append(append(files(10, 30), files(110, 130)...), files(500, 502)...)...),
		"little": rootTar(t, append(append(files(700, 760), files(700, 705)...), content(5, 3000+5*7919%50_000), content(115, 3000+115*7919%50_000))...),
	}
	for _, order := range permutations([]string{"a", "b", "c", "little"}) {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			h := newHoard(t, engine.Options{})
			for _, name := range []string{"a", "b", "c", "little"} {
				h.put(name, tars[name])
			}
			for _, name := range order {
				h.remove(name)
				for left := range h.tars {
					h.whole(left)
				}
			}
			require.Empty(t, h.remnants())
			requireEmpty(t, h.Engine, "layers")
			requireEmpty(t, h.Engine, "tmp")
		})
	}
}

func TestRemnantIsWhatIsLent(t *testing.T) {
	eachDriver(t, func(t *testing.T, h *hoard) {
		lent := []string{content(1, 1_000_000), content(2, 300_001)}
		h.put("a", rootTar(t, append(files(10, 60), lent...)...))
		h.put("b", rootTar(t, append(lent, files(200, 210)...)...))
		h.mounted("a")
		h.mounted("b")
		require.GreaterOrEqual(t, h.borrowed("b"), int64(1_300_000))
		h.remove("a")
		require.Len(t, h.remnants(), 1)
		left := h.disk("remnants")
		require.GreaterOrEqual(t, left, int64(1_300_000))
		require.Less(t, left, int64(1_330_000))
		h.whole("b")
		h.mounted("b")

		h.put("c", rootTar(t, content(2, 300_001), content(3, 100_000)))
		require.GreaterOrEqual(t, h.borrowed("c"), int64(300_000), "from what is left of a")
		h.remove("b")
		left = h.disk("remnants")
		require.GreaterOrEqual(t, left, int64(300_000))
		require.Less(t, left, int64(330_000))
		h.whole("c")
		h.mounted("c")
		h.remove("c")
		require.Empty(t, h.remnants())
	})
}

// TestLayerComesAgain while others still borrow from what was left of it.
func TestLayerComesAgain(t *testing.T) {
	h := newHoard(t, engine.Options{})
	a := rootTar(t, files(0, 60)...)
	h.put("a", a)
	h.put("b", rootTar(t, append(files(0, 20), files(100, 110)...)...))
	for range 3 {
		h.remove("a")
		h.whole("b")
		h.put("a", a)
		require.Greater(t, h.borrowed("a"), int64(100_000), "from what is left of itself")
		require.Less(t, h.borrowed("a"), int64(len(a))*2/3)
		h.whole("b")
	}
	h.put("c", rootTar(t, append(files(10, 60), files(110, 120)...)...)) // of both
	h.mounted("a")
	h.mounted("c")
	require.Len(t, h.remnants(), 1)
	h.remove("a")
	require.Len(t, h.remnants(), 2)
	h.whole("c")
	h.put("a", a)
	h.remove("b")
	h.mounted("c")
	h.mounted("a")
	h.remove("c")
	h.whole("a")
	h.mounted("a")
	h.remove("a")
	require.Empty(t, h.remnants())
	requireEmpty(t, h.Engine, "layers")
}

// TestCondemnedLenders are not renamed when they are removed, as if there were no room for that.
func TestCondemnedLenders(t *testing.T) {
	h := newHoard(t, engine.Options{})
	condemn := func(name string) string {
		dir := filepath.Join(h.Store.Root(), "layers", image.DigestBytes(h.tars[name]).Hex())
		require.NoError(t, os.Chmod(dir, 0o700|os.ModeSticky))
		return dir
	}
	a := rootTar(t, files(0, 60)...)
	h.put("a", a)
	h.put("b", rootTar(t, append(files(0, 20), files(100, 110)...)...))
	h.put("c", rootTar(t, append(files(20, 40), files(110, 120)...)...))
	dir := condemn("a")
	h.whole("b")
	h.put("a", a) // and is not there any more where it was
	require.Equal(t, []string{filepath.Join(h.Store.Root(), "remnants", filepath.Base(dir)+".0")}, h.remnants())
	require.Greater(t, h.borrowed("a"), int64(100_000), "from what is left of itself")
	h.whole("a") // which is not to be mounted: a layer that is removed would be unmounted before
	for _, name := range []string{"b", "c"} {
		h.whole(name)
		h.mounted(name)
	}
	h.put("d", rootTar(t, append(files(45, 60), files(120, 130)...)...)) // of the new a, too
	lock, err := h.Store.Exclusive(t.Context())
	require.NoError(t, err)
	records, err := h.Store.Records()
	require.NoError(t, err)
	for _, record := range records {
		if record.Name == "" || record.ID == h.images["a"] { // both imports
			require.NoError(t, h.Store.RemoveImage(lock, record))
		}
	}
	require.NoError(t, lock.Unlock())
	dir = condemn("a")
	h.whole("d")
	h.sweep()
	require.NoDirExists(t, dir, "there was room")
	for _, name := range []string{"b", "c", "d"} {
		h.whole(name)
		h.mounted(name)
		h.remove(name)
	}
	require.Empty(t, h.remnants())
	requireEmpty(t, h.Engine, "layers")
	requireEmpty(t, h.Engine, "tmp")
}

// TestMountedLayersStay: a removed layer that is still mounted somewhere is not touched, nor what it
// borrows, until the mount is gone.
func TestMountedLayersStay(t *testing.T) {
	testenv.RequireErofsFile(t)
	h := newHoard(t, engine.Options{Driver: "erofs"})
	h.put("a", rootTar(t, files(0, 60)...))
	h.put("b", rootTar(t, append(files(20, 60), files(100, 120)...)...))
	h.put("c", rootTar(t, append(files(30, 40), files(300, 360)...)...))
	want := map[string]string{}
	dirs := map[string]string{}
	for _, name := range []string{"a", "b"} {
		want[name] = h.want(name)
		dir, err := h.Mount(t.Context(), name)
		require.NoError(t, err)
		dirs[name] = dir
	}
	// As if they were mounted where tarn cannot see them: in a namespace of its own, of which only the kernel knows.
	require.NoError(t, os.RemoveAll(filepath.Join(h.Store.Run(), "shown")))
	look := func(names ...string) {
		t.Helper()
		for _, name := range names {
			forget(t, dirs[name])
			treecmp.Equal(t, want[name], dirs[name], exceptRoot())
		}
	}
	h.remove("a") // a lender, seen by a mount of its own and by b's
	look("a", "b")
	h.remove("b") // a borrower
	look("a", "b")
	h.sweep()
	look("a", "b")
	require.Len(t, h.remnants(), 2)
	h.whole("c")

	require.NoError(t, h.Umount(t.Context(), string(h.images["a"])))
	h.sweep()
	look("b")
	require.Len(t, h.remnants(), 2)
	require.Less(t, h.disk("remnants"), int64(len(rootTar(t, append(files(20, 60), files(100, 120)...)...)))+100_000)

	require.NoError(t, h.Umount(t.Context(), string(h.images["b"])))
	h.sweep()
	require.Len(t, h.remnants(), 1, "c borrows")
	h.whole("c")
	h.mounted("c")
	h.remove("c")
	require.Empty(t, h.remnants())
}

// TestDetachedOverlayKeepsItsLayers: of a mount that is in no namespace any more, only the kernel knows.
func TestDetachedOverlayKeepsItsLayers(t *testing.T) {
	testenv.RequireErofsFile(t)
	h := newHoard(t, engine.Options{Driver: "erofs"})
	h.put("a", rootTar(t, files(0, 60)...))
	h.put("b", rootTar(t, files(20, 60)...))
	want := h.want("a")
	dir, err := h.Mount(t.Context(), "a")
	require.NoError(t, err)
	root, err := os.Open(dir)
	require.NoError(t, err)
	require.NoError(t, sys.Detach(dir))
	h.remove("a")
	h.sweep()
	forget(t, sys.FDPath(root))
	treecmp.Equal(t, want, sys.FDPath(root), exceptRoot())
	before := h.disk("remnants")
	require.NoError(t, root.Close())
	h.sweep()
	require.Less(t, h.disk("remnants"), before-100_000)
	h.whole("b")
}

// TestReadersKeepTheirLayers: a tar that is being read goes on as it is.
func TestReadersKeepTheirLayers(t *testing.T) {
	h := newHoard(t, engine.Options{})
	h.put("a", rootTar(t, files(0, 60)...))
	h.put("b", rootTar(t, append(files(20, 60), files(90, 95)...)...))
	h.put("c", rootTar(t, append(files(25, 30), files(200, 240)...)...))
	for _, name := range []string{"a", "b"} {
		l, err := h.Store.Layer(image.DigestBytes(h.tars[name]))
		require.NoError(t, err)
		want := h.tars[name]
		open, err := l.OpenTar()
		require.NoError(t, err)
		h.remove(name)
		h.sweep()
		got, err := io.ReadAll(open)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		require.NoError(t, open.Close())
		_, err = l.OpenTar()
		require.Error(t, err)
		h.sweep()
		h.whole("c")
	}
	h.remove("c")
	require.Empty(t, h.remnants())
}

// TestUnreadableMapKeepsEverything: if it is not known what a layer borrows, nothing is punched.
func TestUnreadableMapKeepsEverything(t *testing.T) {
	h := newHoard(t, engine.Options{})
	h.put("a", rootTar(t, files(0, 60)...))
	h.put("b", rootTar(t, files(20, 60)...))
	l, err := h.Store.Layer(image.DigestBytes(h.tars["b"]))
	require.NoError(t, err)
	path := filepath.Join(l.Dir(), "holes")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, good[:len(good)-1], 0o600))
	before := h.disk("layers")
	_, err = h.RemoveImage(t.Context(), "a", engine.RemoveImageOptions{})
	require.ErrorContains(t, err, "damaged")
	require.Equal(t, before, h.disk("layers")+h.disk("remnants"))
	require.NoError(t, os.WriteFile(path, good, 0o600))
	h.sweep()
	h.whole("b")
	require.Less(t, h.disk("remnants"), before-100_000)
}

// TestHistories: whatever comes and goes, what is there is right, and nothing is left in the end.
func TestHistories(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	h := newHoard(t, engine.Options{})
	for step := range 60 {
		name := fmt.Sprint("image", r.IntN(7))
		if h.tars[name] != nil {
			h.remove(name)
			continue
		}
		var contents []string
		for range 1 + r.IntN(5) {
			from := r.Uint64N(60)
			contents = append(contents, files(from, from+r.Uint64N(12))...)
		}
		h.wants = map[string]string{}
		h.put(name, rootTar(t, contents...))
		for left := range h.tars {
			h.whole(left)
		}
		if step%10 == 0 {
			h.mounted(name)
		}
	}
	for name := range h.tars {
		h.remove(name)
	}
	h.sweep()
	require.Empty(t, h.remnants())
	requireEmpty(t, h.Engine, "layers")
	requireEmpty(t, h.Engine, "tmp")
}

// TestDebianRootsBorrow: two Debian roots as they are on two days.
func TestDebianRootsBorrow(t *testing.T) {
	testenv.RequireTool(t, "tar")
	h := newHoard(t, engine.Options{Driver: "erofs"})
	testenv.RequireErofsFile(t)
	dir := testenv.DebianDir(t)
	mustRun(t, "sh", "-euc", `cd "$0"
		find usr/share/doc var/lib -type d | xargs touch -d @1750000000; rm -r usr/share/perl5 usr/share/man/de
		cp -a usr/bin/git opt/git; echo more >> etc/motd; head -c 3000000 /dev/urandom > opt/new; truncate -s 9M opt/sparse
		mv usr/share/zoneinfo usr/share/aaa; chmod 700 usr/lib/git-core`, dir)
	first, err := os.ReadFile(testenv.DebianTar(t))
	require.NoError(t, err)
	h.put("first", first)
	path := filepath.Join(testenv.TempDir(t), "second.tar")
	mustRun(t, "tar", "-C", dir, "--sort=name", "--format=pax", "--pax-option=delete=atime,delete=ctime", "--xattrs", "--acls", "--numeric-owner", "-S", "-cf", path, ".")
	second, err := os.ReadFile(path)
	require.NoError(t, err)
	h.put("second", second)
	h.wants["second"] = dir
	require.Less(t, h.layerDisk("second"), int64(25_000_000))
	h.remove("first")
	require.Less(t, h.disk("remnants"), int64(270_000_000))
	h.whole("second")
	h.mounted("second")
	h.remove("second")
	require.Empty(t, h.remnants())
}
