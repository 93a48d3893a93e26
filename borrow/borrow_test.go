package borrow_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/borrow"
	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/layer"
)

// world is a store in a directory: layers that may lend, each with its own file.
type world struct {
	t       *testing.T
	dir     string
	layers  []borrow.Source
	files   map[holes.TarID]string // own files
	maps    map[holes.TarID]*holes.Map
	content map[holes.TarID][]byte // as it arrived
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, dir: t.TempDir(), files: map[holes.TarID]string{},
		maps: map[holes.TarID]*holes.Map{}, content: map[holes.TarID][]byte{},
	}
}

// observe reads a tar as a new layer is read.
func observe(t *testing.T, data []byte) *borrow.Contents {
	t.Helper()
	contents := new(borrow.Contents)
	_, err := layer.ScanContents(bytes.NewReader(data), layer.Limits{}, contents.Observe)
	require.NoError(t, err)
	return contents
}

func (w *world) open(id holes.TarID) (*holes.Tar, error) {
	var devices []*os.File
	for _, of := range append([]holes.TarID{id}, w.maps[id].Lenders...) {
		f, err := os.Open(w.files[of])
		if err != nil {
			return nil, err
		}
		devices = append(devices, f)
	}
	return holes.NewTar(w.maps[id], devices, nil)
}

// add takes in a tar with whatever it can borrow, makes sure that it still reads as it is, and
// that no file of it is in two pieces, and gives the map.
func (w *world) add(data []byte) *holes.Map {
	w.t.Helper()
	contents := observe(w.t, data)
	id := holes.TarID{DiffID: sha256.Sum256(data), Generation: uint32(len(w.layers) % 3)}
	plan, err := borrow.Find(w.t.Context(), bytes.NewReader(data), int64(len(data)), contents, w.layers)
	require.NoError(w.t, err)
	m := &holes.Map{Size: int64(len(data))}
	if plan != nil {
		m = plan.Map
		require.Len(w.t, plan.Lenders, len(m.Lenders))
	}
	m.Generation = id.Generation
	require.NoError(w.t, m.Prepare())
	own := bytes.Clone(data)
	if m.Packed {
		own = nil
		for piece := range m.Own() {
			own = append(own, data[piece.Offset:piece.Offset+piece.Length]...)
		}
	} else {
		for _, r := range m.Ranges { // as a hole would read
			clear(own[int64(r.Start)*holes.BlockSize:][:int64(r.Count)*holes.BlockSize])
		}
	}
	path := filepath.Join(w.dir, fmt.Sprint(len(w.layers)))
	require.NoError(w.t, os.WriteFile(path, own, 0o600))
	w.files[id], w.maps[id], w.content[id] = path, m, data
	w.layers = append(w.layers, borrow.Source{
		DiffID: id.DiffID,
		Table:  func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(contents.Table())), nil },
		Open:   func() (*holes.Tar, error) { return w.open(id) },
	})
	require.NoError(w.t, plan.Close())
	w.check(id)
	return m
}

func (w *world) check(id holes.TarID) {
	w.t.Helper()
	stored, err := w.open(id)
	require.NoError(w.t, err)
	defer stored.Close()
	got, err := io.ReadAll(stored)
	require.NoError(w.t, err)
	require.True(w.t, bytes.Equal(w.content[id], got))
	_, err = layer.ScanContents(bytes.NewReader(got), layer.Limits{}, func(offset, length int64) (io.Writer, int64) {
		pieces := 0
		for range stored.Map.Pieces(offset, length) {
			pieces++
		}
		require.Equal(w.t, 1, pieces, "%d bytes at %d", length, offset)
		return nil, 0
	})
	require.NoError(w.t, err)
}

// entry is a file of a tar; seed and size are its contents.
type entry struct {
	name string
	seed uint64
	size int
	time int
}

func noise(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, (size+7)/8*8)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b[:size]
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		h := tar.Header{Name: e.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(e.size), Format: tar.FormatUSTAR}
		h.ModTime = h.ModTime.AddDate(0, 0, 719162+e.time)
		require.NoError(t, tw.WriteHeader(&h))
		_, err := tw.Write(noise(e.seed, e.size))
		require.NoError(t, err)
	}
	require.NoError(t, tw.Close())
	return buf.Bytes()
}

// mutate is what happens to a root between two builds.
func mutate(r *rand.Rand, entries []entry) []entry {
	var next []entry
	for _, e := range entries {
		switch r.IntN(12) {
		case 0: // removed
			continue
		case 1: // updated
			e.seed = r.Uint64N(500)
		case 2:
			e.size = r.IntN(40000)
		case 3, 4: // touched
			e.time = r.IntN(10)
		case 5: // something new before it
			next = append(next, entry{fmt.Sprint("new", r.IntN(1000)), r.Uint64N(500), r.IntN(30000), 0})
		}
		next = append(next, e)
	}
	return next
}

