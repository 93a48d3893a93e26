package tarfile_test

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// TestAgainstStandardLibrary reads what GNU tar writes in each of its formats, and
// compares all that archive/tar tells with what it tells.
func TestAgainstStandardLibrary(t *testing.T) {
	for _, tt := range []struct {
		format string
		long   bool
	}{{"v7", false}, {"oldgnu", true}, {"gnu", true}, {"ustar", false}, {"pax", true}, {"posix", true}} {
		t.Run(tt.format, func(t *testing.T) {
			data := gnuTar(t, plainTree(t, tt.long), "--format="+tt.format)
			compareWithStandardLibrary(t, data, readAll(t, data))
		})
	}
}

func compareWithStandardLibrary(t testing.TB, data []byte, members []member) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(data))
	for _, m := range members {
		h, err := tr.Next()
		if err != nil {
			t.Fatalf("archive/tar has no entry for %q: %v", m.Name, err)
		}
		contents, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%q %q %o %d:%d %s:%s %d %d.%09d %d,%d", m.Name, m.Linkname, m.Mode, m.UID, m.GID, m.Uname, m.Gname,
			m.Size, m.Sec, m.Nsec, m.Devmajor, m.Devminor)
		want := fmt.Sprintf("%q %q %o %d:%d %s:%s %d %d.%09d %d,%d", h.Name, h.Linkname, h.Mode&0o7777, h.Uid, h.Gid, h.Uname, h.Gname,
			h.Size, h.ModTime.Unix(), h.ModTime.Nanosecond(), h.Devmajor, h.Devminor)
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if !bytes.Equal(contents, m.contents) {
			t.Errorf("%q: contents differ", m.Name)
		}
	}
	if h, err := tr.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("archive/tar goes on: %v, %v", h, err)
	}
}

// TestSparse reads GNU tar's four forms of a file with so many segments that the
// map of each needs more than its first block.
func TestSparse(t *testing.T) {
	dir := testenv.TempDir(t)
	contents := map[string][]byte{
		"./many":     make([]byte, 3<<20),
		"./hole":     make([]byte, 1<<20),
		"./tailhole": make([]byte, 1<<20),
		"./odd":      make([]byte, 1<<20+123),
		"./few":      make([]byte, 200_000),
	}
	for i := range 200 {
		_, _ = rand.Read(contents["./many"][i*15000 : i*15000+700])
	}
	_, _ = rand.Read(contents["./tailhole"][:5000])
	_, _ = rand.Read(contents["./odd"][1<<20:])
	_, _ = rand.Read(contents["./few"][70_000:90_000])
	for name, c := range contents {
		writeSparse(t, filepath.Join(dir, name), c)
	}
	for _, args := range [][]string{
		{"--format=gnu"},
		{"--format=oldgnu"},
		{"--format=posix", "--sparse-version=0.0"},
		{"--format=posix", "--sparse-version=0.1"},
		{"--format=posix", "--sparse-version=1.0"},
	} {
		t.Run(strings.Join(args, ","), func(t *testing.T) {
			data := gnuTar(t, dir, append(args, "--sparse", "--hole-detection=raw")...)
			members := readAll(t, data)
			compareWithStandardLibrary(t, data, members)
			found := 0
			for _, m := range members {
				want, ok := contents[m.Name]
				if !ok {
					continue
				}
				found++
				if !bytes.Equal(m.contents, want) {
					t.Errorf("%s: contents differ", m.Name)
				}
				if m.Sparse == nil || m.PackedSize >= m.Size {
					t.Errorf("%s: not sparse: %d segments, %d of %d bytes stored", m.Name, len(m.Sparse), m.PackedSize, m.Size)
				}
				if m.Name == "./hole" && len(m.Sparse) != 0 {
					t.Errorf("segments %v of a file that is one hole", m.Sparse)
				}
			}
			if found != len(contents) {
				t.Errorf("found %d of %d files", found, len(contents))
			}
		})
	}
}

// writeSparse leaves out blocks of zeros.
func writeSparse(t *testing.T, path string, contents []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(int64(len(contents))))
	for at := 0; at < len(contents); at += 4096 {
		if part := contents[at:min(at+4096, len(contents))]; len(bytes.Trim(part, "\x00")) > 0 {
			_, err := f.WriteAt(part, int64(at))
			must(t, err)
		}
	}
}

