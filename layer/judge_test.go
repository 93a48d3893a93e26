package layer_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/rootfs"
)

type tree = map[string]*treecmp.Entry

// judge holds each way in which tarn shows a tar against a tree: what Scan says, the index mounted
// by the kernel, the files of Extract, and what a tar packed of those gives again.
func judge(t *testing.T, tarPath string, want tree) {
	t.Helper()
	same := func(what string, got tree) {
		t.Helper()
		sameTree(t, what, want, got)
	}
	tar := openFile(t, tarPath)
	same("scanned", entriesOf(t, scan(t, tar), tar))
	l := storeLayer(t, tarPath)
	fsck(t, l)
	same("mounted", readTree(t, mountLayer(t, rootfs.Erofs, l)))
	extracted := mountLayer(t, rootfs.Dirs, l)
	same("extracted", readTree(t, extracted))
	again := packTree(t, extracted)
	same("packed again", entriesOf(t, scan(t, again), again))
}

func sameTree(t testing.TB, what string, want, got tree) {
	t.Helper()
	lines := treecmp.DiffEntries(want, got)
	for i, line := range lines[:min(len(lines), 20)] {
		lines[i] = line[:min(len(line), 400)]
	}
	if len(lines) > 0 {
		t.Errorf("%s: %d differences:\n%s", what, len(lines), strings.Join(lines[:min(len(lines), 20)], "\n"))
	}
}

// gnuTarView is what GNU tar extracts.
func gnuTarView(t testing.TB, path string) tree {
	t.Helper()
	testenv.RequireRoot(t)
	dir := testenv.TempDir(t)
	testenv.ExtractTar(t, path, dir)
	entries, err := treecmp.Read(dir, treecmp.Options{})
	must(t, err)
	return entries
}

