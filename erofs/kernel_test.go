package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/internal/testenv"
)

// mountImage mounts an image over its devices, all plain files, the way tarn
// does, and returns the directory.
func mountImage(t testing.TB, image string, devices []string, directIO bool) string {
	t.Helper()
	fsfd, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fsfd) }()
	check := func(what string, err error) {
		if err != nil {
			log := make([]byte, 4096)
			n, _ := unix.Read(fsfd, log)
			t.Fatalf("%s: %v: %s", what, err, log[:max(0, n)])
		}
	}
	check("source", unix.FsconfigSetString(fsfd, "source", image))
	for _, d := range devices {
		check("device", unix.FsconfigSetString(fsfd, "device", d))
	}
	if directIO {
		check("directio", unix.FsconfigSetFlag(fsfd, "directio"))
	}
	check("ro", unix.FsconfigSetFlag(fsfd, "ro"))
	check("create", unix.FsconfigCreate(fsfd))
	mnt, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	check("fsmount", err)
	defer func() { _ = unix.Close(mnt) }()
	target := filepath.Join(testenv.TempDir(t), "mnt")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	check("move_mount", unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH))
	return target
}

// writeFiles writes the image and its devices to disk.
func writeFiles(t testing.TB, root *Inode, data [][]byte, opts Options) (image string, devices []string) {
	t.Helper()
	dir := testenv.TempDir(t)
	var list []Device
	for i, d := range data {
		path := filepath.Join(dir, fmt.Sprintf("device-%d", i+1))
		if err := os.WriteFile(path, d, 0o600); err != nil {
			t.Fatal(err)
		}
		devices = append(devices, path)
		list = append(list, Device{Size: int64(len(d)), Data: bytes.NewReader(d)})
	}
	image = filepath.Join(dir, "image")
	writeImage(t, image, root, list, opts)
	return image, devices
}

func writeImage(t testing.TB, path string, root *Inode, devices []Device, opts Options) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	size, err := Write(f, root, devices, opts)
	if err != nil {
		t.Fatal(err)
	}
	im, err := Open(f, size)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// kernelView compares the mounted image with the tree.
type kernelView struct {
	t    testing.TB
	data [][]byte
	inos map[*Inode]uint64
	link map[*Inode]uint32
}

func compareMounted(t testing.TB, mountPoint string, root *Inode, data [][]byte) {
	t.Helper()
	v := &kernelView{t: t, data: data, inos: map[*Inode]uint64{}, link: map[*Inode]uint32{}}
	countNames(root, v.link)
	v.compare(mountPoint, root)
}

func (v *kernelView) compare(path string, want *Inode) {
	v.t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		v.t.Errorf("lstat %q: %v", path, err)
		return
	}
	if ino, known := v.inos[want]; known {
		if ino != st.Ino {
			v.t.Errorf("%q: hard links have inodes %d and %d", path, ino, st.Ino)
		}
		return
	}
	v.inos[want] = st.Ino
	nlink, size, rdev := v.link[want], int64(0), uint64(0)
	switch want.Mode & ModeType {
	case ModeRegular:
		size = want.Size
	case ModeSymlink:
		size = int64(len(want.Target))
	case ModeChar, ModeBlock:
		rdev = unix.Mkdev(Major(want.Rdev), Minor(want.Rdev))
	case ModeDir:
		nlink, size = 2, st.Size
		for _, e := range want.Entries {
			if e.Inode.Mode&ModeType == ModeDir {
				nlink++
			}
		}
	}
	got := fmt.Sprint(st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec)
	expected := fmt.Sprint(want.Mode, want.UID, want.GID, nlink, size, rdev, want.Sec, want.Nsec)
	if got != expected {
		v.t.Errorf("%q: stat %s, want %s", path, got, expected)
	}
	v.compareXattrs(path, want)
	switch want.Mode & ModeType {
	case ModeDir:
		v.compareDir(path, want)
	case ModeSymlink:
		if target, err := os.Readlink(path); err != nil || target != want.Target {
			v.t.Errorf("%q: target %q, %v, want %q", path, target, err, want.Target)
		}
	case ModeRegular:
		if want.Size > 1<<24 {
			return
		}
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(b, contents(want, v.data)) {
			v.t.Errorf("%q: wrong contents (%d bytes, %v)", path, len(b), err)
		}
	}
}

