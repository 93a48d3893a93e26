package erofs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestCheckFindsEveryFlippedByte damages each byte of an image in turn.
func TestCheckFindsEveryFlippedByte(t *testing.T) {
	devices, readers := devicesOf(deviceData(4096, 1))
	linked := &Inode{Mode: ModeChar | 0o600, Rdev: MakeDev(1, 3), Xattrs: []Xattr{{"trusted.a", []byte("value")}}}
	tree := dir(
		Entry{"a", linked}, Entry{"b", dir(Entry{"c", linked}, Entry{"d", symlink("target")})},
		Entry{"e", file(3000, Extent{0, 1024, 1, 0}, Extent{2048, 952, 1, 3072})}, Entry{"f", symlink(strings.Repeat("f", 500))},
		Entry{strings.Repeat("g", 200), file(0)}, Entry{strings.Repeat("h", 200), file(0)}, Entry{strings.Repeat("i", 200), file(0)},
	)
	m := mustWrite(t, tree, devices, Options{})
	for at := range m.b {
		m.b[at] ^= byte(1 + at%255)
		im, err := Open(m, int64(len(m.b)))
		if err == nil {
			readAll(im, readers)
			err = im.Check(t.Context())
		}
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("byte %d: %v", at, err)
		}
		m.b[at] ^= byte(1 + at%255)
	}
	for size := range len(m.b) {
		if _, err := Open(m, int64(size)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
	}
}

// readAll uses every method of a reader and drops what it gives.
func readAll(im *Image, devices []io.ReaderAt) {
	budget := 1000
	for entry, err := range im.Walk() {
		if budget--; err != nil || budget == 0 {
			return
		}
		n := entry.Node
		_, _ = im.Lookup(entry.Path)
		_, _ = n.Xattrs()
		_, _ = n.Readlink()
		_, _ = n.Extents()
		_, _ = n.Lookup("a")
		if section, err := n.Data(devices); err == nil {
			_, _ = io.CopyN(io.Discard, section, 1<<16)
		}
	}
}

