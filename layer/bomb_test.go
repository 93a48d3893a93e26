package layer_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/tarnfs/tarn/internal/tartest"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// TestLimits shows that each limit is kept to, by tars that are just above it.
func TestLimits(t *testing.T) {
	of := func(l tarfile.Limits) layer.Limits { return layer.Limits{Limits: l} }
	for name, tt := range map[string]struct {
		limits layer.Limits
		below  []byte
		beyond []byte // what comes on top
		says   string
	}{
		"entries":            {of(tarfile.Limits{Entries: 3}), join(aFile("a", ""), aFile("b", ""), aFile("a", "")), aFile("victim", ""), "3 entries"},
		"implied parents":    {of(tarfile.Limits{Entries: 5}), aFile("a/b/c/d", ""), aFile("e/victim", ""), `"e/victim": limit exceeded: more than 5 names`},
		"whiteouts":          {of(tarfile.Limits{Entries: 3}), join(aFile(".wh.a", ""), aFile("d/.wh.b", "")), aFile(".wh.victim", ""), `".wh.victim": limit exceeded: more than 3 names`},
		"a component":        {layer.Limits{Component: 5}, aFile("12345/12345", ""), aFile("d/victim", ""), `"d/victim": limit exceeded: a component of 6 bytes`},
		"one file":           {of(tarfile.Limits{FileSize: 10}), aFile("a", "0123456789"), aFile("victim", "0123456789a"), `"victim": limit exceeded: a file of 11 bytes`},
		"all files":          {layer.Limits{TotalSize: 20}, join(aFile("a", "0123456789"), aFile("a", "0123456789")), aFile("victim", "x"), `"victim": limit exceeded: files of more than 20 bytes`},
		"holes count":        {layer.Limits{TotalSize: 20}, aFile("a", "x"), join(pax("GNU.sparse.size", "20", "GNU.sparse.map", "0,1"), aFile("victim", "x")), `"victim": limit exceeded: files of more than 20 bytes`},
		"all sizes together": {layer.Limits{}, join(hole("a"), hole("b"), hole("c"), hole("d")), hole("victim"), `"victim": limit exceeded: files of more than`},
		"names and xattrs":   {of(tarfile.Limits{Metadata: 100}), join(pax("SCHILY.xattr.user.a", strings.Repeat("v", 90)), aFile("b", "")), aFile("victim", ""), `"victim": limit exceeded`},
		"sparse maps":        {of(tarfile.Limits{Metadata: 100}), join(pax("GNU.sparse.size", "9", "GNU.sparse.map", "0,1,2,1,4,1,6,1,8,1"), aFile("a", "12345")), join(pax("GNU.sparse.size", "9", "GNU.sparse.map", "0,1,2,1"), aFile("victim", "12")), `"victim": limit exceeded`},
		"segments":           {of(tarfile.Limits{Segments: 2}), join(pax("GNU.sparse.size", "9", "GNU.sparse.map", "0,1,2,1"), aFile("a", "12")), join(pax("GNU.sparse.size", "9", "GNU.sparse.map", "0,1,2,1,3,1"), aFile("victim", "123")), `"victim": limit exceeded`},
		"extended headers":   {of(tarfile.Limits{Extension: 600}), join(pax("comment", strings.Repeat("c", 580)), aFile("a", "")), ext("x", tartest.Records("comment", strings.Repeat("c", 600))), `"ext": limit exceeded`},
		"global records":     {of(tarfile.Limits{Metadata: 100}), ext("g", tartest.Records("SCHILY.xattr.user.a", strings.Repeat("v", 50))), ext("g", tartest.Records("SCHILY.xattr.user.b", strings.Repeat("v", 50))), `"ext": limit exceeded`},
		"xattrs of one":      {of(tarfile.Limits{Xattrs: 1}), join(pax("SCHILY.xattr.user.a", ""), aFile("a", "")), join(pax("SCHILY.xattr.user.a", "", "SCHILY.xattr.user.b", ""), aFile("victim", "")), `limit exceeded: more than 1 extended attributes`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := layer.Scan(bytes.NewReader(tt.below), tt.limits); err != nil {
				t.Errorf("just below: %v", err)
			}
			_, err := layer.Scan(bytes.NewReader(join(tt.below, tt.beyond)), tt.limits)
			if !errors.Is(err, layer.ErrLimit) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("beyond: error %v, want one that says %q", err, tt.says)
			}
		})
	}
}

// hole is a file of 16 TiB.
func hole(name string) []byte {
	return join(pax("GNU.sparse.size", fmt.Sprint(int64(16)<<40), "GNU.sparse.map", "0,0"), aFile(name, ""))
}

// TestTruncatedTars cuts real tars, also where no entry ends: either way of reading must give the same
// tree or the same kind of error, and a part of what was whole.
func TestTruncatedTars(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, tar := range tartest.Real(t) {
		t.Run(name, func(t *testing.T) {
			whole := entriesOf(t, mustScan(t, bytes.NewReader(tar)), bytes.NewReader(tar))
			for range 200 {
				cut := tar[:random.IntN(len(tar))]
				got, err := layer.Scan(bytes.NewReader(cut), layer.Limits{})
				streamed, streamErr := layer.Scan(io.MultiReader(bytes.NewReader(cut)), layer.Limits{})
				if err != nil || streamErr != nil {
					for _, err := range []error{err, streamErr} {
						if !errors.Is(err, tarfile.ErrTruncated) && !errors.Is(err, layer.ErrLink) {
							t.Errorf("cut at %d: error %v", len(cut), err)
						}
					}
					continue
				}
				part := entriesOf(t, got, bytes.NewReader(cut))
				if again := entriesOf(t, streamed, bytes.NewReader(cut)); len(again) != len(part) || len(part) > len(whole) {
					t.Errorf("cut at %d: %d entries at offsets, %d as a stream, %d in the whole", len(cut), len(part), len(again), len(whole))
				}
				for path := range part {
					if whole[path] == nil {
						t.Errorf("cut at %d: %q is not in the whole", len(cut), path)
					}
				}
			}
		})
	}
}