// TestInputs reads the same tar through each kind of input.
func TestInputs(t *testing.T) {
	data := gnuTar(t, plainTree(t, true), "--format=pax")
	data = append(data, "rubbish behind the end"...)
	want := readAll(t, data)
	path := filepath.Join(testenv.TempDir(t), "tar")
	must(t, os.WriteFile(path, append([]byte("something before"), data...), 0o600))
	opened, err := os.Open(path)
	must(t, err)
	defer opened.Close()

	for name, open := range map[string]func() io.Reader{
		"reader at":  func() io.Reader { return bytes.NewReader(data) },
		"stream":     func() io.Reader { return onlyReader{bytes.NewReader(data)} },
		"seeker":     func() io.Reader { return onlySeeker{bytes.NewReader(data)} },
		"skipper":    func() io.Reader { return &skipper{Reader: bytes.NewReader(data)} },
		"bytewise":   func() io.Reader { return iotest.OneByteReader(bytes.NewReader(data)) },
		"late error": func() io.Reader { return iotest.DataErrReader(bytes.NewReader(data)) },
		"file inside": func() io.Reader {
			_, err := opened.Seek(int64(len("something before")), io.SeekStart)
			must(t, err)
			return opened
		},
		"pipe": func() io.Reader {
			r, w, err := os.Pipe()
			must(t, err)
			t.Cleanup(func() { _ = r.Close() })
			go func() { _, _ = w.Write(data); _ = w.Close() }()
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tryReadAll(open())
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("with contents: %d entries, %v, want %d", len(got), err, len(want))
			}
			tr := tarfile.NewReader(open(), tarfile.Limits{})
			for i := range want {
				h, err := tr.Next()
				must(t, err)
				var packed bytes.Buffer
				n := h.PackedSize
				if i%2 == 1 {
					n = (n + 1) / 2
				}
				err = tr.WritePacked(&packed, n)
				if err != nil || !bytes.Equal(packed.Bytes(), data[h.DataOffset:h.DataOffset+n]) {
					t.Fatalf("packed contents of %s: %d bytes, %v, want %d", h.Name, packed.Len(), err, h.PackedSize)
				}
			}
			tr = tarfile.NewReader(open(), tarfile.Limits{})
			for i := range want {
				h, err := tr.Next()
				if err != nil || !reflect.DeepEqual(*h, want[i].Header) {
					t.Fatalf("without contents: %v, %v, want %v", h, err, want[i].Header)
				}
			}
			if _, err := tr.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("end: %v", err)
			}
			if size, err := tr.Size(); err != nil || size != int64(len(data)) {
				t.Errorf("size %d, %v, want %d", size, err, len(data))
			}
		})
	}
}

type onlyReader struct{ io.Reader }

type onlySeeker struct{ io.ReadSeeker }

type skipper struct {
	*bytes.Reader
}

func (s *skipper) Skip(n int64) (int64, error) {
	n = min(n, int64(s.Len()))
	_, err := s.Reader.Seek(n, io.SeekCurrent)
	return n, err
}

func (s *skipper) CopyN(w io.Writer, n int64) (int64, error) { return io.CopyN(w, s.Reader, n) }

// Seek hides the one of bytes.Reader.
func (s *skipper) Seek() {}

// TestSkipsContents proves that a file's contents are not read when they need not be.
func TestSkipsContents(t *testing.T) {
	data := join(file("a", strings.Repeat("x", 1<<20)), file("b", strings.Repeat("y", 1<<20)), end())
	counted := &countingReaderAt{Reader: bytes.NewReader(data)}
	members := 0
	tr := tarfile.NewReader(counted, tarfile.Limits{})
	for {
		if _, err := tr.Next(); err != nil {
			break
		}
		members++
	}
	if members != 2 || counted.n > 64<<10 {
		t.Errorf("read %d bytes for %d entries", counted.n, members)
	}
}

type countingReaderAt struct {
	*bytes.Reader
	n int
}

func (c *countingReaderAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Reader.ReadAt(p, off)
	c.n += n
	return n, err
}