// TestCheckProves makes images that are well formed in each part, and have the
// right digest, and are wrong as a whole.
func TestCheckProves(t *testing.T) {
	data := [][]byte{deviceData(1<<16, 1)}
	devices, readers := devicesOf(data...)
	tree := func() *Inode {
		return dir(
			Entry{"a", dir(Entry{"x", dir(Entry{"deep", file(0)})})},
			Entry{"b", dir(Entry{"y", file(0)})},
			Entry{"data", file(600, Extent{0, 600, 1, 512})},
			Entry{"spilled", file(600, Extent{0, 600, 1, 1})},
			Entry{"spilled too", file(600, Extent{0, 600, 1, 2})},
			Entry{"target", symlink(strings.Repeat("t", 500))},
			Entry{"target too", symlink(strings.Repeat("t", 500))},
		)
	}
	offsets := map[string]int64{}
	im := mustOpen(t, mustWrite(t, tree(), devices, Options{}))
	for entry, err := range im.Walk() {
		if err != nil {
			t.Fatal(err)
		}
		offsets[entry.Path] = entry.Node.offset
	}
	l := newLayout(devices, Options{BlockBits: 9, MaxSize: 1 << 20, MaxSpill: 1 << 20})
	if err := l.run(tree()); err != nil {
		t.Fatal(err)
	}
	metaEnd := l.metaEnd
	le := binary.LittleEndian
	nid := func(path string) uint64 { return uint64(offsets[path] >> inodeSlotBits) }
	// dirent returns the nth entry of a directory whose entries are inline.
	dirent := func(b []byte, path string, nth int) []byte { return b[offsets[path]+inodeSize+int64(nth)*direntSize:] }
	tests := []struct {
		name   string
		damage func(b []byte)
		text   string
	}{
		{"link count", func(b []byte) { le.PutUint32(b[offsets["b/y"]+44:], 2) }, "links"},
		{"link count of a directory", func(b []byte) { le.PutUint32(b[offsets["a"]+44:], 2) }, "links"},
		{"number of inodes", func(b []byte) { b[superOffset+16]++ }, "inodes"},
		{"dot", func(b []byte) { le.PutUint64(dirent(b, "a", 0), nid("b")) }, `"."`},
		{"dotdot", func(b []byte) { le.PutUint64(dirent(b, "a/x", 1), nid("b")) }, `".."`},
		{"loop", func(b []byte) { le.PutUint64(dirent(b, "a", 2), nid("a")) }, "two names"},
		{"loop through the root", func(b []byte) { le.PutUint64(dirent(b, "a/x", 2), nid(".")); dirent(b, "a/x", 2)[10] = 2 }, "two names"},
		{"directory twice", func(b []byte) { le.PutUint64(dirent(b, ".", 3), nid("a")) }, "two names"},
		{"wrong type", func(b []byte) { dirent(b, "b", 2)[10] = 7 }, "type"},
		{"order", func(b []byte) {
			first, second := dirent(b, ".", 2), dirent(b, ".", 3)
			first[8], second[8] = second[8], first[8]
		}, "directory name"},
		{"inode outside", func(b []byte) { le.PutUint64(dirent(b, "b", 2), 1<<40) }, "no such inode"},
		{"inode in the superblock", func(b []byte) { le.PutUint64(dirent(b, "b", 2), 32) }, "no such inode"},
		{"shared block", func(b []byte) {
			copy(b[offsets["target"]+16:][:4], b[offsets["target too"]+16:][:4])
		}, "two inodes use"},
		{"chunk outside its device", func(b []byte) { le.PutUint32(b[offsets["data"]+inodeSize+4:], 127) }, "block 127"},
		{"chunk outside the image", func(b []byte) { le.PutUint32(b[offsets["spilled"]+inodeSize+4:], 1000) }, "block 1000"},
		{"chunk in metadata", func(b []byte) { le.PutUint32(b[offsets["spilled"]+inodeSize+4:], 3) }, "two inodes use"},
		{"chunk spilled twice", func(b []byte) {
			copy(b[offsets["spilled"]+inodeSize:][:16], b[offsets["spilled too"]+inodeSize:][:16])
		}, "two inodes use"},
		{"unknown device", func(b []byte) { le.PutUint16(b[offsets["data"]+inodeSize+2:], 2) }, "device 2"},
		{"permissions", func(b []byte) { b[offsets["b/y"]+4] ^= 0o22 }, "digest"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := mustWrite(t, tree(), devices, Options{})
			test.damage(m.b)
			if test.text != "digest" {
				sealImage(m.b, metaEnd)
			}
			im, err := Open(m, int64(len(m.b)))
			if err != nil {
				t.Fatal(err)
			}
			readAll(im, readers)
			if err := im.Check(t.Context()); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v, want %q", err, test.text)
			}
		})
	}
}

// sealImage makes the digest of an image right, whose metadata ends at metaEnd.
func sealImage(b []byte, metaEnd int64) {
	super, err := decodeSuperBlock(b[superOffset:])
	if err != nil {
		return
	}
	digest := super.newDigest()
	digest.Write(b[deviceTable:metaEnd])
	super.uuid = imageUUID(digest)
	super.encode(b[superOffset:deviceTable])
}