func (v *kernelView) compareXattrs(path string, want *Inode) {
	v.t.Helper()
	list := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		v.t.Errorf("%q: listxattr: %v", path, err)
		return
	}
	names := strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	var wantNames []string
	for _, x := range want.Xattrs {
		wantNames = append(wantNames, x.Name)
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, x.Name, value)
		if err != nil || !bytes.Equal(value[:n], x.Value) {
			v.t.Errorf("%q: %s is %d bytes, %v", path, x.Name, n, err)
		}
	}
	if !slices.Equal(names, wantNames) {
		v.t.Errorf("%q: attributes %q, want %q", path, names, wantNames)
	}
}

func (v *kernelView) compareDir(path string, want *Inode) {
	v.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		v.t.Error(err)
		return
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if err != nil || len(entries) != len(want.Entries) {
		v.t.Errorf("%q: %d entries, %v, want %d", path, len(entries), err, len(want.Entries))
		return
	}
	for i, e := range entries {
		if e.Name() != want.Entries[i].Name {
			v.t.Errorf("%q: entry %d is %q, want %q", path, i, e.Name(), want.Entries[i].Name)
			return
		}
		if isDir := want.Entries[i].Inode.Mode&ModeType == ModeDir; e.Type().IsDir() != isDir {
			v.t.Errorf("%q: entry %q has type %v", path, e.Name(), e.Type())
		}
		// Paths longer than PATH_MAX cannot be looked at this way.
		if len(path)+len(e.Name()) < 4000 {
			v.compare(path+"/"+e.Name(), want.Entries[i].Inode)
		}
	}
	if err := unix.Access(path+"/absent", unix.F_OK); len(path) < 4000 && !errors.Is(err, unix.ENOENT) {
		v.t.Errorf("%q: lookup of a name that is not there: %v", path, err)
	}
}

