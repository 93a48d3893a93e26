package layer_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/tarnfs/tarn/internal/tartest"
)

// What makes tars byte by byte.
var (
	aDir     = tartest.Dir
	aFile    = tartest.File
	aSymlink = tartest.Symlink
	aLink    = tartest.Link
	aDevice  = tartest.Device
	aNode    = tartest.Node
	pax      = tartest.PAX
	ext      = tartest.Ext
	join     = tartest.Join
)

// sample is a tar and, where GNU tar reads it in another way or not at all, one that says the same plainly.
type sample struct{ tar, plain []byte }

// samples are tars by what is special about them.
func samples() map[string]sample {
	gnuNode := func(name string, kind byte, fields map[int]string) []byte {
		fields[tartest.AtMagic] = tartest.GNU
		return aNode(name, kind, fields)
	}
	return map[string]sample{
		"nothing":     {},
		"empty files": {tar: join(aFile("a", ""), aFile("b", ""))},
		"all kinds": {tar: join(
			aDir("d/"), aFile("d/f", "contents"), aSymlink("d/s", "f"), aLink("d/h", "d/f"),
			aDevice("c", '3', 1, 3), aDevice("b", '4', 259, 70000), aNode("p", '6', nil))},
		"v7": {tar: join(
			tartest.Block(map[int]string{tartest.AtName: "d/", tartest.AtType: "\x00", tartest.AtMode: "0000711\x00"}),
			tartest.Body(tartest.Block(map[int]string{tartest.AtName: "d/f", tartest.AtType: "\x00", tartest.AtSize: tartest.Octal(3)}), "old"),
			tartest.Block(map[int]string{tartest.AtName: "h", tartest.AtType: "1", tartest.AtLinkname: "d/f"}))},
		"ustar prefix": {tar: aNode("name", '5', map[int]string{tartest.AtPrefix: "a/prefix"}), plain: join(aDir("a"), aDir("a/prefix"), aNode("a/prefix/name", '5', nil))},
		"contiguous":   {tar: tartest.Body(aNode("f", '7', map[int]string{tartest.AtSize: tartest.Octal(2)}), "xy")},
		"GNU long names": {tar: join(
			ext("L", strings.Repeat("n", 250)+"\x00"), gnuNode("cut", '5', map[int]string{}),
			ext("K", strings.Repeat("t/", 600)+"\x00"), ext("L", "s"+strings.Repeat("s", 120)+"\x00"), gnuNode("cut", '2', map[int]string{tartest.AtLinkname: "cut"}))},
		"GNU numbers": {tar: join(
			tartest.Body(gnuNode("f", '0', map[int]string{
				tartest.AtSize: tartest.Base256(5, 12), tartest.AtTime: tartest.Base256(-77, 12),
				tartest.AtUID: tartest.Base256(4_000_000_000, 8), tartest.AtGID: tartest.Base256(1<<32-2, 8),
			}), "12345"))},
		"PAX names and numbers": {
			tar: join(
				pax("path", "ä/"+strings.Repeat("n", 255), "uid", "70000", "gid", "4294967294", "size", "3", "mtime", "1700000000.123456789"),
				tartest.Body(aNode("cut", '0', map[int]string{tartest.AtSize: tartest.Octal(0)}), "pax"),
				pax("linkpath", strings.Repeat("t", 300), "path", "s", "mtime", "-1.5"), aSymlink("cut", "cut")),
			plain: join(aDir("ä"),
				pax("path", "ä/"+strings.Repeat("n", 255), "uid", "70000", "gid", "4294967294", "mtime", "1700000000.123456789"), aFile("cut", "pax"),
				pax("linkpath", strings.Repeat("t", 300), "path", "s", "mtime", "-1.5"), aSymlink("cut", "cut")),
		},
		"PAX global headers": {
			tar: join(ext("g", tartest.Records("comment", "of git", "uid", "7", "mtime", "5.5")), aFile("a", ""), pax("uid", "8"), aFile("b", ""),
				ext("g", tartest.Records("uid", "", "mtime", "6")), aFile("c", "")),
			plain: join(pax("uid", "7", "mtime", "5.5"), aFile("a", ""), pax("uid", "8", "mtime", "5.5"), aFile("b", ""), pax("mtime", "6"), aFile("c", "")),
		},
		"not UTF-8":             {tar: join(aDir("\xff\xfe"), aFile("\xff\xfe/\x80\x01\n", "x"), aSymlink("\xc3", "\xc3\x28"))},
		"dots and slashes":      {tar: join(aDir("./"), aDir("./a//"), aFile("././a/./b", "x"), aFile("c", "y")), plain: join(aDir("a"), aFile("a/b", "x"), aFile("c", "y"))},
		"missing parents":       {tar: join(aFile("a/b/c", "x"), aSymlink("a/d/s", "t")), plain: join(aDir("a"), aDir("a/b"), aFile("a/b/c", "x"), aDir("a/d"), aSymlink("a/d/s", "t"))},
		"a parent comes later":  {tar: join(aFile("a/b", "x"), aNode("a", '5', map[int]string{tartest.AtMode: "0000700\x00"}))},
		"root":                  {tar: aNode("./", '5', map[int]string{tartest.AtMode: "0001751\x00", tartest.AtUID: "0000012\x00", tartest.AtTime: tartest.Octal(99)})},
		"no end mark":           {tar: aFile("f", "x")},
		"no padding":            {tar: aFile("f", "contents")[:512+8], plain: aFile("f", "contents")},
		"a volume label":        {tar: join(gnuNode("label", 'V', map[int]string{}), aFile("f", ""))},
		"set-user-ID and so on": {tar: join(aNode("f", '0', map[int]string{tartest.AtMode: "0007755\x00", tartest.AtUID: "0000017\x00"}), aNode("d", '5', map[int]string{tartest.AtMode: "0003777\x00"}))},

		"the last of a name": {tar: join(aFile("f", "first"), aFile("f", "second, longer"), aFile("g", "long"), aFile("g", ""), aSymlink("f2", "x"), aFile("f2", "y"))},
		"a directory twice":  {tar: join(aDir("d"), aFile("d/kept", "x"), aNode("d", '5', map[int]string{tartest.AtMode: "0000700\x00", tartest.AtTime: tartest.Octal(7)}))},
		"file to directory":  {tar: join(aFile("x", "file"), aDir("x"), aFile("x/y", "in it"))},
		"link to directory":  {tar: join(aSymlink("x", "/etc"), aDir("x"), aFile("x/y", "in it")), plain: join(aDir("x"), aFile("x/y", "in it"))},
		"directory to file":  {tar: join(aDir("x"), aFile("x/y", "gone"), aFile("x", "file")), plain: aFile("x", "file")},
		"directory to link":  {tar: join(aDir("x"), aFile("x/y", "gone"), aSymlink("x", "t")), plain: aSymlink("x", "t")},
		"there and back": {
			tar:   join(aDir("x"), aFile("x/y", "gone"), aFile("x", "file"), aDir("x"), aFile("x/z", "new")),
			plain: join(aDir("x"), aFile("x/z", "new")),
		},

		"hard links":                {tar: join(aFile("a", "x"), aLink("b", "a"), aLink("c", "./b"), aDir("d"), aLink("d/e", "c"))},
		"hard links to all kinds":   {tar: join(aSymlink("s", "t"), aLink("s2", "s"), aDevice("c", '3', 5, 6), aLink("c2", "c"), aNode("p", '6', nil), aLink("p2", "p"))},
		"link to a later file":      {tar: join(aLink("a", "z"), aLink("d/b", "z"), aFile("z", "x")), plain: join(aFile("z", "x"), aLink("a", "z"), aDir("d"), aLink("d/b", "z"))},
		"chain to a later file":     {tar: join(aLink("a", "b"), aLink("b", "c"), aLink("c", "d"), aFile("d", "x")), plain: join(aFile("d", "x"), aLink("a", "d"), aLink("b", "d"), aLink("c", "d"))},
		"chain against the order":   {tar: join(aLink("c", "d"), aLink("b", "c"), aLink("a", "b"), aFile("d", "x")), plain: join(aFile("d", "x"), aLink("a", "d"), aLink("b", "d"), aLink("c", "d"))},
		"later file is replaced":    {tar: join(aLink("a", "z"), aFile("z", "first"), aLink("b", "z"), aFile("z", "last")), plain: join(aFile("b", "first"), aFile("z", "last"), aLink("a", "z"))},
		"target is replaced":        {tar: join(aFile("a", "first"), aLink("b", "a"), aFile("a", "second"), aLink("c", "a"))},
		"target becomes directory":  {tar: join(aFile("a", "x"), aLink("b", "a"), aDir("a"), aFile("a/c", "y"))},
		"link is replaced":          {tar: join(aFile("a", "x"), aLink("b", "a"), aFile("b", "y"))},
		"link over a file":          {tar: join(aFile("a", "x"), aFile("b", "y"), aLink("b", "a"))},
		"link over a directory":     {tar: join(aFile("a", "x"), aDir("b"), aFile("b/c", ""), aLink("b", "a")), plain: join(aFile("a", "x"), aLink("b", "a"))},
		"a link to nothing, undone": {tar: join(aLink("a", "nowhere"), aFile("a", "x")), plain: aFile("a", "x")},

		"xattrs": {tar: join(
			pax("SCHILY.xattr.user.a", "1", "SCHILY.xattr.user.empty", "", "SCHILY.xattr.trusted.b", "\x00\xff\n=", "SCHILY.xattr.user.a%3Db%25", "x"), aFile("f", "x"),
			pax("SCHILY.xattr.security.capability", capNetRaw), aFile("cap", "x"), aLink("cap too", "cap"),
			pax("SCHILY.xattr.trusted.s", "1"), aSymlink("s", "t"),
			pax("SCHILY.xattr.user.d", strings.Repeat("v", 2000)), aDir("d"))},
		"xattrs of bsdtar": {
			tar:   join(pax("LIBARCHIVE.xattr.user.a", "YWJj", "LIBARCHIVE.xattr.user.%C3%A4", "AAH/"), aFile("f", "x")),
			plain: join(pax("SCHILY.xattr.user.a", "abc", "SCHILY.xattr.user.ä", "\x00\x01\xff"), aFile("f", "x")),
		},
		"xattrs that Linux has no place for": {
			tar:   join(pax("SCHILY.xattr.user.s", "1", "SCHILY.xattr.com.apple.quarantine", "2"), aSymlink("s", "t"), pax("SCHILY.xattr.user.p", "3"), aNode("p", '6', nil)),
			plain: join(aSymlink("s", "t"), aNode("p", '6', nil)),
		},
		"ACLs as text": {tar: join(
			pax("SCHILY.acl.access", "user::rw-,user:1000:r--,group::r--,group:5:rwx,mask::rwx,other::---"), aFile("f", "x"),
			pax("SCHILY.acl.access", "user::rwx,user:root:r-x,group::r-x,mask::r-x,other::---", "SCHILY.acl.default", "user::rwx,user:7:rw-,group::r-x,mask::rwx,other::r--"), aDir("d"),
			pax("SCHILY.acl.access", "user::rwx,group::r--,other::r--"), aFile("minimal", ""))},
		"ACLs as attributes": {
			tar: join(pax("SCHILY.xattr.system.posix_acl_access", binaryACL), aFile("f", "x"), pax("SCHILY.xattr.system.posix_acl_default", binaryACL), aDir("d")),
			plain: join(pax("SCHILY.acl.access", "user::rw-,user:1000:r--,group::r--,mask::rw-,other::---"), aFile("f", "x"),
				pax("SCHILY.acl.default", "user::rw-,user:1000:r--,group::r--,mask::rw-,other::---"), aDir("d")),
		},
		"an ACL with rubbish in it": {
			tar:   join(pax("SCHILY.xattr.system.posix_acl_access", strings.Replace(binaryACL, "\x10\x00\x06\x00\xff\xff\xff\xff", "\x10\x00\x06\x00rub.", 1)), aFile("f", "x")),
			plain: join(pax("SCHILY.acl.access", "user::rw-,user:1000:r--,group::r--,mask::rw-,other::---"), aFile("f", "x")),
		},
		"ACLs by the archive's names": {
			tar: join(pax("SCHILY.acl.access", "user::rw-,user:lisa:r--,group::r--,mask::rw-,other::---"), aFile("f", "x"),
				aNode("home", '5', map[int]string{tartest.AtMode: "0000755\x00", tartest.AtUID: "0001750\x00", 265: "lisa"})),
			plain: join(pax("SCHILY.acl.access", "user::rw-,user:1000:r--,group::r--,mask::rw-,other::---"), aFile("f", "x"),
				aNode("home", '5', map[int]string{tartest.AtMode: "0000755\x00", tartest.AtUID: "0001750\x00"})),
		},
	}
}