// TestFamilies: whatever a series of tars has in common, each reads as it arrived.
func TestFamilies(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 12 {
		w := newWorld(t)
		var entries []entry
		for i := range 60 {
			entries = append(entries, entry{fmt.Sprint("f", i), r.Uint64N(500), r.IntN(30000), 0})
		}
		saved := int64(0)
		for range 8 {
			saved += w.add(makeTar(t, entries...)).Borrowed()
			entries = mutate(r, entries)
			if r.IntN(3) == 0 {
				r.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
			}
		}
		require.Positive(t, saved)
		for id := range w.maps { // later ones took nothing away
			w.check(id)
		}
	}
}

func someEntries(n int) []entry {
	entries := make([]entry, n)
	for i := range entries {
		entries[i] = entry{fmt.Sprint("f", i), uint64(i), 1000 + 700*(i%20), 0}
	}
	return entries
}

func TestTheSameButForHeaders(t *testing.T) {
	w := newWorld(t)
	entries := someEntries(100)
	require.True(t, w.add(makeTar(t, entries...)).Whole())
	for i := range entries {
		if i%10 == 0 {
			entries[i].time = 1
		}
	}
	data := makeTar(t, entries...)
	m := w.add(data)
	require.True(t, m.Packed)
	// Left are ten headers, and what is too short for a range, or less than a block at the end.
	require.Less(t, m.OwnSize(), int64(100*holes.BlockSize))
	require.Len(t, m.Lenders, 1)
}

func TestLittleInCommonStaysInPlace(t *testing.T) {
	w := newWorld(t)
	w.add(makeTar(t, entry{"a", 1, 100_000, 0}))
	m := w.add(makeTar(t, entry{"b", 2, 500_000, 0}, entry{"c", 1, 100_000, 0}))
	require.False(t, m.Packed)
	require.Positive(t, m.Borrowed())
	require.True(t, w.add(makeTar(t, entry{"x", 3, 50_000, 0}, entry{"y", 4, 50_000, 0})).Whole(), "nothing in common")
	w.add(makeTar(t, entry{"d", 5, 60_000, 0}))
	require.True(t, w.add(makeTar(t, entry{"d", 5, 60_000, 0}, entry{"e", 6, 1000, 0})).Whole(), "not worth it")
}

func TestWithinItself(t *testing.T) {
	w := newWorld(t)
	m := w.add(makeTar(t, entry{"a", 1, 100_000, 0}, entry{"b", 2, 100_000, 0}, entry{"c", 1, 100_000, 0}))
	require.Empty(t, m.Lenders)
	require.Equal(t, int64(196*holes.BlockSize), m.Borrowed())
	m = w.add(makeTar(t, entry{"x", 7, 100_000, 0}, entry{"a", 1, 100_000, 0}, entry{"y", 7, 100_000, 0}, entry{"z", 7, 100_000, 0}))
	require.Len(t, m.Lenders, 1)
	require.True(t, m.Packed)
	require.Equal(t, int64((3*196+1)*holes.BlockSize), m.Borrowed(), "a with its header from the first, y and z from x")
}

// TestNoChains: what was borrowed by the source is borrowed from where it is.
func TestNoChains(t *testing.T) {
	w := newWorld(t)
	entries := someEntries(60)
	w.add(makeTar(t, entries...))
	first := w.layers[0].DiffID
	entries[30].seed = 1000
	w.add(makeTar(t, entries...))
	entries[40].seed = 1001
	m := w.add(makeTar(t, entries...))
	require.Len(t, m.Lenders, 2)
	bytesOf := map[[32]byte]int64{}
	for _, r := range m.Ranges {
		bytesOf[m.Lenders[r.Device-1].DiffID] += int64(r.Count) * holes.BlockSize
	}
	require.Greater(t, bytesOf[first], int64(300_000))
	require.Less(t, bytesOf[w.layers[1].DiffID], int64(20_000))
}

func TestLendersAreBoundedByBytes(t *testing.T) {
	w := newWorld(t)
	// Each nightly build changes one file; what the last has in common with each is in that one.
	entries := someEntries(holes.MaxLenders + 20)
	for i := range entries {
		entries[i].size = 8000
		if i < 20 {
			entries[i].size = 3000 // the poorest
		}
	}
	changing := append([]entry{}, entries...)
	for i := range changing {
		changing[i].seed += 100_000
	}
	w.add(makeTar(t, changing...))
	for i := range entries {
		changing[i] = entries[i]
		w.add(makeTar(t, changing...))
	}
	m := w.add(append(makeTar(t, changing...), make([]byte, 4096)...))
	require.Len(t, m.Lenders, holes.MaxLenders)
	own := m.OwnSize()
	require.Less(t, own, int64(30*4000), "what is left is of the poorest")
}

