package tartest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
)

// GNUTar makes a tar of what is in dir, "." first, with GNU tar.
func GNUTar(t testing.TB, dir string, args ...string) []byte {
	t.Helper()
	return archive(t, "tar", append([]string{"--create", "--sort=name", "--directory", dir, "--file"}, "-"), append(args, "."))
}

// BSDTar makes a tar of what is in dir, "." first, with libarchive's tar.
func BSDTar(t testing.TB, dir string, args ...string) []byte {
	t.Helper()
	return archive(t, "bsdtar", []string{"-c", "-C", dir, "-f", "-"}, append(args, "."))
}

func archive(t testing.TB, program string, args, more []string) []byte {
	t.Helper()
	testenv.RequireTool(t, program)
	cmd := exec.CommandContext(t.Context(), program, append(args, more...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var errs strings.Builder
	cmd.Stderr = &errs
	data, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, errs.String())
	}
	return data
}

// Kinds says what a directory made by Tree has in it, because not every tar format can hold all.
type Kinds struct {
	Long   bool // names and targets that fit no field of a v7 header, but ustar's prefix
	Longer bool // and those that do not fit ustar
	Nodes  bool // devices and fifos
	Large  bool // owners beyond ustar's, times before 1970 and after 2242
	Attrs  bool // extended attributes, capabilities and ACLs
	Sparse bool // files with holes
}

// Real gives tars that GNU tar and libarchive's tar made of real files in all formats that they know,
// by names that say how. It needs root.
func Real(t testing.TB) map[string][]byte {
	t.Helper()
	testenv.RequireRoot(t)
	ustar := Tree(t, Kinds{Long: true, Nodes: true})
	gnu := Tree(t, Kinds{Long: true, Longer: true, Nodes: true, Large: true, Sparse: true})
	pax := Tree(t, Kinds{Long: true, Longer: true, Nodes: true, Large: true, Attrs: true, Sparse: true})
	all := map[string][]byte{
		"GNU tar, v7":     GNUTar(t, Tree(t, Kinds{}), "--format=v7"),
		"GNU tar, ustar":  GNUTar(t, ustar, "--format=ustar"),
		"GNU tar, oldgnu": GNUTar(t, gnu, "--format=oldgnu", "--sparse", "--hole-detection=seek"),
		"GNU tar, gnu":    GNUTar(t, gnu, "--format=gnu", "--sparse", "--hole-detection=raw"),
		"bsdtar, ustar":   BSDTar(t, ustar, "--format=ustar"),
		"bsdtar, gnutar":  BSDTar(t, gnu, "--format=gnutar"),
		"bsdtar, pax":     BSDTar(t, pax, "--format=pax", "--acls", "--xattrs", "--numeric-owner"),
	}
	for _, version := range []string{"0.0", "0.1", "1.0"} {
		all["GNU tar, posix, sparse "+version] = GNUTar(t, pax, "--format=posix", "--sparse", "--sparse-version="+version,
			"--xattrs", "--xattrs-include=*", "--acls")
	}
	return all
}

// Seeds gives small tars of Real's kinds to fuzzers; none without root, which it takes to make them.
func Seeds(t testing.TB) [][]byte {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	var seeds [][]byte
	for _, kinds := range []Kinds{{Long: true, Nodes: true}, {Longer: true}, {Large: true}, {Sparse: true}, {Attrs: true}} {
		dir := Tree(t, kinds)
		if !kinds.Longer && !kinds.Large {
			seeds = append(seeds, GNUTar(t, dir, "-b1", "--format=ustar"))
		}
		seeds = append(seeds, GNUTar(t, dir, "-b1", "--format=gnu", "--sparse", "--hole-detection=raw"),
			GNUTar(t, dir, "-b1", "--format=posix", "--sparse", "--sparse-version=0.0", "--xattrs", "--xattrs-include=*", "--acls"),
			GNUTar(t, dir, "-b1", "--format=posix", "--sparse", "--hole-detection=raw", "--sparse-version=0.1"),
			GNUTar(t, dir, "-b1", "--format=posix", "--sparse", "--hole-detection=raw", "--sparse-version=1.0"),
			BSDTar(t, dir, "-b1", "--format=pax", "--acls", "--xattrs"))
	}
	return slices.DeleteFunc(seeds, func(tar []byte) bool { return len(tar) > 64<<10 })
}

