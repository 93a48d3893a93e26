package engine_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/rootfs"
	"github.com/tarnfs/tarn/store"
)

// TestCheckBesideOthers: while images come and go, a check finds nothing wrong, and does no harm.
func TestCheckBesideOthers(t *testing.T) {
	testenv.RequireRoot(t)
	root, run := testenv.TarnRoot(t)
	var tars [6][]byte
	for i := range tars {
		tars[i] = rootTar(t, append(files(uint64(i)*3, uint64(i)*3+40), files(1000+uint64(i), 1001+uint64(i))...)...)
	}
	e, err := engine.Open(engine.Options{Root: root, Run: run})
	require.NoError(t, err)
	ctx, done := context.WithCancel(t.Context())
	var working, checking sync.WaitGroup
	for worker := range 3 {
		working.Go(func() {
			if err := importAndRemove(t.Context(), root, run, worker, tars[:]); err != nil {
				t.Errorf("worker %d: %v", worker, err)
			}
		})
	}
	checks := 0
	checking.Go(func() {
		for ctx.Err() == nil {
			checked, err := e.Check(ctx, engine.CheckOptions{Deep: true})
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				t.Errorf("check: %v", err)
				return
			}
			for _, f := range checked.Wrong() {
				t.Errorf("%s %s %s: %v", f.Kind, f.ID, f.Part, f.Err)
			}
			checks++
		}
	})
	working.Wait()
	done()
	checking.Wait()
	require.Positive(t, checks)
	h := newHoard(t, engine.Options{Root: root, Run: run})
	h.sweep()
	requireSound(t, e)
	requireEmpty(t, e, "tmp")
}

// TestCheckSaysWhoIsConcerned and what it is, also where an object is missing altogether.
func TestCheckSaysWhoIsConcerned(t *testing.T) {
	h := newHoard(t, engine.Options{})
	h.put("lender", rootTar(t, files(0, 40)...))
	h.put("borrower", rootTar(t, files(5, 40)...))
	requireSound(t, h.Engine)
	img, err := h.Image("lender")
	require.NoError(t, err)
	l, err := h.Store.Layer(img.Config.RootFS.DiffIDs[0])
	require.NoError(t, err)
	aside := filepath.Join(testenv.TempDir(t), "aside")
	for name, tc := range map[string]struct {
		path  string
		deep  bool
		users []string
		kinds []store.Kind
	}{
		"a layer":      {l.Dir(), false, []string{"borrower:latest", "lender:latest"}, []store.Kind{store.KindLayer, store.KindLayer}},
		"its index":    {l.IndexPath(), false, []string{"lender:latest"}, []store.Kind{store.KindLayer}},
		"its blocks":   {filepath.Join(l.Dir(), "layer.blocks"), false, []string{"borrower:latest", "lender:latest"}, []store.Kind{store.KindLayer, store.KindLayer}},
		"its manifest": {filepath.Join(h.Store.Root(), "blobs", "sha256", img.Manifest.Hex()), false, []string{"lender:latest"}, []store.Kind{store.KindBlob}},
		"its config":   {filepath.Join(h.Store.Root(), "blobs", "sha256", img.ID.Hex()), false, []string{"lender:latest"}, []store.Kind{store.KindBlob}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Lstat(tc.path); os.IsNotExist(err) {
				tc.path = filepath.Join(l.Dir(), "layer.tar") // it borrows nothing
			}
			require.NoError(t, os.Rename(tc.path, aside))
			defer func() {
				require.NoError(t, os.Rename(aside, tc.path))
				requireSound(t, h.Engine)
			}()
			checked, err := h.Check(t.Context(), engine.CheckOptions{Deep: tc.deep})
			require.NoError(t, err)
			var kinds []store.Kind
			users := map[string]bool{}
			for _, f := range checked.Wrong() {
				kinds = append(kinds, f.Kind)
				for _, user := range checked.Users(f) {
					users[user] = true
				}
			}
			require.Equal(t, tc.kinds, kinds)
			require.Len(t, users, len(tc.users))
			for _, user := range tc.users {
				require.True(t, users[user], user)
			}
		})
	}
}

// TestLeftoversAreNoDamage: what killed commands leave is told, and gone with the next sweep.
func TestLeftoversAreNoDamage(t *testing.T) {
	h := newHoard(t, engine.Options{})
	h.put("a", rootTar(t, files(0, 5)...))
	root := h.Store.Root()
	unneeded := image.DigestBytes([]byte("not needed")).Hex()
	for path, data := range map[string]string{"tmp/.tmp-1": "x", "images/.tmp-2": "{", "blobs/sha256/" + unneeded: "not needed"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, path), []byte(data), 0o600))
	}
	require.NoError(t, os.Symlink("nobody", filepath.Join(root, "names", "ghost")))
	checked, err := h.Check(t.Context(), engine.CheckOptions{})
	require.NoError(t, err)
	require.Empty(t, checked.Wrong())
	require.Len(t, checked.Faults, 4)
	h.sweep()
	checked, err = h.Check(t.Context(), engine.CheckOptions{})
	require.NoError(t, err)
	require.Empty(t, checked.Faults)
}

// TestStoreTravels: with cp -a to another place, and after a reboot, when nothing is left of $TARN_RUN, all
// that was there works at once.
func TestStoreTravels(t *testing.T) {
	h := richStore(t)
	want := h.run("copied", "before", "md5sum /copy /bin/busybox")
	other := copyStore(t, h.Engine, filepath.Join(testenv.TempDir(t), "copy"))
	run := filepath.Join(testenv.TempDir(t), "run-of-another-machine")
	other, err := engine.Open(engine.Options{Root: other.Store.Root(), Run: run, Driver: rootfs.Erofs})
	require.NoError(t, err)
	for name, e := range map[string]*engine.Engine{"copied": other, "rebooted": h.Engine} {
		t.Run(name, func(t *testing.T) {
			if name == "rebooted" {
				testenv.UnmountBeneath(t, h.Store.Run())
				require.NoError(t, os.RemoveAll(h.Store.Run()))
			}
			here := &host{e, t}
			requireSound(t, e)
			require.Equal(t, want, here.run("copied", "after", "md5sum /copy /bin/busybox"))
			require.Equal(t, "hello\n", here.run("box", "again", "cat /v/hello", func(o *engine.RunOptions) { o.Volumes = []string{"vol:/v"} }))
			require.Contains(t, here.diff("worker"), "A /copy")
			for _, image := range []string{"heir", "in-place", "packed"} {
				tree, err := treecmp.Read(here.mounted(image), treecmp.Options{})
				require.NoError(t, err)
				require.NotEmpty(t, tree)
				here.umount(image)
			}
			requireSound(t, e)
		})
		testenv.UnmountBeneath(t, run)
	}
}
