package engine_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/borrow"
	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/rootfs"
)

// hoard is a store with images, and the tars that they were made of.
type hoard struct {
	t *testing.T
	*engine.Engine
	tars   map[string][]byte // by name
	images map[string]image.Digest
	wants  map[string]string // directories with GNU tar's extraction
}

// newHoard makes an empty store on a disk file system.
func newHoard(t *testing.T, opts engine.Options) *hoard {
	t.Helper()
	testenv.RequireRoot(t)
	if opts.Root == "" {
		opts.Root, opts.Run = testenv.TarnRoot(t)
	}
	e, err := engine.Open(opts)
	require.NoError(t, err)
	return &hoard{t: t, Engine: e, tars: map[string][]byte{}, images: map[string]image.Digest{}, wants: map[string]string{}}
}

func (h *hoard) put(name string, data []byte) {
	h.t.Helper()
	id, err := h.Import(h.t.Context(), bytes.NewReader(data), engine.ImportOptions{Name: name})
	require.NoError(h.t, err)
	h.tars[name], h.images[name] = data, id
	h.whole(name)
}

// remove removes the image, although it may be mounted.
func (h *hoard) remove(name string) {
	h.t.Helper()
	_, err := h.RemoveImage(h.t.Context(), name, engine.RemoveImageOptions{Force: true})
	require.NoError(h.t, err)
	delete(h.tars, name)
}

// whole makes sure that an image's tar reads as it arrived.
func (h *hoard) whole(name string) {
	h.t.Helper()
	l, err := h.Store.Layer(image.DigestBytes(h.tars[name]))
	require.NoError(h.t, err, name)
	stored, err := l.OpenTar()
	require.NoError(h.t, err, name)
	defer stored.Close()
	got, err := io.ReadAll(stored)
	require.NoError(h.t, err, name)
	require.Equal(h.t, image.DigestBytes(h.tars[name]), image.DigestBytes(got), name)
	size, err := l.Size()
	require.NoError(h.t, err)
	require.EqualValues(h.t, len(got), size)
}

// want gives what GNU tar makes of an image's tar.
func (h *hoard) want(name string) string {
	h.t.Helper()
	if h.wants[name] == "" {
		dir := testenv.TempDir(h.t)
		path := filepath.Join(dir, "tar")
		require.NoError(h.t, os.WriteFile(path, h.tars[name], 0o600))
		h.wants[name] = filepath.Join(dir, "tree")
		require.NoError(h.t, os.Mkdir(h.wants[name], 0o755))
		testenv.ExtractTar(h.t, path, h.wants[name])
	}
	return h.wants[name]
}

// exceptRoot: a tar without an entry of the root says nothing about it.
func exceptRoot() treecmp.Options {
	return treecmp.Options{SkipTime: func(path string) bool { return path == "." }}
}

// mounted makes sure that an image's mounted tree is the one that GNU tar makes of its tar.
func (h *hoard) mounted(name string) {
	h.t.Helper()
	dir, err := h.Mount(h.t.Context(), string(h.images[name]))
	require.NoError(h.t, err)
	forget(h.t, dir)
	treecmp.Equal(h.t, h.want(name), dir, exceptRoot())
	require.NoError(h.t, h.Umount(h.t.Context(), string(h.images[name])))
}

// forget makes the kernel read the files below dir from the disk again.
func forget(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
	require.NoError(t, err)
}

// disk gives the bytes that a part of the store takes on the disk.
func (h *hoard) disk(elem ...string) int64 {
	h.t.Helper()
	var sum int64
	err := filepath.WalkDir(filepath.Join(append([]string{h.Store.Root()}, elem...)...), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "root" && strings.Contains(path, "/layers/") {
			return fs.SkipDir // what the dirs driver extracted
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		sum += st.Blocks * 512
		return nil
	})
	require.NoError(h.t, err)
	return sum
}

func (h *hoard) layerDisk(name string) int64 {
	return h.disk("layers", image.DigestBytes(h.tars[name]).Hex())
}