// source makes a source of a tar with any table.
func (w *world) lie(i int, table []byte) {
	w.layers[i].Table = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(table)), nil }
}

func TestTablesThatLieOnlyCost(t *testing.T) {
	base := makeTar(t, someEntries(60)...)
	changed := someEntries(60)
	changed[5].seed = 999
	data := makeTar(t, changed...)
	good := observe(t, base).Table()
	require.NoError(t, borrow.CheckTable(good))
	for name, table := range map[string][]byte{
		"empty":      nil,
		"cut short":  good[:len(good)/2],
		"of another": observe(t, makeTar(t, entry{"a", 77, 9000, 0})).Table(),
		"not one":    noise(1, 5000),
		"of the tar": observe(t, data).Table(), // right keys, wrong places
		"out of range": func() []byte {
			b := bytes.Clone(good)
			for at := 24; at+4 < len(b); at += 12 {
				binary.LittleEndian.PutUint32(b[at:], 1<<32-1)
			}
			return b
		}(),
		"all at one place": func() []byte {
			b := bytes.Clone(good)
			for at := 24; at+4 < len(b); at += 12 {
				binary.LittleEndian.PutUint32(b[at:], 1)
			}
			return b
		}(),
		"shifted": func() []byte {
			b := bytes.Clone(good)
			for at := 24; at+4 < len(b); at += 12 {
				binary.LittleEndian.PutUint32(b[at:], binary.LittleEndian.Uint32(b[at:])+1)
			}
			return b
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.add(base)
			w.lie(0, table)
			w.add(data) // checks that it reads as it is
			switch name {
			case "empty", "cut short", "not one", "out of range", "all at one place", "shifted":
				require.ErrorIs(t, borrow.CheckTable(table), borrow.ErrTable)
			}
		})
	}
}

// TestEqualKeysAreNotEqualBytes: a table says that other bytes are the same.
func TestEqualKeysAreNotEqualBytes(t *testing.T) {
	w := newWorld(t)
	w.add(makeTar(t, entry{"a", 1, 200_000, 0}))
	data := makeTar(t, entry{"a", 2, 200_000, 0})
	w.lie(0, observe(t, data).Table())
	require.True(t, w.add(data).Whole())
}

func TestSourcesThatFailArePassedOver(t *testing.T) {
	w := newWorld(t)
	data := makeTar(t, someEntries(60)...)
	w.add(data)
	broken := errors.New("broken")
	good := w.layers[0]
	w.layers = []borrow.Source{
		{Table: func() (io.ReadCloser, error) { return nil, broken }, Open: good.Open},
		{Table: good.Table, Open: func() (*holes.Tar, error) { return nil, broken }},
		{DiffID: good.DiffID, Table: good.Table, Open: func() (*holes.Tar, error) { // cut
			path := filepath.Join(w.dir, "cut")
			if err := os.WriteFile(path, data[:100_000], 0o600); err != nil {
				return nil, err
			}
			f, err := os.Open(path)
			if err != nil {
				return nil, err
			}
			m := &holes.Map{Size: int64(len(data))}
			return holes.NewTar(m, []*os.File{f}, nil)
		}},
		good,
	}
	changed := someEntries(60)
	changed[0].seed = 99
	m := w.add(makeTar(t, changed...))
	require.Greater(t, m.Borrowed(), int64(300_000))
}

func TestContextEndsTheSearch(t *testing.T) {
	w := newWorld(t)
	data := makeTar(t, someEntries(60)...)
	w.add(data)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := borrow.Find(ctx, bytes.NewReader(data), int64(len(data)), observe(t, data), w.layers)
	require.ErrorIs(t, err, context.Canceled)
}

func TestUnreadableTar(t *testing.T) {
	w := newWorld(t)
	data := makeTar(t, someEntries(60)...)
	w.add(data)
	_, err := borrow.Find(t.Context(), bytes.NewReader(data[:1000]), int64(len(data)), observe(t, data), w.layers)
	require.ErrorIs(t, err, io.EOF)
}

// FuzzTable: no table makes a layer read as other than it is.
func FuzzTable(f *testing.F) {
	contents := new(borrow.Contents)
	base := makeTar(f, someEntries(40)...)
	_, err := layer.ScanContents(bytes.NewReader(base), layer.Limits{}, contents.Observe)
	require.NoError(f, err)
	f.Add(contents.Table())
	changed := someEntries(40)
	changed[3].size = 100
	data := makeTar(f, changed...)
	f.Fuzz(func(t *testing.T, table []byte) {
		w := newWorld(t)
		w.add(base)
		w.lie(0, table)
		w.add(data)
	})
}