// Tree makes a directory of files of all kinds wanted, and those that any tar can hold.
func Tree(t testing.TB, kinds Kinds) string {
	t.Helper()
	m := &maker{t: t, dir: testenv.TempDir(t)}
	m.file("empty", nil)
	m.file("block", []byte(strings.Repeat("b", 512)))
	m.file("big", []byte(strings.Repeat("0123456789abcdef", 320)+"odd"))
	m.file("dir/one", []byte("1"))
	m.file("dir/two words\tand\nlines", []byte("2"))
	m.file("latin\xe9", []byte("not UTF-8"))
	m.file("setuid", []byte("#!"))
	m.must(os.Chmod(m.path("setuid"), 0o755|os.ModeSetuid|os.ModeSetgid))
	m.must(os.Lchown(m.path("dir/one"), 1234, 4321))
	m.must(os.Chmod(m.path("setuid"), 0o755|os.ModeSetuid|os.ModeSetgid))
	m.must(os.Mkdir(m.path("sticky"), 0o755))
	m.must(os.Chmod(m.path("sticky"), 0o777|os.ModeSticky))
	m.must(os.Symlink("dir/one", m.path("soft")))
	m.must(os.Symlink("../nowhere\xff", m.path("dir/broken")))
	m.must(os.Link(m.path("big"), m.path("dir/hard")))
	m.must(os.Link(m.path("big"), m.path("z hard")))
	if kinds.Long {
		m.file(strings.Repeat("d", 60)+"/"+strings.Repeat("e", 60)+"/"+strings.Repeat("f", 70), []byte("prefix"))
		m.file("hundred/"+strings.Repeat("n", 92), []byte("a name of 100 bytes"))
	}
	if kinds.Longer {
		m.file("x/"+strings.Repeat("n", 200), []byte("a name over 100"))
		deep := strings.Repeat("deep/", 60)
		m.file(deep+"file", []byte("path over 256"))
		m.must(os.Symlink(strings.Repeat("t", 300), m.path("long link")))
		m.must(os.Symlink(strings.Repeat("t", 4095), m.path("longest link")))
		m.must(os.Link(m.path(deep+"file"), m.path("z hard of deep")))
		m.file(strings.Repeat("m", 255), []byte("the longest name"))
	}
	if kinds.Nodes {
		m.nodes()
	}
	if kinds.Large {
		m.file("owner", nil)
		m.must(os.Lchown(m.path("owner"), 1<<32-2, 3_000_000))
		m.file("old", nil)
		m.must(os.Chtimes(m.path("old"), time.Time{}, time.Unix(-12345, 0)))
		m.file("late", nil)
		m.must(os.Chtimes(m.path("late"), time.Time{}, time.Unix(1<<33+5, 0)))
	}
	if kinds.Attrs {
		m.attrs()
	}
	if kinds.Sparse {
		m.sparse()
	}
	return m.dir
}

type maker struct {
	t   testing.TB
	dir string
}

func (m *maker) path(name string) string { return m.dir + "/" + name }

func (m *maker) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *maker) file(name string, contents []byte) {
	m.t.Helper()
	m.must(os.MkdirAll(filepath.Dir(m.path(name)), 0o755))
	m.must(os.WriteFile(m.path(name), contents, 0o640))
	m.must(os.Chtimes(m.path(name), time.Time{}, time.Unix(1234567890, 0)))
}

