package erofs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestWriteErrors(t *testing.T) {
	shared := dir()
	loop := dir()
	loop.Entries = []Entry{{"again", dir(Entry{"loop", loop})}}
	deep := dir()
	for range 300 {
		deep = dir(Entry{strings.Repeat("d", MaxName), deep})
	}
	withXattrs := func(mode uint32, xattrs ...Xattr) *Inode { return &Inode{Mode: mode, Xattrs: xattrs, Target: "t"} }
	manyXattrs := &Inode{Mode: ModeRegular}
	for i := range 5 {
		manyXattrs.Xattrs = append(manyXattrs.Xattrs, Xattr{fmt.Sprintf("user.%d", i), make([]byte, 60000)})
	}
	tests := []struct {
		name string
		in   *Inode // at /dir/bad
		want error
		text string // in the error
	}{
		{"empty name", dir(Entry{"", file(0)}), ErrName, `"/dir/bad"`},
		{"dot", dir(Entry{".", file(0)}), ErrName, `"."`},
		{"dotdot", dir(Entry{"..", dir()}), ErrName, `".."`},
		{"slash", dir(Entry{"a/b", file(0)}), ErrName, `"a/b"`},
		{"NUL", dir(Entry{"a\x00b", file(0)}), ErrName, `"a\x00b"`},
		{"long name", dir(Entry{strings.Repeat("n", 256), file(0)}), ErrName, "256 bytes"},
		{"duplicate", dir(Entry{"b", file(0)}, Entry{"a", file(0)}, Entry{"b", dir()}), ErrDuplicate, `"b"`},
		{"no inode", nil, ErrInode, `"/dir/bad"`},
		{"directory twice", dir(Entry{"one", shared}, Entry{"two", shared}), ErrTree, `"/dir/bad/one"`},
		{"loop", loop, ErrTree, `"/dir/bad/again/loop"`},
		{"deep", deep, ErrLimit, "path is longer"},
		{"no type", &Inode{Mode: 0o644}, ErrInode, "mode 0644"},
		{"unknown type", &Inode{Mode: 0o170000}, ErrInode, "mode"},
		{"high mode bits", &Inode{Mode: ModeRegular | 1<<16}, ErrInode, "mode"},
		{"nanoseconds", &Inode{Mode: ModeFifo, Nsec: 1e9}, ErrInode, "nanoseconds"},
		{"negative size", file(-1), ErrInode, "size"},
		{"huge size", file(math.MaxInt64), ErrLimit, "size"},
		{"empty target", symlink(""), ErrInode, "target"},
		{"long target", symlink(strings.Repeat("t", MaxTarget+1)), ErrInode, "4096"},
		{"NUL in target", symlink("a\x00"), ErrInode, "NUL"},
		{"unknown xattr", withXattrs(ModeRegular, Xattr{"btrfs.a", nil}), ErrXattr, "btrfs.a"},
		{"unknown system xattr", withXattrs(ModeRegular, Xattr{"system.posix_acl_accessory", nil}), ErrXattr, "system."},
		{"xattr without name", withXattrs(ModeRegular, Xattr{"user.", nil}), ErrXattr, "user."},
		{"NUL in xattr", withXattrs(ModeRegular, Xattr{"user.a\x00", nil}), ErrXattr, "user.a"},
		{"long xattr name", withXattrs(ModeRegular, Xattr{"user." + strings.Repeat("n", 251), nil}), ErrXattr, "user."},
		{"long xattr value", withXattrs(ModeRegular, Xattr{"user.a", make([]byte, 1<<16)}), ErrXattr, "user.a"},
		{"xattr twice", withXattrs(ModeRegular, Xattr{"user.a", nil}, Xattr{"user.a", nil}), ErrXattr, "twice"},
		{"xattrs too large together", manyXattrs, ErrXattr, "together"},
		{"user xattr on a symlink", withXattrs(ModeSymlink, Xattr{"user.a", nil}), ErrXattr, "user.a"},
		{"default ACL on a file", withXattrs(ModeRegular, Xattr{"system.posix_acl_default", acl()}), ErrXattr, "default"},
		{"extent after the end", file(100, Extent{0, 101, 1, 0}), ErrExtent, "extent 0"},
		{"extent after the end, overflow", file(100, Extent{math.MaxInt64, 50, 1, 0}), ErrExtent, "extent 0"},
		{"extents overlap", file(100, Extent{0, 60, 1, 0}, Extent{59, 1, 1, 0}), ErrExtent, "extent 1"},
		{"negative offset", file(100, Extent{-1, 60, 1, 0}), ErrExtent, "extent 0"},
		{"negative length", file(100, Extent{0, -1, 1, 0}), ErrExtent, "extent 0"},
		{"device 0", file(100, Extent{0, 1, 0, 0}), ErrExtent, "device 0"},
		{"no such device", file(100, Extent{0, 1, 3, 0}), ErrExtent, "device 3"},
		{"outside the device", file(4096, Extent{0, 4096, 1, 4096}), ErrExtent, "outside device 1"},
		{"outside the device, overflow", file(4096, Extent{0, 1, 1, math.MaxInt64}), ErrExtent, "outside device 1"},
		{"no data to spill", file(100, Extent{0, 100, 2, 1}), ErrExtent, "device 2"},
		{"data too short to spill", file(100, Extent{0, 100, 1, 4001}), io.ErrUnexpectedEOF, `"/dir/bad"`},
		{"too much to spill", file(1<<20, Extent{0, 8000, 1, 1}), ErrLimit, "4096 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			devices := []Device{{Size: 8192, Data: bytes.NewReader(make([]byte, 4000))}, {Size: 8192}}
			if test.name == "outside the device" {
				devices[0].Size = 8191
			}
			var m memory
			size, err := Write(&m, dir(Entry{"dir", dir(Entry{"bad", test.in})}), devices, Options{MaxSpill: 4096})
			if size != 0 || !errors.Is(err, test.want) {
				t.Fatalf("%d, %v, want %v", size, err, test.want)
			}
			if text := err.Error(); !strings.Contains(text, test.text) || !strings.Contains(text, `"/dir/bad`) {
				t.Errorf("%q does not contain %q and the path", text, test.text)
			}
			if len(m.b) > superOffset && m.b[superOffset] != 0 {
				t.Error("a superblock was written")
			}
		})
	}
}