func mustScan(t testing.TB, r io.Reader) *layer.Tree {
	t.Helper()
	scanned, err := layer.Scan(r, layer.Limits{})
	must(t, err)
	return scanned
}

// generated is a tar that exists only while it is read.
type generated struct {
	next func() ([]byte, bool)
	stop func()
	rest []byte
}

// stream makes a reader of pieces. They may be reused by the maker.
func stream(t testing.TB, parts iter.Seq[[]byte]) io.Reader {
	g := &generated{}
	g.next, g.stop = iter.Pull(parts)
	t.Cleanup(g.stop)
	return g
}

func (g *generated) Read(p []byte) (int, error) {
	for len(g.rest) == 0 {
		part, ok := g.next()
		if !ok {
			return 0, io.EOF
		}
		g.rest = part
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// largeFile is a tar of a file of size bytes.
func largeFile(size int64) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		ok := yield(join(pax("size", fmt.Sprint(size)), aFile("large", "")))
		piece := bytes.Repeat([]byte{0xa5}, 1<<20)
		for left := size; ok && left > 0; left -= int64(len(piece)) {
			ok = yield(piece[:min(left, int64(len(piece)))])
		}
		_ = ok && yield(join(aFile("behind", "it"), tartest.End()))
	}
}

// TestMemoryIsFlatInContents scans a file of 2 GiB with as little memory as one of 1 MiB.
func TestMemoryIsFlatInContents(t *testing.T) {
	used := func(size int64) uint64 {
		r := stream(t, largeFile(size))
		return allocated(func() {
			tree := mustScan(t, r)
			if len(tree.Root.Entries) != 2 || tree.Size != size+2 {
				t.Errorf("%d entries with %d bytes", len(tree.Root.Entries), tree.Size)
			}
		})
	}
	used(1 << 20)
	small, large := used(1<<20), used(2<<30)
	// Both make the stream's own piece.
	if large > small+64<<10 {
		t.Errorf("%d bytes allocated for a file of 2 GiB, %d for one of 1 MiB", large, small)
	}
}

// allocated is how many bytes f allocates, freed or not.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestHostileHeadersKeepNoMemory reads much metadata that comes to little, and to nothing: what the tree
// keeps must go by what it has, not by what was said about it.
func TestHostileHeadersKeepNoMemory(t *testing.T) {
	const headers, each = 16, 512 << 10
	repeat := func(kind string, pairs ...string) []byte {
		one := tartest.Records(pairs...)
		return ext(kind, strings.Repeat(one, each/len(one)))
	}
	file := func(i int) []byte { return aFile(fmt.Sprint("f", i), "") }
	for name, part := range map[string]func(i int) []byte{
		"paths": func(i int) []byte { return join(repeat("x", "path", fmt.Sprint("p", i)), file(i)) },
		"targets": func(i int) []byte {
			return join(repeat("x", "linkpath", fmt.Sprint("t", i)), aSymlink(fmt.Sprint("s", i), "t"))
		},
		"names of attributes": func(i int) []byte {
			return join(repeat("x", "SCHILY.xattr.user.a", strings.Repeat("v", 2000)), file(i))
		},
		"owners": func(i int) []byte {
			return join(repeat("x", "uname", fmt.Sprint("u", i), "gname", fmt.Sprint("g", i)), file(i))
		},
		"names of sparse files": func(i int) []byte {
			return join(repeat("x", "GNU.sparse.name", fmt.Sprint("p", i), "GNU.sparse.size", "1"), file(i))
		},
		"no entry at all": func(int) []byte { return repeat("x", "path", "p") },
		"global records":  func(i int) []byte { return join(repeat("g", "uid", fmt.Sprint(i)), file(i)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := stream(t, func(yield func([]byte) bool) {
				for i := range headers {
					if !yield(part(i)) {
						return
					}
				}
				yield(join(aFile("last", ""), tartest.End()))
			})
			before := live()
			tree := mustScan(t, r)
			if kept := live() - before; kept > 2<<20 {
				t.Errorf("%d bytes are kept for %d entries", kept, tree.Entries)
			}
			runtime.KeepAlive(tree)
		})
	}
	t.Run("endless global records", func(t *testing.T) {
		i := 0
		r := stream(t, func(yield func([]byte) bool) {
			for yield(ext("g", tartest.Records(fmt.Sprint("SCHILY.xattr.user.", i), strings.Repeat("v", 1<<20)))) {
				i++
			}
		})
		if _, err := layer.Scan(r, layer.Limits{}); !errors.Is(err, layer.ErrLimit) {
			t.Errorf("after %d records: %v", i, err)
		}
	})
}

// live is how many bytes are in use.
func live() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