// acl makes the value of a POSIX ACL: user::rwx user:1000:r-- group::r-x
// mask::rwx other::--- (struct posix_acl_xattr_header, version 2).
func acl() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 7, 1<<32 - 1}, {2, 4, 1000}, {4, 5, 1<<32 - 1}, {16, 7, 1<<32 - 1}, {32, 0, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// capNetRaw is a security.capability of version 2: cap_net_raw+ep.
func capNetRaw() []byte {
	b := make([]byte, 20)
	binary.LittleEndian.PutUint32(b, 0x02000001)
	binary.LittleEndian.PutUint32(b[4:], 1<<13)
	return b
}

// everything is a tree with all that an index can hold.
func everything(data [][]byte) *Inode {
	hardLinked := file(3000, Extent{0, 3000, 1, 5120})
	linkedDevice := &Inode{Mode: ModeBlock | 0o600, Rdev: MakeDev(259, 70000), Sec: 1}
	return dir(
		Entry{"regular", dir(
			Entry{"empty", file(0)},
			Entry{"byte", file(1, Extent{0, 1, 1, 512})},
			Entry{"odd", file(10001, Extent{0, 10001, 1, 1536})},
			Entry{"other device", file(4000, Extent{0, 4000, 2, 0})},
			Entry{"to the end of an odd device", file(int64(len(data[1]))-512, Extent{0, int64(len(data[1])) - 512, 2, 512})},
			Entry{"whole device", file(int64(len(data[0])), Extent{0, int64(len(data[0])), 1, 0})},
			Entry{"setuid", &Inode{Mode: ModeRegular | 0o6755, UID: 70000, GID: 4294967294, Size: 5, Extents: []Extent{{0, 5, 1, 0}}}},
			Entry{"before the epoch", &Inode{Mode: ModeRegular | 0o600, Sec: -86400 * 365 * 100, Nsec: 999999999}},
			Entry{"far future", &Inode{Mode: ModeRegular | 0o600, Sec: 1 << 35, Nsec: 1}},
		)},
		Entry{"sparse", dir(
			Entry{"hole", file(5 << 20)},
			Entry{"hole first", file(100000, Extent{65536, 34464, 1, 512})},
			Entry{"hole last", file(100000, Extent{0, 4096, 1, 512})},
			Entry{"hole last, odd", file(100000, Extent{0, 4000, 1, 512})},
			Entry{"alternating", file(40960, Extent{4096, 4096, 1, 4096}, Extent{12288, 4096, 1, 8704}, Extent{20480, 8192, 2, 512})},
			Entry{"sectors", file(6*512+7, Extent{512, 512, 1, 4096}, Extent{1536, 1024, 1, 8704}, Extent{6 * 512, 7, 2, 512})},
			Entry{"unaligned", file(300000, Extent{1, 17, 1, 77}, Extent{9000, 5000, 2, 1}, Extent{250001, 49999, 1, 3})},
			Entry{"unaligned then hole", file(1<<20, Extent{70000, 12345, 1, 99})},
		)},
		Entry{"links", dir(
			Entry{"a", hardLinked}, Entry{"b", dir(Entry{"c", hardLinked})}, Entry{"d", linkedDevice}, Entry{"e", linkedDevice},
			Entry{"s1", symlink("x")}, Entry{"s447", symlink(strings.Repeat("a", 447))}, Entry{"s448", symlink(strings.Repeat("b", 448))},
			Entry{"s449", symlink(strings.Repeat("c", 449))}, Entry{"s512", symlink(strings.Repeat("d", 512))}, Entry{"s600", symlink(strings.Repeat("d", 600))},
			Entry{"s4095", symlink(strings.Repeat("e", 4095))},
		)},
		Entry{"special", dir(
			Entry{"block", &Inode{Mode: ModeBlock | 0o660, Rdev: MakeDev(8, 1)}},
			Entry{"char", &Inode{Mode: ModeChar | 0o666, Rdev: MakeDev(MaxMajor, MaxMinor)}},
			Entry{"fifo", &Inode{Mode: ModeFifo | 0o600, Sec: -1}},
			Entry{"socket", &Inode{Mode: ModeSocket | 0o777}},
			Entry{"whiteout", &Inode{Mode: ModeChar}},
		)},
		Entry{"xattrs", dir(
			Entry{"acl", &Inode{Mode: ModeRegular | 0o770, Xattrs: []Xattr{{"system.posix_acl_access", acl()}}}},
			Entry{"acldir", &Inode{Mode: ModeDir | 0o770, Xattrs: []Xattr{{"system.posix_acl_access", acl()}, {"system.posix_acl_default", acl()}}}},
			Entry{"capability", &Inode{Mode: ModeRegular | 0o755, Size: 600, Extents: []Extent{{0, 600, 1, 512}}, Xattrs: []Xattr{{"security.capability", capNetRaw()}}}},
			Entry{"many", &Inode{Mode: ModeDir | 0o755, Entries: []Entry{{"x", file(0)}}, Xattrs: []Xattr{
				{"trusted.overlay.opaque", []byte("y")}, {"user.large", deviceData(60000, 9)}, {"user.empty", nil}, {"user." + strings.Repeat("n", 250), []byte("long")},
			}}},
			Entry{"symlink", &Inode{Mode: ModeSymlink | 0o777, Target: "t", Xattrs: []Xattr{{"trusted.a", make([]byte, 300)}}}},
			Entry{"symlink with larger", &Inode{Mode: ModeSymlink | 0o777, Target: "target", Xattrs: []Xattr{{"trusted.a", make([]byte, 431)}}}},
		)},
		Entry{"names", dir(
			Entry{"!", file(0)}, Entry{".-", file(0)}, Entry{"...", file(0)}, Entry{".a", file(0)}, Entry{"\x01\n", file(0)},
			Entry{"\xff\xfe", dir()}, Entry{"ä", file(0)}, Entry{strings.Repeat("n", MaxName), dir(Entry{strings.Repeat("o", MaxName), file(0)})},
		)},
	)
}

func testData() [][]byte {
	return [][]byte{deviceData(128<<10, 1), deviceData(50001, 2)}
}

func TestKernelSeesTree(t *testing.T) {
	testenv.RequireErofsFile(t)
	for _, directIO := range []bool{false, true} {
		for _, blockBits := range []uint8{9, 12} {
			t.Run(fmt.Sprintf("directio=%v/%d", directIO, blockBits), func(t *testing.T) {
				data := testData()
				tree := everything(data)
				image, devices := writeFiles(t, tree, data, Options{BlockBits: blockBits})
				compareMounted(t, mountImage(t, image, devices, directIO), tree, data)
			})
		}
	}
}

func TestKernelSeesRandomTrees(t *testing.T) {
	testenv.RequireErofsFile(t)
	data := testData()
	for seed := range uint64(20) {
		tree := randomTree(rand.New(rand.NewPCG(seed, 0)), data)
		image, devices := writeFiles(t, tree, data, Options{})
		mountPoint := mountImage(t, image, devices, seed%2 == 0)
		compareMounted(t, mountPoint, tree, data)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestKernelLargeDirectory(t *testing.T) {
	testenv.RequireErofsFile(t)
	large := dir()
	shared := file(0)
	for i := range 300_000 {
		large.Entries = append(large.Entries, Entry{fmt.Sprintf("entry-%07d", i*7919%300_000), shared})
	}
	tree := dir(Entry{"large", large})
	image, _ := writeFiles(t, tree, nil, Options{})
	mountPoint := mountImage(t, image, nil, true)
	f, err := os.Open(mountPoint + "/large")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil || len(names) != len(large.Entries) {
		t.Fatalf("%d names, %v", len(names), err)
	}
	for i, name := range names {
		if name != large.Entries[i].Name {
			t.Fatalf("name %d is %q, want %q", i, name, large.Entries[i].Name)
		}
	}
	var st unix.Stat_t
	for i := 0; i < len(names); i += 997 {
		if err := unix.Lstat(mountPoint+"/large/"+names[i], &st); err != nil || st.Nlink != 300_000 {
			t.Fatalf("%s: %v, %d links", names[i], err, st.Nlink)
		}
	}
}

// pattern is a device without end whose bytes tell their offset.
type pattern struct{}

func (pattern) ReadAt(p []byte, offset int64) (int, error) {
	for i := range p {
		at := uint64(offset + int64(i))
		p[i] = byte(at>>9) ^ byte(at>>20) ^ byte(at) ^ 0x55
	}
	return len(p), nil
}

// TestKernelLargeFiles reads around the ends of files and chunks that 32 bits
// cannot count, from a sparse device of 6 GiB.
func TestKernelLargeFiles(t *testing.T) {
	testenv.RequireErofsFile(t)
	const gib = 1 << 30
	scratch := testenv.TempDir(t)
	devicePath := filepath.Join(scratch, "device")
	device, err := os.OpenFile(devicePath, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if err := device.Truncate(6 * gib); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 512, gib, 4*gib - 4096, 4 * gib, 5 * gib, 6*gib - 8192} {
		buf := make([]byte, 8192)
		_, _ = pattern{}.ReadAt(buf, at)
		if _, err := device.WriteAt(buf[:min(8192, 6*gib-at)], at); err != nil {
			t.Fatal(err)
		}
	}
	lastlog := file(300*gib, Extent{123 * gib, 4096, 1, 4 * gib})
	tree := dir(
		Entry{"contiguous", file(6*gib-1024-1, Extent{0, 6*gib - 1024 - 1, 1, 1024})},
		Entry{"lastlog", lastlog},
		Entry{"lastlog, unaligned", file(300*gib+5, Extent{299*gib + 3, 4000, 1, 5*gib + 1})},
		Entry{"terabytes", file(3<<40, Extent{2 << 40, 8192, 1, gib})},
		Entry{"interleaved", file(12*gib, Extent{0, gib, 1, 0}, Extent{5 * gib, gib, 1, 4 * gib}, Extent{11 * gib, gib, 1, 5 * gib})},
	)
	image := filepath.Join(scratch, "image")
	writeImage(t, image, tree, []Device{{Size: 6 * gib, Data: device}}, Options{})
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > 2<<20 {
		t.Errorf("the image takes %d bytes of disk", st.Blocks*512)
	}
	mountPoint := mountImage(t, image, []string{devicePath}, true)
	for _, e := range tree.Entries {
		f, err := os.Open(mountPoint + "/" + e.Name)
		if err != nil {
			t.Fatal(err)
		}
		compareLarge(t, f, e.Inode, device)
		f.Close()
	}
}

// compareLarge compares windows around all boundaries of a file's extents.
func compareLarge(t *testing.T, f *os.File, in *Inode, device io.ReaderAt) {
	t.Helper()
	info, err := f.Stat()
	if err != nil || info.Size() != in.Size {
		t.Fatalf("%s: %v, %v", f.Name(), info, err)
	}
	offsets := []int64{0, 4096, in.Size - 3000, in.Size / 2}
	for _, e := range in.Extents {
		offsets = append(offsets, e.Logical-3000, e.Logical, e.Logical+e.Length-3000, e.Logical+e.Length)
	}
	for _, offset := range offsets {
		offset = max(0, offset)
		want := make([]byte, min(6000, in.Size-offset))
		for _, e := range in.Extents {
			from, to := max(offset, e.Logical), min(offset+int64(len(want)), e.Logical+e.Length)
			if from < to {
				if _, err := device.ReadAt(want[from-offset:to-offset], e.Physical+from-e.Logical); err != nil {
					t.Fatal(err)
				}
			}
		}
		got := make([]byte, 6000)
		n, err := f.ReadAt(got, offset)
		if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], want) {
			t.Errorf("%s: wrong bytes at %d (%d, %v)", f.Name(), offset, n, err)
		}
	}
}