func (h *hoard) borrowed(name string) int64 {
	h.t.Helper()
	l, err := h.Store.Layer(image.DigestBytes(h.tars[name]))
	require.NoError(h.t, err)
	m, err := l.Holes()
	require.NoError(h.t, err)
	return m.Borrowed()
}

// content gives bytes that only depend on seed, and are in no other content.
func content(seed uint64, size int) string {
	r := rand.New(rand.NewPCG(seed, 99))
	b := make([]byte, (size+7)/8*8)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return string(b[:size])
}

// rootTar makes a tar of a directory d with the files given, named by their place.
func rootTar(t *testing.T, contents ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h *tar.Header, content string) {
		h.ModTime, h.Size = time.Unix(1_700_000_000, 0), int64(len(content))
		require.NoError(t, w.WriteHeader(h))
		_, err := io.WriteString(w, content)
		require.NoError(t, err)
	}
	add(&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	for i, c := range contents {
		add(&tar.Header{Name: fmt.Sprintf("d/%03d", i), Typeflag: tar.TypeReg, Mode: 0o644}, c)
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// files gives the contents of files numbered from to below to.
func files(from, to uint64) []string {
	var list []string
	for i := from; i < to; i++ {
		list = append(list, content(i, 3000+int(i*7919%50_000)))
	}
	return list
}

func eachDriver(t *testing.T, test func(t *testing.T, h *hoard)) {
	t.Helper()
	for _, driver := range []string{rootfs.Erofs, rootfs.Dirs} {
		t.Run(driver, func(t *testing.T) {
			if driver == rootfs.Erofs {
				testenv.RequireErofsFile(t)
			}
			test(t, newHoard(t, engine.Options{Driver: driver}))
		})
	}
}

func TestBorrowedLayersAreWhole(t *testing.T) {
	eachDriver(t, func(t *testing.T, h *hoard) {
		common := files(0, 100)
		h.put("a", rootTar(t, common...))
		h.put("b", rootTar(t, append(files(200, 203), common...)...)) // all at other places
		changed := append([]string{}, common...)
		changed[50] = content(999, 20_000)
		h.put("c", rootTar(t, append(changed, files(300, 310)...)...))
		h.put("little", rootTar(t, append(files(400, 500), common[:10]...)...))
		for _, name := range []string{"a", "b", "c", "little"} {
			h.whole(name)
			h.mounted(name)
		}
		for _, name := range []string{"a", "b", "c", "little"} {
			h.indexIsSound(name)
		}
		require.Less(t, h.layerDisk("b"), int64(300_000))
		require.Less(t, h.layerDisk("c"), int64(500_000))
		require.Less(t, h.layerDisk("little"), int64(len(h.tars["little"]))-100_000, "holes, in place")
		require.Greater(t, h.layerDisk("a"), int64(len(h.tars["a"])))
	})
}

// indexIsSound makes sure that an index is what the tar and the map give, and that fsck.erofs finds all
// contents through it.
func (h *hoard) indexIsSound(name string) {
	h.t.Helper()
	l, err := h.Store.Layer(image.DigestBytes(h.tars[name]))
	require.NoError(h.t, err)
	stored, err := l.OpenTar()
	require.NoError(h.t, err)
	defer stored.Close()
	tree, err := layer.Scan(stored, layer.Limits{})
	require.NoError(h.t, err)
	again, err := os.OpenFile(filepath.Join(h.t.TempDir(), "index"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	require.NoError(h.t, err)
	defer again.Close()
	_, err = tree.WriteIndex(again, stored)
	require.NoError(h.t, err)
	want, err := os.ReadFile(again.Name())
	require.NoError(h.t, err)
	got, err := os.ReadFile(l.IndexPath())
	require.NoError(h.t, err)
	require.True(h.t, bytes.Equal(want, got), name)

	args := []string{"--extract"}
	for _, device := range stored.Devices {
		args = append(args, "--device="+device.Name())
	}
	out, err := exec.CommandContext(h.t.Context(), testenv.FsckErofs(h.t), append(args, l.IndexPath())...).CombinedOutput()
	require.NoError(h.t, err, "%s %s", name, out)
}

func TestDedupOff(t *testing.T) {
	root, run := testenv.TarnRoot(t)
	h := newHoard(t, engine.Options{Root: root, Run: run})
	h.put("a", rootTar(t, files(0, 60)...))
	off := newHoard(t, engine.Options{Root: root, Run: run, NoDedup: true})
	off.put("b", rootTar(t, files(1, 60)...))
	require.Zero(t, off.borrowed("b"))
	t.Setenv("TARN_DEDUP", "off")
	off = newHoard(t, engine.Options{Root: root, Run: run})
	off.put("c", rootTar(t, files(2, 60)...))
	require.Zero(t, off.borrowed("c"))
	h.put("d", rootTar(t, files(3, 60)...))
	require.Positive(t, h.borrowed("d"))
	h.mounted("d")
}

func TestTablesOnlySave(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"lost": func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
		"of another layer": func(t *testing.T, path string) {
			// The keys of the layer to come, at places where other bytes are.
			h := newHoard(t, engine.Options{})
			h.put("x", rootTar(t, files(20, 60)...))
			l, err := h.Store.Layer(image.DigestBytes(h.tars["x"]))
			require.NoError(t, err)
			table, err := os.ReadFile(filepath.Join(l.Dir(), "contents"))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, table, 0o600))
		},
		"bits": func(t *testing.T, path string) {
			table, err := os.ReadFile(path)
			require.NoError(t, err)
			for i := 8; i < len(table); i += 7 {
				table[i] ^= 1 << (i % 8)
			}
			require.NoError(t, os.WriteFile(path, table, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHoard(t, engine.Options{})
			h.put("a", rootTar(t, files(0, 60)...))
			l, err := h.Store.Layer(image.DigestBytes(h.tars["a"]))
			require.NoError(t, err)
			damage(t, filepath.Join(l.Dir(), "contents"))
			h.put("b", rootTar(t, files(20, 60)...))
			h.mounted("b")
			h.mounted("a")

			require.NoError(t, h.RebuildContents(l.DiffID))
			requireNoLeftovers(t, h.Engine)
			h.put("c", rootTar(t, files(25, 58)...))
			require.Greater(t, h.borrowed("c"), int64(500_000))
		})
	}
}

func TestRebuiltTableIsTheSame(t *testing.T) {
	h := newHoard(t, engine.Options{})
	h.put("a", rootTar(t, files(0, 30)...))
	h.put("b", rootTar(t, append(files(5, 30), files(200, 210)...)...))
	for name := range h.tars {
		l, err := h.Store.Layer(image.DigestBytes(h.tars[name]))
		require.NoError(t, err)
		path := filepath.Join(l.Dir(), "contents")
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, borrow.CheckTable(want))
		require.NoError(t, os.Remove(path))
		require.NoError(t, h.RebuildContents(l.DiffID))
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// TestEveryWayInBorrows: a commit of what the image below has, a load of what is here already.
func TestEveryWayInBorrows(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	h.run("box", "c", "cp /bin/busybox /copy; chmod 4711 /bin/busybox")
	h.commit("c", engine.CommitOptions{Name: "copied"})
	h.requireSame("c", "copied")
	top := func(e *engine.Engine) int64 {
		img, err := e.Image("copied")
		require.NoError(t, err)
		l, err := e.Store.Layer(img.Config.RootFS.DiffIDs[1])
		require.NoError(t, err)
		m, err := l.Holes()
		require.NoError(t, err)
		return m.Borrowed()
	}
	info, err := os.Stat(filepath.Join(h.mounted("box"), "bin/busybox"))
	require.NoError(t, err)
	h.umount("box")
	require.Greater(t, top(h.Engine), 2*info.Size()-4096)

	saved := filepath.Join(t.TempDir(), "saved.tar")
	require.NoError(t, h.Save(t.Context(), engine.SaveOptions{Images: []string{"copied"}, Output: saved}))
	other := newHost(t, rootfs.Erofs)
	other.importFile("box", testenv.BusyboxTar(t))
	_, err = other.Load(t.Context(), engine.LoadOptions{Input: saved})
	require.NoError(t, err)
	require.Greater(t, top(other.Engine), 2*info.Size()-4096)
	treecmp.Equal(t, h.mounted("copied"), other.mounted("copied"), treecmp.Options{})
	h.umount("copied")
	other.umount("copied")
}

// TestRottenLenderIsNotBorrowedFrom: a lender's file rots after its table was made.
func TestRottenLenderIsNotBorrowedFrom(t *testing.T) {
	h := newHoard(t, engine.Options{})
	data := rootTar(t, files(0, 60)...)
	h.put("a", data)
	l, err := h.Store.Layer(image.DigestBytes(data))
	require.NoError(t, err)
	rotten := bytes.Clone(data)
	for i := 0; i < len(rotten); i += 10_000 {
		rotten[i] ^= 0x40
	}
	require.NoError(t, os.WriteFile(filepath.Join(l.Dir(), "layer.tar"), rotten, 0o600))
	h.put("b", rootTar(t, files(1, 61)...))
	h.mounted("b")
}

func TestSparseFilesAreBorrowed(t *testing.T) {
	testenv.RequireTool(t, "tar")
	tree := testenv.TempDir(t)
	for i := range 8 {
		f, err := os.OpenFile(filepath.Join(tree, fmt.Sprint("sparse", i)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		require.NoError(t, err)
		for at := range int64(5) {
			_, err = f.WriteAt([]byte(content(uint64(i)*10+uint64(at), 12_288)), at*1<<20+int64(i)*512)
			require.NoError(t, err)
		}
		require.NoError(t, f.Truncate(6<<20))
		require.NoError(t, f.Close())
	}
	pack := func(args ...string) []byte {
		out, err := exec.CommandContext(t.Context(), "tar", append(args, "-S", "-C", tree, "-cf", "-", ".")...).Output()
		require.NoError(t, err)
		return out
	}
	eachDriver(t, func(t *testing.T, h *hoard) {
		h.put("gnu", pack("--format=gnu"))
		for _, form := range []string{"0.0", "0.1", "1.0"} {
			h.put(form, pack("--format=pax", "--sparse-version="+form))
			require.Greater(t, h.borrowed(form), int64(300_000), form)
		}
		for name := range h.tars {
			h.mounted(name)
		}
	})
}

// TestBorrowOnFileSystems: where blocks cannot be given back, or nobody says who has a file open, less or
// nothing is saved, and all is right.
func TestBorrowOnFileSystems(t *testing.T) {
	for name, tc := range map[string]struct {
		mount  []string
		mkfs   []string // of a file that is mounted
		packed bool     // much in common is saved
		holes  bool     // little in common is saved
	}{
		"tmpfs":              {[]string{"-t", "tmpfs", "tmpfs"}, nil, true, true},
		"ramfs":              {[]string{"-t", "ramfs", "ramfs"}, nil, true, false},
		"ext4, small blocks": {[]string{"-o", "loop"}, []string{"mkfs.ext4", "-q", "-F", "-b", "1024"}, true, true},
		"xfs":                {[]string{"-o", "loop"}, []string{"mkfs.xfs", "-q"}, true, true},
		"btrfs":              {[]string{"-o", "loop"}, []string{"mkfs.btrfs", "-q"}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.RequireRoot(t)
			point := testenv.TempDir(t)
			driver := rootfs.Dirs
			if tc.mkfs != nil {
				testenv.RequireErofsFile(t)
				testenv.RequireFilesystem(t, strings.TrimPrefix(tc.mkfs[0], "mkfs."))
				driver = rootfs.Erofs
				disk := filepath.Join(testenv.TempDir(t), "disk")
				require.NoError(t, os.WriteFile(disk, nil, 0o600))
				require.NoError(t, os.Truncate(disk, 400<<20))
				mustRun(t, append(tc.mkfs, disk)...)
				tc.mount = append(tc.mount, disk)
			}
			mustRun(t, append(append([]string{"mount"}, tc.mount...), point)...)
			t.Cleanup(func() { require.NoError(t, sys.Unmount(point)) })
			h := newHoard(t, engine.Options{Root: filepath.Join(point, "root"), Run: filepath.Join(testenv.TempDir(t), "run"), Driver: driver})
			h.put("a", rootTar(t, files(0, 60)...))
			h.put("b", rootTar(t, files(1, 61)...))
			h.put("c", rootTar(t, append(files(100, 160), files(0, 20)...)...))
			require.Equal(t, tc.packed, h.borrowed("b") > 0)
			require.Equal(t, tc.holes, h.borrowed("c") > 0)
			for _, name := range []string{"b", "c", "a"} {
				h.whole(name)
				h.mounted(name)
			}
			size := int64(len(h.tars["a"]))
			h.remove("a")
			h.mounted("b")
			h.remove("b")
			h.mounted("c")
			if tc.holes {
				require.Less(t, h.disk("remnants"), size/2, "c borrows some of a")
			} else {
				require.Empty(t, h.remnants(), "c borrows nothing")
			}
			h.put("a", rootTar(t, files(0, 60)...))
			for _, name := range []string{"c", "a"} {
				h.mounted(name)
				h.remove(name)
			}
			requireEmpty(t, h.Engine, "remnants")
		})
	}
}

func mustRun(t *testing.T, command ...string) {
	t.Helper()
	testenv.RequireTool(t, command[0])
	out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
	require.NoError(t, err, "%q: %s", command, out)
}

// TestManyImportAndRemoveAtOnce: processes import, look and remove at the same time, and nothing is ever wrong.
func TestManyImportAndRemoveAtOnce(t *testing.T) {
	testenv.RequireRoot(t)
	root, run := testenv.TarnRoot(t)
	var tars [6][]byte
	for i := range tars {
		tars[i] = rootTar(t, append(files(uint64(i)*3, uint64(i)*3+40), files(1000+uint64(i), 1001+uint64(i))...)...)
	}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			if err := importAndRemove(t.Context(), root, run, worker, tars[:]); err != nil {
				t.Errorf("worker %d: %v", worker, err)
			}
		})
	}
	wg.Wait()
	e, err := engine.Open(engine.Options{Root: root, Run: run})
	require.NoError(t, err)
	lock, err := e.Store.Exclusive(t.Context())
	require.NoError(t, err)
	require.NoError(t, lock.Unlock())
	h := newHoard(t, engine.Options{Root: root, Run: run})
	h.put("last", tars[0])
	h.remove("last")
	requireEmpty(t, e, "layers")
	requireEmpty(t, e, "remnants")
	requireEmpty(t, e, "tmp")
}

func importAndRemove(ctx context.Context, root, run string, worker int, tars [][]byte) error {
	e, err := engine.Open(engine.Options{Root: root, Run: run})
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(uint64(worker), 1))
	for range 12 {
		n := r.IntN(len(tars))
		name := fmt.Sprintf("w%d-%d", worker, n)
		if _, err := e.Import(ctx, bytes.NewReader(tars[n]), engine.ImportOptions{Name: name}); err != nil {
			return err
		}
		l, err := e.Store.Layer(image.DigestBytes(tars[n]))
		if err != nil {
			return err
		}
		stored, err := l.OpenTar()
		if err != nil {
			return err
		}
		got, err := io.ReadAll(stored)
		if err := stored.Close(); err != nil {
			return err
		}
		if err != nil || !bytes.Equal(got, tars[n]) {
			return fmt.Errorf("%s reads as something else: %w", name, err)
		}
		if _, err := e.RemoveImage(ctx, name, engine.RemoveImageOptions{Force: true}); err != nil && !strings.Contains(err.Error(), "has 2 names") {
			return err
		}
	}
	return nil
}