func (m *maker) nodes() {
	m.t.Helper()
	for name, node := range map[string]struct {
		mode uint32
		dev  int
	}{
		"null": {syscall.S_IFCHR | 0o666, 1<<8 | 3}, "disk": {syscall.S_IFBLK | 0o660, 8<<8 | 1},
		"fifo": {syscall.S_IFIFO | 0o600, 0}, "minor 300": {syscall.S_IFCHR | 0o600, 259<<8 | 300&0xff | (300>>8)<<20},
	} {
		m.must(syscall.Mknod(m.path(name), node.mode, node.dev))
	}
	m.must(os.Link(m.path("null"), m.path("null too")))
	m.must(os.Link(m.path("fifo"), m.path("fifo too")))
}

func (m *maker) attrs() {
	m.t.Helper()
	m.must(os.MkdirAll(m.path("attrs/dir"), 0o755))
	m.file("attrs/file", []byte("x"))
	m.must(os.Symlink("file", m.path("attrs/link")))
	dir, err := os.Open(m.path("attrs"))
	m.must(err)
	defer dir.Close()
	set := func(name, attr, value string) {
		m.t.Helper()
		file, err := sys.OpenBeneath(dir, name, sys.OpenNoFollow)
		m.must(err)
		defer file.Close()
		m.must(sys.SetHandleXattr(file, attr, []byte(value)))
	}
	set("file", "user.text", "value")
	set("file", "user.binary", "a\x00b\n=\xff")
	set("file", "user.empty", "")
	set("file", "user.with=equals%and%20", "1")
	set("file", "trusted.long", strings.Repeat("v", 1500))
	set("dir", "user.of_a_directory", "d")
	set("dir", "trusted.t", "t")
	set("link", "trusted.of_a_link", "l")
	m.file("attrs/cap", []byte("program"))
	set("cap", "security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	m.file("attrs/acl", []byte("acl"))
	m.setfacl("u:1000:rw,g:2000:r,m::rwx,o::-", "attrs/acl")
	m.must(os.Mkdir(m.path("attrs/acldir"), 0o750))
	m.setfacl("u:1000:rwx,d:u:1000:rx,d:g:0:x", "attrs/acldir")
	m.must(os.Mkdir(m.path("nanoseconds"), 0o755))
	m.must(os.Chtimes(m.path("nanoseconds"), time.Time{}, time.Unix(1700000000, 123456789)))
}

func (m *maker) setfacl(acl, name string) {
	m.t.Helper()
	testenv.RequireTool(m.t, "setfacl")
	out, err := exec.CommandContext(m.t.Context(), "setfacl", "-m", acl, m.path(name)).CombinedOutput()
	if err != nil {
		m.t.Fatalf("setfacl: %v: %s", err, out)
	}
}

// sparse makes files with more segments than a header has room for, and with holes in all places.
func (m *maker) sparse() {
	m.t.Helper()
	data := []byte(strings.Repeat("sparse data, ", 1000))
	many := make(map[int64][]byte)
	for i := range int64(30) {
		many[i*16384] = data[i : i+500]
	}
	m.holes("sparse/many", 1<<20, many)
	m.holes("sparse/hole", 1<<20, nil)
	m.holes("sparse/one byte", 1, nil)
	m.holes("sparse/front", 100_003, map[int64][]byte{98304: data[:1699]})
	m.holes("sparse/back", 100_003, map[int64][]byte{0: data[:5000]})
	m.holes("sparse/middle", 65536*3, map[int64][]byte{65536: data[:12345]})
	m.holes("sparse/both", 40_000, map[int64][]byte{0: data[:10], 39_900: data[:100]})
}

func (m *maker) holes(name string, size int64, data map[int64][]byte) {
	m.t.Helper()
	m.must(os.MkdirAll(filepath.Dir(m.path(name)), 0o755))
	f, err := os.OpenFile(m.path(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	m.must(err)
	m.must(f.Truncate(size))
	for at, piece := range data {
		_, err := f.WriteAt(piece, at)
		m.must(err)
	}
	m.must(errors.Join(f.Close(), os.Chtimes(m.path(name), time.Time{}, time.Unix(1234567890, 0))))
}