func TestWriteErrorsOfTheWhole(t *testing.T) {
	many := dir()
	for i := range 1000 {
		many.Entries = append(many.Entries, Entry{fmt.Sprint(i), file(0)})
	}
	tests := []struct {
		name    string
		root    *Inode
		devices []Device
		opts    Options
		want    error
	}{
		{"no root", nil, nil, Options{}, ErrTree},
		{"root is a file", file(0), nil, Options{}, ErrTree},
		{"root in itself", func() *Inode { d := dir(); d.Entries = []Entry{{"d", d}}; return d }(), nil, Options{}, ErrTree},
		{"metadata too large", many, nil, Options{MaxSize: 50000}, ErrLimit},
		{"too many devices", dir(), make([]Device, MaxDevices+1), Options{}, ErrLimit},
		{"device too large", dir(), []Device{{Size: 1 << 41}}, Options{}, ErrLimit},
		{"negative device", dir(), []Device{{Size: -1}}, Options{}, ErrLimit},
		{"long tag", dir(), []Device{{Tag: strings.Repeat("t", 65)}}, Options{}, ErrLimit},
		{"block size", dir(), nil, Options{BlockBits: 13}, ErrUnsupported},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Write(&memory{}, test.root, test.devices, test.opts); !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
		})
	}
	if _, err := Write(failingWriter{}, many, nil, Options{}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("an error of the writer became %v", err)
	}
}

type failingWriter struct{}

func (failingWriter) WriteAt([]byte, int64) (int, error) { return 0, io.ErrShortWrite }

// TestWriteIsStable pins the bytes: the same tar gives the same index in every
// version of tarn, on every machine. Change it only with the format.
func TestWriteIsStable(t *testing.T) {
	const want = "27644c657070b1b1f5d5bae05d0c1a5fe480c2f0647e79d9b91ebdd97da98c3f"
	data := testData()
	devices, _ := devicesOf(data...)
	shuffled := everything(data)
	for _, e := range shuffled.Entries {
		slices.Reverse(e.Inode.Entries)
		for _, e := range e.Inode.Entries {
			slices.Reverse(e.Inode.Xattrs)
		}
	}
	for _, tree := range []*Inode{everything(data), shuffled} {
		sum := sha256.Sum256(mustWrite(t, tree, devices, Options{}).b)
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Errorf("sha256 %s, want %s", got, want)
		}
	}
}

func TestPlanChunks(t *testing.T) {
	const gib = 1 << 30
	devices := []Device{{Size: 100 * gib}}
	tests := []struct {
		name     string
		in       *Inode
		maxArray int64 // bytes
		maxSpill int64
	}{
		{"contiguous", file(100*gib, Extent{0, 100 * gib, 1, 0}), 8, 0},
		{"contiguous in pieces", file(2*gib, Extent{0, gib, 1, 512}, Extent{gib, gib, 1, gib + 512}), 8, 0},
		{"hole", file(1 << 40), 8, 0},
		{"larger than the largest chunk", file(5 << 40), 5 * 8, 0},
		{"halves", file(2*gib, Extent{gib, gib, 1, 512}), 16, 0},
		{"lastlog", file(300*gib, Extent{123*gib + 4096, 4096, 1, 512}), 128 << 10, 4096},
		{"small and unaligned", file(3000, Extent{0, 3000, 1, 5}), 48, 3000},
		{"one odd piece in a large file", file(gib, Extent{0, gib / 2, 1, 0}, Extent{gib / 2, 100, 1, gib + 5}), 64 << 10, 100},
		{"every other block", everyOther(1000, 4096), 2000 * 8, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			plan, err := planChunks(test.in, devices, 9)
			if err != nil {
				t.Fatal(err)
			}
			if array := plan.count() * chunkIndex; array > test.maxArray || plan.spillData > test.maxSpill || plan.spillSpan > 1<<30 {
				t.Errorf("array %d, spilled %d in %d", array, plan.spillData, plan.spillSpan)
			}
		})
	}
}

func everyOther(count, size int64) *Inode {
	in := file(2 * count * size)
	for i := range count {
		in.Extents = append(in.Extents, Extent{2 * i * size, size, 1, 3 * i * size})
	}
	return in
}

func TestMakeDev(t *testing.T) {
	for _, dev := range [][2]uint32{{0, 0}, {1, 3}, {8, 255}, {8, 256}, {259, 70000}, {MaxMajor, MaxMinor}} {
		if packed := MakeDev(dev[0], dev[1]); Major(packed) != dev[0] || Minor(packed) != dev[1] {
			t.Errorf("%v became %d:%d", dev, Major(packed), Minor(packed))
		}
	}
}
