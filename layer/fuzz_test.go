package layer_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/internal/tartest"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// fuzzLimits are what a fuzzer's time and memory have room for.
func fuzzLimits() layer.Limits {
	return layer.Limits{
		Limits:    tarfile.Limits{Entries: 1000, Segments: 500, Extension: 64 << 10, Metadata: 1 << 20, FileSize: 1 << 20},
		TotalSize: 4 << 20,
	}
}

func addSeeds(f *testing.F) {
	f.Helper()
	for _, s := range samples() {
		f.Add(s.tar)
	}
	for _, s := range stacks() {
		for _, tar := range s.layers {
			f.Add(tar)
		}
	}
	for _, tar := range tartest.Seeds(f) {
		f.Add(tar)
	}
}

// FuzzIndex scans anything. What is refused is refused with a reason that is known; of the rest, both
// ways to read it must give the same index, which is sound and says what the tree says.
func FuzzIndex(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, tar []byte) {
		tar = tartest.Mend(tar)
		scanned, err := layer.Scan(bytes.NewReader(tar), fuzzLimits())
		streamed, streamErr := layer.Scan(io.MultiReader(bytes.NewReader(tar)), fuzzLimits())
		if (err == nil) != (streamErr == nil) {
			t.Fatalf("at offsets: %v; as a stream: %v", err, streamErr)
		}
		if err != nil {
			knownReason(t, err)
			return
		}
		want := entriesOf(t, scanned, bytes.NewReader(tar))
		file := inMemory(t, tar)
		index := indexBytes(t, scanned, file)
		if !bytes.Equal(index, indexBytes(t, streamed, file)) {
			t.Fatal("at offsets and as a stream it gave different indexes")
		}
		image := checkIndex(t, bytes.NewReader(index), int64(len(index)))
		sameTree(t, "index", want, imageEntries(t, image, tar))
	})
}

func knownReason(t testing.TB, err error) {
	t.Helper()
	reasons := []error{
		layer.ErrUnsafe, layer.ErrLink, layer.ErrUnsupported, layer.ErrLimit,
		tarfile.ErrMalformed, tarfile.ErrTruncated, tarfile.ErrUnknownOwner,
	}
	if !slices.ContainsFunc(reasons, func(reason error) bool { return errors.Is(err, reason) }) {
		t.Fatalf("an error without a reason: %v", err)
	}
	if strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 4000 {
		t.Fatalf("an error that is not a line to read: %q", err)
	}
}

// imageEntries describes an index as treecmp describes a mounted tree.
func imageEntries(t testing.TB, image *erofs.Image, tar []byte) tree {
	t.Helper()
	all := make(tree)
	names := make(map[uint64][]string)
	for step, err := range image.Walk() {
		must(t, err)
		n := step.Node
		e := &treecmp.Entry{Mode: n.Mode, UID: n.UID, GID: n.GID, Mtime: time.Unix(n.Sec, int64(n.Nsec)), Xattrs: map[string]string{}}
		all[step.Path] = e
		xattrs, err := n.Xattrs()
		must(t, err)
		for _, x := range xattrs {
			e.Xattrs[x.Name] = string(x.Value)
		}
		switch n.Mode & erofs.ModeType {
		case erofs.ModeDir:
			continue
		case erofs.ModeRegular:
			contents, err := n.Data([]io.ReaderAt{bytes.NewReader(tar)})
			must(t, err)
			h := sha256.New()
			_, err = io.Copy(h, contents)
			must(t, err)
			e.Size, e.Hash = n.Size, [sha256.Size]byte(h.Sum(nil))
		case erofs.ModeSymlink:
			e.Link, err = n.Readlink()
			must(t, err)
			e.Size = n.Size
		case erofs.ModeChar, erofs.ModeBlock:
			e.Rdev = unix.Mkdev(erofs.Major(n.Rdev), erofs.Minor(n.Rdev))
		}
		names[n.NID] = append(names[n.NID], step.Path)
	}
	for _, group := range names {
		setGroup(all, group)
	}
	return all
}

// FuzzExtract extracts anything into a directory beside one that nothing may reach, and compares what
// was made with the tree. It needs root.
func FuzzExtract(f *testing.F) {
	testenv.RequireRoot(f)
	addSeeds(f)
	base := testenv.TempDir(f)
	f.Fuzz(func(t *testing.T, tar []byte) {
		tar = tartest.Mend(tar)
		scanned, err := layer.Scan(bytes.NewReader(tar), fuzzLimits())
		if err != nil {
			return
		}
		want := entriesOf(t, scanned, bytes.NewReader(tar))
		dir, err := os.MkdirTemp(base, "") //nolint:usetesting // T.TempDir may be on a tmpfs
		must(t, err)
		defer os.RemoveAll(dir) //nolint:errcheck // base goes as a whole
		for _, sub := range []string{"outside", "root"} {
			must(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
		}
		root := openFile(t, filepath.Join(dir, "root"))
		err = layer.Materialize(t.Context(), scanned, plain(t, inMemory(t, tar)), root)
		if left, readErr := os.ReadDir(dir); readErr != nil || len(left) != 2 {
			t.Fatalf("beside the directory: %v, %v", left, readErr)
		}
		if left, readErr := os.ReadDir(filepath.Join(dir, "outside")); readErr != nil || len(left) != 0 {
			t.Fatalf("outside the directory: %v, %v", left, readErr)
		}
		if err != nil {
			return // what the file system does not take: values of capabilities, the size of attributes
		}
		got := readTree(t, root)
		for path, e := range want {
			// ext4 keeps times from 1901 to 2446.
			if sec := e.Mtime.Unix(); got[path] != nil && (sec < -1<<31 || sec >= 1<<34-1<<31) {
				got[path].Mtime = e.Mtime
			}
		}
		sameTree(t, "extracted", want, got)
	})
}
