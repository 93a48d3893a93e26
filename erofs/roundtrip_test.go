package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// memory is an io.WriterAt and io.ReaderAt.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, offset int64) (int, error) {
	if end := int(offset) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[offset:], p), nil
}

func (m *memory) ReadAt(p []byte, offset int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, offset)
}

// deviceData makes size bytes that differ from block to block.
func deviceData(size int, seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

func devicesOf(data ...[]byte) (devices []Device, readers []io.ReaderAt) {
	for i, d := range data {
		devices = append(devices, Device{Size: int64(len(d)), Data: bytes.NewReader(d), Tag: fmt.Sprintf("device-%d", i+1)})
		readers = append(readers, bytes.NewReader(d))
	}
	return devices, readers
}

func mustWrite(t testing.TB, root *Inode, devices []Device, opts Options) *memory {
	t.Helper()
	var m memory
	size, err := Write(&m, root, devices, opts)
	if err != nil {
		t.Fatal(err)
	}
	if size != int64(len(m.b)) {
		t.Fatalf("Write said %d bytes and wrote %d", size, len(m.b))
	}
	return &m
}

func mustOpen(t testing.TB, m *memory) *Image {
	t.Helper()
	im, err := Open(m, int64(len(m.b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return im
}

func dir(entries ...Entry) *Inode {
	return &Inode{Mode: ModeDir | 0o755, Entries: entries}
}

func file(size int64, extents ...Extent) *Inode {
	return &Inode{Mode: ModeRegular | 0o644, Size: size, Extents: extents}
}

func symlink(target string) *Inode {
	return &Inode{Mode: ModeSymlink | 0o777, Target: target}
}

// compareTree fails unless the image is the tree.
func compareTree(t testing.TB, im *Image, root *Inode, data [][]byte, readers []io.ReaderAt) {
	t.Helper()
	nids := map[*Inode]uint64{}
	names := map[*Inode]uint32{}
	countNames(root, names)
	node, err := im.Root()
	if err != nil {
		t.Fatal(err)
	}
	c := &comparison{t: t, nids: nids, names: names, data: data, readers: readers}
	c.compare("/", root, node)
	if int(im.Inodes()) != len(nids) {
		t.Errorf("the image has %d inodes, the tree %d", im.Inodes(), len(nids))
	}
}

func countNames(in *Inode, names map[*Inode]uint32) {
	for _, e := range in.Entries {
		names[e.Inode]++
		countNames(e.Inode, names)
	}
}

type comparison struct {
	t       testing.TB
	nids    map[*Inode]uint64
	names   map[*Inode]uint32
	data    [][]byte
	readers []io.ReaderAt
}

func (c *comparison) compare(path string, want *Inode, got *Node) {
	c.t.Helper()
	if nid, known := c.nids[want]; known && nid != got.NID {
		c.t.Errorf("%s: inode %d, under another name %d", path, got.NID, nid)
	}
	c.nids[want] = got.NID
	nlink, size := c.names[want], int64(0)
	switch want.Mode & ModeType {
	case ModeDir:
		nlink, size = 2, got.Size
		for _, e := range want.Entries {
			if e.Inode.Mode&ModeType == ModeDir {
				nlink++
			}
		}
	case ModeRegular:
		size = want.Size
	case ModeSymlink:
		size = int64(len(want.Target))
	}
	wantStat := Node{Mode: want.Mode, UID: want.UID, GID: want.GID, Nlink: nlink, Sec: want.Sec, Nsec: want.Nsec, Rdev: want.Rdev, Size: size}
	gotStat := Node{Mode: got.Mode, UID: got.UID, GID: got.GID, Nlink: got.Nlink, Sec: got.Sec, Nsec: got.Nsec, Rdev: got.Rdev, Size: got.Size}
	if wantStat != gotStat {
		c.t.Errorf("%s: stat\n got %+v\nwant %+v", path, gotStat, wantStat)
	}
	xattrs, err := got.Xattrs()
	if err != nil {
		c.t.Errorf("%s: %v", path, err)
	}
	if !slices.EqualFunc(xattrs, want.Xattrs, func(a, b Xattr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }) {
		c.t.Errorf("%s: xattrs %q, want %q", path, xattrs, want.Xattrs)
	}
	switch want.Mode & ModeType {
	case ModeDir:
		c.compareDir(path, want, got)
	case ModeSymlink:
		if target, err := got.Readlink(); err != nil || target != want.Target {
			c.t.Errorf("%s: target %q, %v, want %q", path, target, err, want.Target)
		}
	case ModeRegular:
		c.compareData(path, want, got)
	}
}

func (c *comparison) compareDir(path string, want *Inode, got *Node) {
	c.t.Helper()
	i := 0
	for entry, err := range got.Entries() {
		if err != nil {
			c.t.Fatalf("%s: %v", path, err)
		}
		if i == len(want.Entries) || want.Entries[i].Name != entry.Name {
			c.t.Fatalf("%s: entry %d is %q", path, i, entry.Name)
		}
		child, err := got.Lookup(entry.Name)
		if err != nil {
			c.t.Fatalf("%s: %v", path, err)
		}
		if child.NID != entry.NID {
			c.t.Errorf("%s: lookup of %q gives inode %d, reading the directory %d", path, entry.Name, child.NID, entry.NID)
		}
		c.compare(path+entry.Name+"/", want.Entries[i].Inode, child)
		i++
	}
	if i != len(want.Entries) {
		c.t.Errorf("%s: %d entries, want %d", path, i, len(want.Entries))
	}
	for _, absent := range []string{"", "absent", "\xff", "!"} {
		if slices.ContainsFunc(want.Entries, func(e Entry) bool { return e.Name == absent }) {
			continue
		}
		if _, err := got.Lookup(absent); !errors.Is(err, fs.ErrNotExist) {
			c.t.Errorf("%s: lookup of %q: %v", path, absent, err)
		}
	}
}

// contents returns what a file of the tree holds.
func contents(in *Inode, data [][]byte) []byte {
	b := make([]byte, in.Size)
	for _, e := range in.Extents {
		copy(b[e.Logical:], data[e.Device-1][e.Physical:e.Physical+e.Length])
	}
	return b
}

func (c *comparison) compareData(path string, want *Inode, got *Node) {
	c.t.Helper()
	if want.Size > 1<<24 {
		return
	}
	section, err := got.Data(c.readers)
	if err != nil {
		c.t.Fatalf("%s: %v", path, err)
	}
	b, err := io.ReadAll(section)
	if err != nil || !bytes.Equal(b, contents(want, c.data)) {
		c.t.Errorf("%s: wrong contents (%d bytes, %v)", path, len(b), err)
	}
}

func TestRoundTrip(t *testing.T) {
	data := [][]byte{deviceData(64<<10, 1), deviceData(5000, 2)}
	devices, readers := devicesOf(data...)
	hardLinked := file(700, Extent{0, 700, 1, 512})
	manyNames := dir()
	for i := range 3000 {
		manyNames.Entries = append(manyNames.Entries, Entry{fmt.Sprintf("name-%04x", i*7919%3000), file(0)})
	}
	deep := dir()
	for range 1000 {
		deep = dir(Entry{"d", deep})
	}
	trees := map[string]*Inode{
		"empty": dir(),
		"kinds": dir(
			Entry{"block", &Inode{Mode: ModeBlock | 0o660, Rdev: MakeDev(8, 1), GID: 6}},
			Entry{"char", &Inode{Mode: ModeChar | 0o666, Rdev: MakeDev(MaxMajor, MaxMinor)}},
			Entry{"whiteout", &Inode{Mode: ModeChar}},
			Entry{"fifo", &Inode{Mode: ModeFifo | 0o600}},
			Entry{"socket", &Inode{Mode: ModeSocket | 0o777}},
			Entry{"setuid", &Inode{Mode: ModeRegular | 0o7755, UID: 1 << 31, GID: 1<<32 - 1}},
			Entry{"old", &Inode{Mode: ModeRegular | 0o644, Sec: -1 << 40, Nsec: 999999999}},
			Entry{"late", &Inode{Mode: ModeRegular | 0o644, Sec: 1 << 40, Nsec: 1}},
		),
		"order of dots": dir(
			Entry{"!", file(0)}, Entry{".-", file(0)}, Entry{"...", file(0)}, Entry{".a", file(0)},
			Entry{"\x01", file(0)}, Entry{"\xff\xfe", file(0)}, Entry{"-", file(0)}, Entry{"A", file(0)},
		),
		"long names": dir(
			Entry{strings.Repeat("n", MaxName), file(0)}, Entry{strings.Repeat("o", MaxName), file(0)},
			Entry{strings.Repeat("p", MaxName-1), dir(Entry{strings.Repeat("q", MaxName), file(0)})},
		),
		"many names": manyNames,
		"deep":       deep,
		"hard links": dir(Entry{"a", hardLinked}, Entry{"b", dir(Entry{"c", hardLinked})}, Entry{"d", hardLinked}),
		"symlinks": dir(
			Entry{"1", symlink("x")}, Entry{"2", symlink(strings.Repeat("a", 447))}, Entry{"3", symlink(strings.Repeat("b", 448))},
			Entry{"4", symlink(strings.Repeat("c", 449))}, Entry{"5", symlink(strings.Repeat("d", 512))}, Entry{"6", symlink(strings.Repeat("e", MaxTarget))},
		),
		"extents": dir(
			Entry{"one", file(1, Extent{0, 1, 1, 0})},
			Entry{"block", file(512, Extent{0, 512, 1, 512})},
			Entry{"odd", file(10000, Extent{0, 10000, 1, 1024})},
			Entry{"in pieces", file(10000, Extent{0, 512, 1, 1024}, Extent{512, 9488, 1, 1536})},
			Entry{"hole", file(100000)},
			Entry{"hole at start", file(9000, Extent{8192, 808, 1, 0})},
			Entry{"hole at end", file(9000, Extent{0, 4096, 1, 0})},
			Entry{"hole at end, odd", file(9000, Extent{0, 4000, 1, 0})},
			Entry{"two devices", file(2048, Extent{0, 1024, 2, 0}, Extent{1024, 1024, 1, 0})},
			Entry{"unaligned", file(5000, Extent{0, 5000, 2, 0})},
			Entry{"unaligned physically", file(4999, Extent{0, 4999, 2, 1})},
			Entry{"unaligned logically", file(5000, Extent{1, 17, 2, 77}, Extent{19, 1, 1, 5}, Extent{700, 600, 2, 700})},
			Entry{"empty extents", file(600, Extent{0, 0, 1, 0}, Extent{0, 600, 1, 512}, Extent{600, 0, 1, 0})},
			Entry{"holes in order", file(40960, Extent{4096, 4096, 1, 4096}, Extent{12288, 4096, 1, 8192}, Extent{20480, 8192, 1, 12288})},
		),
		"xattrs": dir(
			Entry{"all", &Inode{Mode: ModeDir | 0o755, Xattrs: []Xattr{
				{"user.a", []byte("1")},
				{"trusted.overlay.opaque", []byte("y")},
				{"security.capability", make([]byte, 20)},
				{"system.posix_acl_access", []byte{2, 0, 0, 0}},
				{"system.posix_acl_default", []byte{2, 0, 0, 0}},
				{"user.empty", nil},
			}}},
			Entry{"large", &Inode{Mode: ModeDir | 0o755, Xattrs: []Xattr{{"user.large", deviceData(MaxXattrValue, 3)}}, Entries: []Entry{{"x", file(0)}}}},
			Entry{"middle", &Inode{Mode: ModeSymlink | 0o777, Target: "t", Xattrs: []Xattr{{"trusted.middle", make([]byte, 440)}}}},
			Entry{"file", &Inode{Mode: ModeRegular | 0o644, Size: 4, Extents: []Extent{{0, 4, 1, 0}}, Xattrs: []Xattr{{"user.b", []byte("odd")}}}},
		),
	}
	for name, tree := range trees {
		for _, blockBits := range []uint8{9, 10, 11, 12} {
			t.Run(fmt.Sprintf("%s/%d", name, blockBits), func(t *testing.T) {
				m := mustWrite(t, tree, devices, Options{BlockBits: blockBits})
				compareTree(t, mustOpen(t, m), tree, data, readers)
			})
		}
	}
}

// randomTree makes a tree that uses everything.
func randomTree(random *rand.Rand, data [][]byte) *Inode {
	root := dir()
	dirs := []*Inode{root}
	var files []*Inode
	for range random.IntN(300) {
		parent := dirs[random.IntN(len(dirs))]
		in := randomInode(random, data)
		if len(files) > 0 && random.IntN(8) == 0 {
			in = files[random.IntN(len(files))]
		}
		name := fmt.Sprintf("%s%d", strings.Repeat(string(rune('!'+random.IntN(90))), 1+random.IntN(100)), len(parent.Entries))
		name = strings.ReplaceAll(name, "/", "_")
		parent.Entries = append(parent.Entries, Entry{name, in})
		if in.Mode&ModeType == ModeDir {
			dirs = append(dirs, in)
		} else {
			files = append(files, in)
		}
	}
	return root
}

func randomInode(random *rand.Rand, data [][]byte) *Inode {
	types := []uint32{ModeRegular, ModeRegular, ModeRegular, ModeDir, ModeDir, ModeSymlink, ModeChar, ModeFifo}
	in := &Inode{
		Mode: types[random.IntN(len(types))] | random.Uint32N(0o10000), UID: random.Uint32(), GID: random.Uint32(),
		Sec: random.Int64() - random.Int64(), Nsec: random.Uint32N(1e9),
	}
	for i := range random.IntN(3) * random.IntN(3) {
		in.Xattrs = append(in.Xattrs, Xattr{fmt.Sprintf("trusted.%d", i), make([]byte, random.IntN(300))})
	}
	switch in.Mode & ModeType {
	case ModeSymlink:
		in.Target = strings.Repeat("t", 1+random.IntN(600))
	case ModeChar:
		in.Rdev = MakeDev(random.Uint32(), random.Uint32())
	case ModeRegular:
		in.Size, in.Extents = randomExtents(random, data)
	}
	return in
}

func randomExtents(random *rand.Rand, data [][]byte) (size int64, extents []Extent) {
	unit := int64(1) << random.IntN(12)
	for range random.IntN(6) {
		device := 1 + random.IntN(len(data))
		size += unit * random.Int64N(8)
		length := unit * random.Int64N(8)
		physical := unit * random.Int64N(1+int64(len(data[device-1]))/unit)
		length = min(length, int64(len(data[device-1]))-physical)
		extents = append(extents, Extent{size, length, uint16(device), physical})
		size += length
	}
	return size + unit*random.Int64N(3)*random.Int64N(3), extents
}

func TestRoundTripRandom(t *testing.T) {
	data := [][]byte{deviceData(100<<10, 1), deviceData(9999, 2), deviceData(1<<20, 3), deviceData(512, 4)}
	devices, readers := devicesOf(data...)
	for seed := range uint64(200) {
		tree := randomTree(rand.New(rand.NewPCG(seed, 0)), data)
		blockBits := uint8(9 + seed%4)
		m := mustWrite(t, tree, devices, Options{BlockBits: blockBits})
		compareTree(t, mustOpen(t, m), tree, data, readers)
		again := mustWrite(t, randomTree(rand.New(rand.NewPCG(seed, 0)), data), devices, Options{BlockBits: blockBits})
		if !bytes.Equal(m.b, again.b) {
			t.Fatalf("seed %d: the same tree gave other bytes", seed)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