func TestOffsets(t *testing.T) {
	data := join(file("a", "contents"), pax("path", "long"), file("b", "more"), end())
	members := readAll(t, data)
	if len(members) != 2 {
		t.Fatalf("%d entries", len(members))
	}
	a, b := members[0], members[1]
	if a.Offset != 0 || a.DataOffset != 512 || a.PackedSize != 8 || a.End() != 1024 {
		t.Errorf("a: %+v", a.Header)
	}
	if b.Offset != 1024 || b.DataOffset != 2560 || b.End() != 3072 {
		t.Errorf("b: %+v", b.Header)
	}
}

// TestDialects reads blocks made by hand: forms that today's tools do not write.
func TestDialects(t *testing.T) {
	signed := block(map[int]string{atName: "caf\xe9"})
	sum := 0
	copy(signed[148:], "        ")
	for _, c := range signed {
		sum += int(int8(c))
	}
	copy(signed[148:], fmt.Sprintf("%06o\x00 ", sum))

	for name, tt := range map[string]struct {
		data []byte
		want tarfile.Header
	}{
		"v7":                       {block(map[int]string{atName: "f", atType: "\x00"}), tarfile.Header{Name: "f", Type: '0'}},
		"v7 directory":             {block(map[int]string{atName: "d/", atType: "\x00"}), tarfile.Header{Name: "d/", Type: '5'}},
		"v7 has no prefix":         {block(map[int]string{atName: "f", 345: "not/a/prefix"}), tarfile.Header{Name: "f", Type: '0'}},
		"gnu has no prefix":        {block(map[int]string{atName: "f", 345: "00000000000\x00", atMagic: gnu}), tarfile.Header{Name: "f", Type: '0'}},
		"ustar prefix":             {block(map[int]string{atName: "f", 345: "p/q", atMagic: ustar}), tarfile.Header{Name: "p/q/f", Type: '0'}},
		"no magic, no prefix":      {block(map[int]string{atName: "f", 345: "p/q", atMagic: "ustar 00"}), tarfile.Header{Name: "f", Type: '0'}},
		"star prefix":              {block(map[int]string{atName: "f", 345: "p", 476: "00000000000 00000000000 ", 508: "tar\x00", atMagic: ustar}), tarfile.Header{Name: "p/f", Type: '0'}},
		"signed checksum":          {signed, tarfile.Header{Name: "caf\xe9", Type: '0'}},
		"full name":                {block(map[int]string{atName: strings.Repeat("n", 100)}), tarfile.Header{Name: strings.Repeat("n", 100), Type: '0'}},
		"directory as file":        {block(map[int]string{atName: "d/", atType: "0", atMagic: ustar}), tarfile.Header{Name: "d/", Type: '5'}},
		"contiguous":               {block(map[int]string{atName: "f", atType: "7", atMagic: ustar}), tarfile.Header{Name: "f", Type: '0'}},
		"base-256 time":            {block(map[int]string{atName: "f", atTime: "\x80\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00\x00", atMagic: gnu}), tarfile.Header{Name: "f", Type: '0', Sec: 1 << 37}},
		"negative base-256 time":   {block(map[int]string{atName: "f", atTime: strings.Repeat("\xff", 12), atMagic: gnu}), tarfile.Header{Name: "f", Type: '0', Sec: -1}},
		"base-256 owner":           {block(map[int]string{atName: "f", 108: "\x80\x00\x00\x00\xee\x6b\x28\x00", atMagic: gnu}), tarfile.Header{Name: "f", Type: '0', UID: 4_000_000_000}},
		"spaces before numbers":    {block(map[int]string{atName: "f", atTime: "       1234 "}), tarfile.Header{Name: "f", Type: '0', Sec: 0o1234}},
		"number without end":       {block(map[int]string{atName: "f", atTime: "777777777777"}), tarfile.Header{Name: "f", Type: '0', Sec: 1<<36 - 1}},
		"empty numbers":            {block(map[int]string{atName: "f", 108: strings.Repeat("\x00", 8)}), tarfile.Header{Name: "f", Type: '0'}},
		"type in mode":             {block(map[int]string{atName: "f", 100: "0104755\x00"}), tarfile.Header{Name: "f", Type: '0', Mode: 0o4755}},
		"size of a link":           {block(map[int]string{atName: "l", atType: "1", atLinkname: "f", atSize: "00000000123\x00"}), tarfile.Header{Name: "l", Linkname: "f", Type: '1'}},
		"device":                   {block(map[int]string{atName: "c", atType: "3", 329: "0000010\x00", 337: "0000377\x00", atMagic: ustar}), tarfile.Header{Name: "c", Type: '3', Devmajor: 8, Devminor: 255}},
		"rubbish in unused device": {block(map[int]string{atName: "f", 329: "rubbish!", atMagic: ustar}), tarfile.Header{Name: "f", Type: '0'}},
		"long name": {
			join(ext("L", "name/of/long\x00"), ext("K", "target\x00"), block(map[int]string{atName: "short", atType: "2", atMagic: gnu})),
			tarfile.Header{Name: "name/of/long", Linkname: "target", Type: '2'},
		},
		"volume label":            {block(map[int]string{atName: "label", atType: "V", atMagic: gnu}), tarfile.Header{Name: "label", Type: 'V'}},
		"unknown type is told":    {block(map[int]string{atName: "f", atType: "Z"}), tarfile.Header{Name: "f", Type: 'Z'}},
		"empty extended header":   {join(pax(), file("f", "")), tarfile.Header{Name: "f", Type: '0'}},
		"two extended headers":    {join(pax("path", "a"), pax("path", "b"), file("f", "")), tarfile.Header{Name: "b", Type: '0'}},
		"global before and after": {join(pax("path", "a"), ext("g", records("uid", "7")), file("f", "")), tarfile.Header{Name: "a", Type: '0', UID: 7}},
		"local beats global":      {join(ext("g", records("uid", "7", "gid", "8")), pax("uid", "9"), file("f", "")), tarfile.Header{Name: "f", Type: '0', UID: 9, GID: 8}},
		"local undoes global":     {join(ext("g", records("uid", "7")), pax("uid", ""), file("f", "")), tarfile.Header{Name: "f", Type: '0'}},
		"global is taken back":    {join(ext("g", records("uid", "7")), ext("g", records("uid", "")), file("f", "")), tarfile.Header{Name: "f", Type: '0'}},
		"comment of git archive":  {join(ext("g", records("comment", "abc")), file("f", "")), tarfile.Header{Name: "f", Type: '0'}},
		"not UTF-8":               {join(pax("path", "\xff\xfe"), file("f", "")), tarfile.Header{Name: "\xff\xfe", Type: '0'}},
		"equals sign in value":    {join(pax("path", "a=b"), file("f", "")), tarfile.Header{Name: "a=b", Type: '0'}},
		"large owner":             {join(pax("uid", "4294967294", "gid", "70000"), file("f", "")), tarfile.Header{Name: "f", Type: '0', UID: 1<<32 - 2, GID: 70000}},
		"nanoseconds":             {join(pax("mtime", "1.123456789"), file("f", "")), tarfile.Header{Name: "f", Type: '0', Sec: 1, Nsec: 123456789}},
		"picoseconds":             {join(pax("mtime", "1.999999999999"), file("f", "")), tarfile.Header{Name: "f", Type: '0', Sec: 1, Nsec: 999999999}},
		"before 1970":             {join(pax("mtime", "-1.25"), file("f", "")), tarfile.Header{Name: "f", Type: '0', Sec: -2, Nsec: 750000000}},
		"little before 1970":      {join(pax("mtime", "-0.5"), file("f", "")), tarfile.Header{Name: "f", Type: '0', Sec: -1, Nsec: 500000000}},
		"PAX device":              {join(pax("SCHILY.devmajor", "9", "SCHILY.devminor", "1048575"), block(map[int]string{atName: "c", atType: "3", atMagic: ustar})), tarfile.Header{Name: "c", Type: '3', Devmajor: 9, Devminor: 1<<20 - 1}},
		"records without a field": {join(pax("atime", "1", "VENDOR.x", "y"), file("f", "")), tarfile.Header{Name: "f", Type: '0', Records: []tarfile.Record{{Key: "atime", Value: "1"}, {Key: "VENDOR.x", Value: "y"}}}},
		"xattr":                   {join(pax("SCHILY.xattr.user.b", "2\x00", "SCHILY.xattr.user.a", "1"), file("f", "")), tarfile.Header{Name: "f", Type: '0', Xattrs: []tarfile.Xattr{{Name: "user.a", Value: []byte("1")}, {Name: "user.b", Value: []byte("2\x00")}}}},
		"empty xattr":             {join(pax("SCHILY.xattr.user.a", ""), file("f", "")), tarfile.Header{Name: "f", Type: '0', Xattrs: []tarfile.Xattr{{Name: "user.a", Value: []byte{}}}}},
		"xattr name of GNU tar":   {join(pax("SCHILY.xattr.user.a%3Db%25", "1"), file("f", "")), tarfile.Header{Name: "f", Type: '0', Xattrs: []tarfile.Xattr{{Name: "user.a=b%", Value: []byte("1")}}}},
		"xattr twice":             {join(pax("SCHILY.xattr.user.a", "1", "SCHILY.xattr.user.a", "2"), file("f", "")), tarfile.Header{Name: "f", Type: '0', Xattrs: []tarfile.Xattr{{Name: "user.a", Value: []byte("2")}}}},
		"xattr of bsdtar":         {join(pax("LIBARCHIVE.xattr.user.%C3%A9", "AAE"), file("f", "")), tarfile.Header{Name: "f", Type: '0', Xattrs: []tarfile.Xattr{{Name: "user.\u00e9", Value: []byte{0, 1}}}}},
		"xattr of bsdtar, both":   {join(pax("SCHILY.xattr.user.a", "right", "LIBARCHIVE.xattr.user.a", "AAE="), file("f", "")), tarfile.Header{Name: "f", Type: '0', Xattrs: []tarfile.Xattr{{Name: "user.a", Value: []byte("right")}}}},
		"ACL of bsdtar, twice": {
			join(pax("LIBARCHIVE.xattr.system.posix_acl_access", "AgAAAAEABgD/////BAAEAP////8gAAQA/////w", "SCHILY.acl.access", "user::rwx,user:lisa:r--,group::r--,mask::rwx,other::---"), file("f", "")),
			tarfile.Header{Name: "f", Type: '0', Mode: 0o770, Xattrs: []tarfile.Xattr{}, ACLs: []tarfile.ACL{{Name: "system.posix_acl_access", Text: "user::rwx,user:lisa:r--,group::r--,mask::rwx,other::---"}}},
		},
		"xattr in a global header": {join(ext("g", records("SCHILY.xattr.user.a", "g")), file("f", "")), tarfile.Header{Name: "f", Type: '0', Xattrs: []tarfile.Xattr{{Name: "user.a", Value: []byte("g")}}}},
	} {
		t.Run(name, func(t *testing.T) {
			members := readAll(t, join(tt.data, end()))
			if len(members) != 1 {
				t.Fatalf("%d entries", len(members))
			}
			got := members[0].Header
			got.Offset, got.DataOffset, got.PackedSize = 0, 0, 0
			if tt.want.Mode == 0 {
				tt.want.Mode = 0o644
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// TestEnds are tars that end in unusual ways, but whole.
func TestEnds(t *testing.T) {
	one := file("f", "contents")
	for name, data := range map[string][]byte{
		"two zero blocks":      join(one, end()),
		"one zero block":       join(one, end()[:512]),
		"no zero block":        one,
		"no padding":           one[:512+len("contents")],
		"half the padding":     one[:700],
		"padded to 10 KiB":     join(one, make([]byte, 10240-len(one))),
		"rubbish at the end":   join(one, end(), []byte("rubbish")),
		"another tar appended": join(one, end(), file("g", "more"), end()),
	} {
		for kind, r := range map[string]io.Reader{"at": bytes.NewReader(data), "stream": onlyReader{bytes.NewReader(data)}} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				tr := tarfile.NewReader(r, tarfile.Limits{})
				if h, err := tr.Next(); err != nil || h.Name != "f" {
					t.Fatalf("%v, %v", h, err)
				}
				if _, err := tr.Next(); !errors.Is(err, io.EOF) {
					t.Fatalf("end: %v", err)
				}
				if size, err := tr.Size(); err != nil || size != int64(len(data)) {
					t.Errorf("size %d, %v, want %d", size, err, len(data))
				}
			})
		}
	}
	if members := readAll(t, nil); len(members) != 0 {
		t.Errorf("entries %v of nothing", members)
	}
}

// TestTruncated cuts a tar at each offset: it must be an error, unless the cut is
// between entries or in padding that nobody needs.
func TestTruncated(t *testing.T) {
	data := join(file("a", "contents of a"), pax("path", "name"), file("b", ""), file("c", strings.Repeat("c", 600)))
	whole := map[int]bool{}
	for _, from := range []int{0, 512 + len("contents of a"), 2560, 3072 + 600} {
		for cut := from; cut == from || cut%512 != 1; cut++ {
			whole[cut] = true
		}
	}
	for cut := range len(data) {
		for kind, r := range map[string]io.Reader{"at": bytes.NewReader(data[:cut]), "stream": onlyReader{bytes.NewReader(data[:cut])}} {
			_, err := tryReadAll(r)
			if whole[cut] && err != nil {
				t.Errorf("%s, cut at %d: %v", kind, cut, err)
			}
			if !whole[cut] && !errors.Is(err, tarfile.ErrTruncated) {
				t.Errorf("%s, cut at %d: error %v, want %v", kind, cut, err, tarfile.ErrTruncated)
			}
		}
	}
}

// TestMalformed are archives that are refused, with the name in question.
func TestMalformed(t *testing.T) {
	f := file("victim", "")
	corrupt := file("victim", "")
	corrupt[0] = 'V'
	oldSparse := func(fields map[int]string) []byte {
		all := map[int]string{atName: "victim", atType: "S", atMagic: gnu, 483: "00000002000\x00"}
		maps.Copy(all, fields)
		return block(all)
	}
	map10 := func(data string, pairs ...string) []byte {
		b := file("victim", data)
		return join(pax(append([]string{"GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "victim", "GNU.sparse.realsize", "100"}, pairs...)...), b)
	}
	padded := func(s string) string { return s + strings.Repeat("\x00", 512-len(s)) }
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"no tar at all":              {[]byte(strings.Repeat("no tar ", 200)), "no tar header at offset 0"},
		"checksum":                   {join(file("before", ""), corrupt), `after entry "before"`},
		"lone zero block":            {join(file("before", ""), end()[:512], f), `lone block of zeros at offset 512, after entry "before"`},
		"no name":                    {block(map[int]string{}), "no name"},
		"size not a number":          {block(map[int]string{atName: "victim", atSize: "12x4"}), `"victim": malformed tar: size`},
		"size negative":              {block(map[int]string{atName: "victim", atSize: strings.Repeat("\xff", 12), atMagic: gnu}), "size"},
		"size over 64 bits":          {block(map[int]string{atName: "victim", atSize: "\x80\x00\x00\x01" + strings.Repeat("\x00", 8), atMagic: gnu}), "64 bits"},
		"size to the last byte":      {block(map[int]string{atName: "victim", atSize: "\x80\x00\x00\x00\x7f" + strings.Repeat("\xff", 7), atMagic: gnu}), "size"},
		"PAX size overflows":         {join(pax("size", "9223372036854775808"), f), `"victim": malformed tar: PAX record "size"`},
		"PAX size has a sign":        {join(pax("size", "+5"), f), "size"},
		"PAX size negative":          {join(pax("size", "-5"), f), "size"},
		"uid -1":                     {join(pax("uid", "4294967295"), f), "uid"},
		"uid too large":              {join(pax("uid", "4294967296"), f), "uid"},
		"uid negative":               {block(map[int]string{atName: "victim", 108: strings.Repeat("\xff", 8), atMagic: gnu}), "uid"},
		"time not a number":          {join(pax("mtime", "soon"), f), "mtime"},
		"time hexadecimal":           {join(pax("mtime", "1.ff"), f), "mtime"},
		"path with NUL":              {join(pax("path", "a\x00b"), f), "path"},
		"linkpath with NUL":          {join(pax("linkpath", "a\x00b"), f), "linkpath"},
		"record without length":      {join(ext("x", "path=abc\n"), f), "length"},
		"record too short":           {join(ext("x", "3 a=b\n"), f), "record"},
		"record too long":            {join(ext("x", "99 a=b\n"), f), "record"},
		"record of huge length":      {join(ext("x", "99999999999999999999 a=b\n"), f), "length"},
		"record ends in its middle":  {join(ext("x", "7 abcd="), f), "record"},
		"record without newline":     {join(ext("x", "7 a=bcd8 c=defg"), f), "record"},
		"record without key":         {join(ext("x", "5 =b\n"), f), "record"},
		"global path":                {join(ext("g", records("path", "x")), f), "global"},
		"global size":                {join(ext("g", records("size", "1")), f), "global"},
		"global sparse":              {join(ext("g", records("GNU.sparse.size", "1")), f), "global"},
		"xattr without name":         {join(pax("SCHILY.xattr.", "v"), f), "xattr"},
		"xattr with NUL":             {join(pax("LIBARCHIVE.xattr.user.a%00", "AA"), f), "xattr"},
		"xattr not base64":           {join(pax("LIBARCHIVE.xattr.user.a", "!"), f), "xattr"},
		"ACL without other":          {join(pax("SCHILY.acl.access", "user::rwx,group::r-x"), f), `"victim"`},
		"ACL without mask":           {join(pax("SCHILY.acl.access", "user::rwx,user:1:r--,group::r-x,other::---"), f), "mask"},
		"ACL nonsense":               {join(pax("SCHILY.acl.access", "nonsense"), f), "ACL"},
		"ACL binary nonsense":        {join(pax("SCHILY.xattr.system.posix_acl_access", "\x02\x00\x00\x00xxx"), f), "ACL"},
		"old sparse, not GNU":        {block(map[int]string{atName: "victim", atType: "S", atMagic: ustar}), "dialect"},
		"old sparse past the end":    {oldSparse(map[int]string{atSize: "00000001000\x00", 386: "00000001001\x0000000001000\x00"}), "segment"},
		"old sparse overlap":         {oldSparse(map[int]string{atSize: "00000001000\x00", 386: "00000000000\x0000000000400\x0000000000200\x0000000000400\x00"}), "segment"},
		"old sparse sum":             {oldSparse(map[int]string{atSize: "00000001000\x00", 386: "00000000000\x0000000000400\x00"}), "stored"},
		"old sparse number":          {oldSparse(map[int]string{386: "x"}), "sparse"},
		"sparse 0.0 half a segment":  {join(pax("GNU.sparse.size", "10", "GNU.sparse.offset", "0"), f), "map"},
		"sparse 0.0 two offsets":     {join(pax("GNU.sparse.offset", "0", "GNU.sparse.offset", "1"), f), "alternate"},
		"sparse 0.1 odd":             {join(pax("GNU.sparse.size", "10", "GNU.sparse.map", "0,0,5"), f), "map"},
		"sparse 0.1 overflow":        {join(pax("GNU.sparse.size", "10", "GNU.sparse.map", "9223372036854775807,9223372036854775807"), f), "segment"},
		"sparse 0.1 of a directory":  {join(pax("GNU.sparse.size", "10", "GNU.sparse.map", "0,0"), block(map[int]string{atName: "d", atType: "5"})), "not a file"},
		"sparse 2.0":                 {join(pax("GNU.sparse.major", "2", "GNU.sparse.minor", "0"), f), "unknown form"},
		"sparse 1.0 without map":     {map10(""), "sparse map"},
		"sparse 1.0 not a number":    {map10(padded("x\n")), "number"},
		"sparse 1.0 endless number":  {map10(padded(strings.Repeat("1", 100))), "too long"},
		"sparse 1.0 map too long":    {map10(padded("100\n")), "sparse"},
		"sparse 1.0 past the end":    {map10(padded("1\n100\n1\n") + "x"), "segment"},
		"sparse 1.0 sum":             {map10(padded("1\n0\n50\n") + "x"), "stored"},
		"sparse 1.0 and 0.1":         {map10(padded("0\n"), "GNU.sparse.map", "0,0"), "two sparse maps"},
		"sparse descends":            {map10(padded("2\n50\n1\n0\n1\n") + "xx"), "segment"},
		"directory with contents":    {file("victim/", "x"), "ends in a slash"},
		"size of an extended header": {block(map[int]string{atName: "ext", atType: "x", atSize: "z"}), "extended header"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryReadAll(bytes.NewReader(join(tt.data, end())))
			if !errors.Is(err, tarfile.ErrMalformed) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %v with %q", err, tarfile.ErrMalformed, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %q", err)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	big := strings.Repeat("x", 1000)
	sparse := join(pax("GNU.sparse.size", "100", "GNU.sparse.map", "0,0,1,0,2,0,3,0"), file("victim", ""))
	for name, tt := range map[string]struct {
		data   []byte
		limits tarfile.Limits
	}{
		"entries":            {join(file("a", ""), file("b", ""), file("c", "")), tarfile.Limits{Entries: 2}},
		"name":               {join(pax("path", big), file("a", "")), tarfile.Limits{Name: 999}},
		"default name":       {join(pax("path", strings.Repeat("x", 4097)), file("a", "")), tarfile.Limits{}},
		"link":               {join(pax("linkpath", big), file("a", "")), tarfile.Limits{Linkname: 999}},
		"PAX header":         {join(pax("comment", big), file("a", "")), tarfile.Limits{Extension: 1000}},
		"default PAX header": {join(ext("x", "")[:124], []byte("77777777777\x00")), tarfile.Limits{}},
		"long name":          {join(ext("L", big), file("a", "")), tarfile.Limits{Extension: 999}},
		"segments":           {sparse, tarfile.Limits{Segments: 3}},
		"xattrs":             {join(pax("SCHILY.xattr.user.a", "", "SCHILY.xattr.user.b", ""), file("a", "")), tarfile.Limits{Xattrs: 1}},
		"xattr bytes":        {join(pax("SCHILY.xattr.user.a", big), file("a", "")), tarfile.Limits{XattrBytes: 1000}},
		"global metadata":    {join(ext("g", records("SCHILY.xattr.user.a", big)), ext("g", records("SCHILY.xattr.user.b", big))), tarfile.Limits{Metadata: 1999}},
		"metadata":           {join(pax("path", big), file("a", ""), pax("path", big), file("a", "")), tarfile.Limits{Metadata: 1999}},
		"file size":          {file("a", big), tarfile.Limits{FileSize: 999}},
		"size of holes":      {sparse, tarfile.Limits{FileSize: 99}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "default PAX header" {
				tt.data = seal(append(tt.data, block(map[int]string{atType: "x"})[136:]...))
			}
			tr := tarfile.NewReader(bytes.NewReader(join(tt.data, end())), tt.limits)
			var err error
			for err == nil {
				_, err = tr.Next()
			}
			if !errors.Is(err, tarfile.ErrLimit) {
				t.Errorf("error %v, want %v", err, tarfile.ErrLimit)
			}
		})
	}
}

// TestReaderErrors checks that an error of the input comes out as it is, and stays.
func TestReaderErrors(t *testing.T) {
	broken := errors.New("broken")
	data := join(file("a", strings.Repeat("x", 100_000)), end())
	for _, cut := range []int{0, 100, 512, 1000, 99_000, len(data) - 1000} {
		tr := tarfile.NewReader(io.MultiReader(bytes.NewReader(data[:cut]), iotest.ErrReader(broken)), tarfile.Limits{})
		var err error
		for err == nil {
			_, err = tr.Next()
		}
		if _, again := tr.Next(); !errors.Is(err, broken) || !errors.Is(again, broken) {
			t.Errorf("cut at %d: %v, then %v", cut, err, again)
		}
	}
}

func TestTimeAgainstStandardLibrary(t *testing.T) {
	for _, at := range []time.Time{time.Unix(0, 1), time.Unix(-1, 1), time.Unix(-5, 999_999_999), time.Unix(1<<40, 10)} {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		must(t, tw.WriteHeader(&tar.Header{Name: "f", ModTime: at, Format: tar.FormatPAX}))
		must(t, tw.Close())
		m := readAll(t, buf.Bytes())[0]
		if got := time.Unix(m.Sec, int64(m.Nsec)); !got.Equal(at) {
			t.Errorf("got %v, want %v", got, at)
		}
	}
}