func TestCheckStops(t *testing.T) {
	im := mustOpen(t, mustWrite(t, dir(Entry{"a", dir()}), nil, Options{}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := im.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestLookup(t *testing.T) {
	tree := dir(Entry{"a", dir(Entry{"b", dir(Entry{"c", file(0)})})}, Entry{"link", symlink("a")})
	im := mustOpen(t, mustWrite(t, tree, nil, Options{}))
	for path, found := range map[string]bool{
		"": true, "/": true, ".": true, "a": true, "/a/b/c": true, "a//b/./c": true, "a/b/": true,
		"b": false, "a/c": false, "a/b/c/d": false, "link/b": false, "..": false, "a/..": false, "a/../a": false,
	} {
		n, err := im.Lookup(path)
		if found && err != nil || !found && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v, %v", path, n, err)
		}
	}
}

func TestDataErrors(t *testing.T) {
	devices, _ := devicesOf(deviceData(4096, 1))
	im := mustOpen(t, mustWrite(t, dir(Entry{"f", file(4000, Extent{0, 4000, 1, 0})}), devices, Options{}))
	n, err := im.Lookup("f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Data(nil); err == nil {
		t.Error("no error without devices")
	}
	section, err := n.Data([]io.ReaderAt{bytes.NewReader(make([]byte, 1000))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(section); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a short device gave %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	data := [][]byte{deviceData(8192, 1)}
	devices, readers := devicesOf(data...)
	seeds := []*Inode{
		dir(),
		dir(Entry{"a", dir(Entry{"b", symlink("target")})}, Entry{"c", file(9000, Extent{0, 600, 1, 512}, Extent{4096, 17, 1, 1})}),
		dir(Entry{"x", &Inode{Mode: ModeRegular, Xattrs: []Xattr{{"user.a", []byte("b")}, {"trusted.c", nil}}}}, Entry{"s", symlink(strings.Repeat("t", 700))}),
	}
	for seed := range uint64(30) {
		seeds = append(seeds, randomTree(rand.New(rand.NewPCG(seed, 0)), data))
	}
	start := inodeStart(len(devices), DefaultBlockBits)
	for _, tree := range seeds {
		if m := mustWrite(f, tree, devices, Options{}); len(m.b) < 16<<10 {
			f.Add(m.b[start:])
		}
	}
	// The superblock is made to fit: of all that can be in it, Open takes only
	// one thing, which the fuzzer would not find.
	f.Fuzz(func(t *testing.T, body []byte) {
		body = body[:len(body)&^511]
		b := append(make([]byte, start), body...)
		super := superBlock{blockBits: DefaultBlockBits, rootNID: uint16(start >> inodeSlotBits), blocks: uint32(len(b) >> DefaultBlockBits), devices: 1}
		super.inodes = reachable(b, super)
		super.encode(b[superOffset:])
		(&DeviceInfo{Blocks: 16}).encode(b[deviceTable:], 0)
		sealImage(b, int64(len(b)))
		im, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		readAll(im, readers)
		if im.Check(t.Context()) != nil {
			return
		}
		// A sound image can be written again, with spilled data left out.
		root, err := treeOf(im)
		if err != nil {
			t.Fatal(err)
		}
		var list []Device
		for _, d := range im.Devices() {
			list = append(list, Device{Size: int64(d.Blocks) * im.BlockSize(), Tag: d.Tag})
		}
		again := mustWrite(t, root, list, Options{BlockBits: im.super.blockBits})
		if _, err := Open(again, int64(len(again.b))); err != nil {
			t.Fatal(err)
		}
	})
}

// reachable counts the inodes of an image that lacks only their number.
func reachable(b []byte, super superBlock) uint64 {
	im := &Image{r: bytes.NewReader(b), size: int64(len(b)), super: super, inodeStart: inodeStart(int(super.devices), super.blockBits)}
	nids := map[uint64]struct{}{}
	for entry, err := range im.Walk() {
		if err == nil {
			nids[entry.Node.NID] = struct{}{}
		}
	}
	return uint64(len(nids))
}

// treeOf makes the tree of an image, without extents.
func treeOf(im *Image) (*Inode, error) {
	inodes := map[uint64]*Inode{}
	paths := map[string]*Inode{}
	for entry, err := range im.Walk() {
		if err != nil {
			return nil, err
		}
		n := entry.Node
		in := inodes[n.NID]
		if in == nil {
			in = &Inode{Mode: n.Mode, UID: n.UID, GID: n.GID, Sec: n.Sec, Nsec: n.Nsec, Rdev: n.Rdev, Size: n.Size}
			inodes[n.NID] = in
			if in.Xattrs, err = n.Xattrs(); err != nil {
				return nil, err
			}
			if n.Mode&ModeType == ModeSymlink {
				if in.Target, err = n.Readlink(); err != nil {
					return nil, err
				}
			}
		}
		paths[entry.Path] = in
		if entry.Path == "." {
			continue
		}
		parent, name := ".", entry.Path
		if at := strings.LastIndexByte(entry.Path, '/'); at >= 0 {
			parent, name = entry.Path[:at], entry.Path[at+1:]
		}
		if paths[parent] == nil {
			return nil, fmt.Errorf("%q before its directory", entry.Path)
		}
		paths[parent].Entries = append(paths[parent].Entries, Entry{name, in})
	}
	return paths["."], nil
}