func readTree(t testing.TB, dir *os.File) tree {
	t.Helper()
	entries, err := treecmp.Read(sys.FDPath(dir), treecmp.Options{})
	must(t, err)
	return entries
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openFile(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func writeTemp(t testing.TB, data []byte) (path string) {
	t.Helper()
	path = filepath.Join(testenv.TempDir(t), "layer.tar")
	must(t, os.WriteFile(path, data, 0o600))
	return path
}

func plain(t testing.TB, tar *os.File) *holes.Tar {
	t.Helper()
	whole, err := holes.Plain(tar)
	must(t, err)
	return whole
}

func scan(t testing.TB, tar *os.File) *layer.Tree {
	t.Helper()
	_, err := tar.Seek(0, io.SeekStart)
	must(t, err)
	scanned, err := layer.Scan(tar, layer.Limits{})
	must(t, err)
	return scanned
}

// storeLayer writes a layer's files as a store does, and has erofs.Check look at the index.
func storeLayer(t testing.TB, tarPath string) rootfs.Layer {
	t.Helper()
	dir := testenv.TempDir(t)
	tar := openFile(t, tarPath)
	id := sha256.Sum256([]byte(tarPath)) // a name is enough here, and some tars are huge
	indexPath := filepath.Join(dir, "index.erofs")
	l := rootfs.Layer{
		DiffID: hex.EncodeToString(id[:]), Dir: dir, Tmp: dir,
		Open: func() (*holes.Tar, error) { return holes.OpenPlain(tarPath, indexPath) },
	}
	index, err := os.OpenFile(indexPath, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	must(t, err)
	defer index.Close()
	size, err := scan(t, tar).WriteIndex(index, plain(t, tar))
	must(t, err)
	checkIndex(t, index, size)
	return l
}

func checkIndex(t testing.TB, index io.ReaderAt, size int64) *erofs.Image {
	t.Helper()
	image, err := erofs.Open(index, size)
	must(t, err)
	must(t, image.Check(t.Context()))
	return image
}

// fsck has fsck.erofs look at the index, and read all files.
func fsck(t testing.TB, l rootfs.Layer) {
	t.Helper()
	fsckModes(t, l, "-p", "--extract")
}

func fsckModes(t testing.TB, l rootfs.Layer, modes ...string) {
	t.Helper()
	program := testenv.FsckErofs(t)
	tar, err := l.Open()
	must(t, err)
	defer tar.Close()
	for _, mode := range modes {
		cmd := exec.CommandContext(t.Context(), program, "--device="+tar.Devices[0].Name(), mode, tar.Index.Name())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("fsck.erofs %s: %v\n%s", mode, err, out)
		}
	}
}

// mountLayer gives a layer's directory by one driver, until the test ends.
func mountLayer(t testing.TB, name string, l rootfs.Layer) *os.File {
	t.Helper()
	testenv.RequireErofsFile(t)
	driver, err := rootfs.NewDriver(name, testenv.TempDir(t))
	must(t, err)
	dir, err := driver.Mount(t.Context(), l)
	must(t, err)
	t.Cleanup(func() {
		if err := errors.Join(dir.Close(), driver.Release(l)); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// packTree makes a tar of a directory.
func packTree(t testing.TB, dir *os.File) *os.File {
	t.Helper()
	tar, err := os.OpenFile(filepath.Join(testenv.TempDir(t), "packed.tar"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	must(t, err)
	t.Cleanup(func() { tar.Close() })
	must(t, layer.PackTree(t.Context(), tar, dir, layer.PackOptions{}))
	return tar
}

// entriesOf describes a scanned tree as treecmp describes one that is mounted.
func entriesOf(t testing.TB, scanned *layer.Tree, tar io.ReaderAt) tree {
	t.Helper()
	d := &describer{t: t, tar: tar, entries: make(tree), names: make(map[*erofs.Inode][]string)}
	d.describe(".", scanned.Root)
	for _, names := range d.names {
		setGroup(d.entries, names)
	}
	return d.entries
}

// setGroup notes all names of one file.
func setGroup(entries tree, names []string) {
	if len(names) < 2 {
		return
	}
	slices.Sort(names)
	for _, name := range names {
		entries[name].Group = names
	}
}

type describer struct {
	t       testing.TB
	tar     io.ReaderAt
	entries tree
	names   map[*erofs.Inode][]string
}

func (d *describer) describe(path string, in *erofs.Inode) {
	d.t.Helper()
	e := &treecmp.Entry{Mode: in.Mode, UID: in.UID, GID: in.GID, Mtime: time.Unix(in.Sec, int64(in.Nsec)), Link: in.Target, Xattrs: map[string]string{}}
	d.entries[path] = e
	for _, x := range in.Xattrs {
		e.Xattrs[x.Name] = string(x.Value)
	}
	switch in.Mode & erofs.ModeType {
	case erofs.ModeDir:
		for _, child := range in.Entries {
			name := child.Name
			if path != "." {
				name = path + "/" + name
			}
			d.describe(name, child.Inode)
		}
		return
	case erofs.ModeRegular:
		e.Size, e.Hash = in.Size, d.hash(in)
	case erofs.ModeSymlink:
		e.Size = int64(len(in.Target))
	case erofs.ModeChar, erofs.ModeBlock:
		e.Rdev = unix.Mkdev(erofs.Major(in.Rdev), erofs.Minor(in.Rdev))
	}
	d.names[in] = append(d.names[in], path)
}

func (d *describer) hash(in *erofs.Inode) (sum [sha256.Size]byte) {
	d.t.Helper()
	h := sha256.New()
	at := int64(0)
	zeros := func(n int64) {
		_, err := io.CopyN(h, zeroReader{}, n)
		must(d.t, err)
	}
	for _, e := range in.Extents {
		zeros(e.Logical - at)
		n, err := io.Copy(h, io.NewSectionReader(d.tar, e.Physical, e.Length))
		must(d.t, err)
		if n != e.Length {
			d.t.Fatalf("%d bytes at %d of the tar, want %d", n, e.Physical, e.Length)
		}
		at = e.Logical + e.Length
	}
	zeros(in.Size - at)
	return [sha256.Size]byte(h.Sum(nil))
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// memory is an index that is kept in memory.
type memory struct{ bytes.Buffer }

func (m *memory) WriteAt(p []byte, offset int64) (int, error) {
	if missing := offset + int64(len(p)) - int64(m.Len()); missing > 0 {
		m.Write(make([]byte, missing))
	}
	return copy(m.Bytes()[offset:], p), nil
}

// indexOf makes the index of a tar in memory, scanned from r.
func indexOf(t testing.TB, r io.Reader, tar []byte) []byte {
	t.Helper()
	scanned, err := layer.Scan(r, layer.Limits{})
	must(t, err)
	return indexBytes(t, scanned, inMemory(t, tar))
}

func indexBytes(t testing.TB, scanned *layer.Tree, tar *os.File) []byte {
	t.Helper()
	var m memory
	_, err := scanned.WriteIndex(&m, plain(t, tar))
	must(t, err)
	return m.Bytes()
}

// inMemory makes a file on no disk.
func inMemory(t testing.TB, contents []byte) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("tar", unix.MFD_CLOEXEC)
	must(t, err)
	f := os.NewFile(uintptr(fd), "tar in memory")
	t.Cleanup(func() { f.Close() })
	_, err = f.WriteAt(contents, 0)
	must(t, err)
	return f
}