const (
	// capNetRaw is a security.capability, version 2: cap_net_raw+ep (linux/capability.h).
	capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	// binaryACL is user::rw-,user:1000:r--,group::r--,mask::rw-,other::---
	// (struct posix_acl_xattr_header, linux/posix_acl_xattr.h).
	binaryACL = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff" +
		"\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
)

// TestTarsAgainstGNUTar mounts tars that were made byte by byte.
func TestTarsAgainstGNUTar(t *testing.T) {
	for name, s := range samples() {
		t.Run(name, func(t *testing.T) {
			if s.plain == nil {
				s.plain = s.tar
			}
			// GNU tar leaves a root that the tar says nothing of as it is.
			want := gnuTarView(t, writeTemp(t, join(aDir("./"), s.plain)))
			judge(t, writeTemp(t, s.tar), want)
		})
	}
}

// TestRealTarsAgainstGNUTar mounts what GNU tar and bsdtar made of real files.
func TestRealTarsAgainstGNUTar(t *testing.T) {
	for name, data := range tartest.Real(t) {
		t.Run(name, func(t *testing.T) {
			path := writeTemp(t, data)
			judge(t, path, gnuTarView(t, path))
		})
	}
}

// TestSameTarSameIndex scans tars in pieces of many sizes.
func TestSameTarSameIndex(t *testing.T) {
	all := tartest.Real(t)
	for name, s := range samples() {
		all[name] = s.tar
	}
	for name, tar := range all {
		t.Run(name, func(t *testing.T) {
			want := indexOf(t, bytes.NewReader(tar), tar)
			checkIndex(t, bytes.NewReader(want), int64(len(want)))
			for kind, r := range map[string]io.Reader{
				"again":           bytes.NewReader(tar),
				"a stream":        io.MultiReader(bytes.NewReader(tar)),
				"halves":          iotest.HalfReader(bytes.NewReader(tar)),
				"end with data":   iotest.DataErrReader(bytes.NewReader(tar)),
				"pieces of 511":   &pieces{tar, 511},
				"pieces of 4097":  &pieces{tar, 4097},
				"byte after byte": iotest.OneByteReader(bytes.NewReader(tar[:min(len(tar), 1<<19)])),
			} {
				if kind == "byte after byte" && len(tar) > 1<<19 {
					continue
				}
				if got := indexOf(t, r, tar); !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes of index that differ from the %d", kind, len(got), len(want))
				}
			}
		})
	}
}

type pieces struct {
	rest []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(p.size, len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
}

// TestIndexBytesAreForever pins what may only change together with a plan for the indexes that exist.
func TestIndexBytesAreForever(t *testing.T) {
	var tar []byte
	all := samples()
	for i, name := range []string{
		"all kinds", "v7", "ustar prefix", "GNU long names", "GNU numbers", "PAX names and numbers", "missing parents", "hard links", "xattrs", "ACLs as text",
	} {
		tar = join(tar, aDir(fmt.Sprint("before ", i)), all[name].tar)
	}
	tar = join(tar, aFile("w/.wh.gone", ""), aFile("w/.wh..wh..opq", ""), tartest.End())
	sum := sha256.Sum256(indexOf(t, bytes.NewReader(tar), tar))
	const want = "606da83bc814a6b2090f729e9781a284098bbbfb298c4146a4b04b284eaa18c7"
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("the index has the digest %s, want %s", got, want)
	}
}
