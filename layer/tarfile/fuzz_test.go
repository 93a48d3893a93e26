package tarfile_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/tarnfs/tarn/internal/tartest"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// FuzzReader reads anything. Each input kind must tell the same; what archive/tar
// accepts as well, it must see alike; and what was read must survive being written.
func FuzzReader(f *testing.F) {
	whole, _ := writeAll(f, samples())
	f.Add(whole[:min(len(whole), 64<<10)])
	f.Add(join(pax("path", "long", "mtime", "1.5", "SCHILY.xattr.user.a", "b"), file("f", "contents"), end()))
	f.Add(join(ext("g", records("uid", "7")), ext("L", "long\x00"), ext("K", "link\x00"), file("f", ""), end()))
	f.Add(join(pax("GNU.sparse.size", "100", "GNU.sparse.map", "0,1,50,2"), file("f", "abc"), end()))
	f.Add(join(block(map[int]string{atName: "f", atType: "S", atMagic: gnu, atSize: "00000001000\x00", 386: "00000000000\x0000000001000\x00", 483: "00000002000\x00"}), make([]byte, 512), end()))
	f.Add(join(pax("SCHILY.acl.access", "user::rwx,user:lisa:r--:5,group::r-x,mask::r-x,other::---"), file("f", "")))
	for _, tar := range tartest.Seeds(f) {
		f.Add(tar)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		data = tartest.Mend(data)
		members, err := tryReadSome(bytes.NewReader(data))
		streamed, streamErr := tryReadSome(onlyReader{bytes.NewReader(data)})
		if (err == nil) != (streamErr == nil) {
			t.Fatalf("at offsets: %v; as a stream: %v", err, streamErr)
		}
		if err != nil {
			return
		}
		for i, m := range members {
			if m.Name != streamed[i].Name || !bytes.Equal(m.contents, streamed[i].contents) {
				t.Fatalf("at offsets %v, as a stream %v", m.Header, streamed[i].Header)
			}
		}
		agreeWithStandardLibrary(t, data, members)
		rewrite(t, members)
	})
}

// tryReadSome is tryReadAll with limits that a fuzzer's memory has room for.
func tryReadSome(r io.Reader) (members []member, err error) {
	tr := tarfile.NewReader(r, tarfile.Limits{FileSize: 1 << 20, Segments: 1000, Extension: 64 << 10})
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return members, nil
		}
		if err != nil {
			return members, err
		}
		contents, err := io.ReadAll(tr)
		if err != nil {
			return members, err
		}
		members = append(members, member{*h, contents})
	}
}

// agreeWithStandardLibrary compares name, size and contents up to where one of
// the two stops. It skips what the two are meant to read differently.
func agreeWithStandardLibrary(t *testing.T, data []byte, members []member) {
	t.Helper()
	for _, kind := range []string{"GNU.sparse.", "LIBARCHIVE"} {
		if bytes.Contains(data, []byte(kind)) {
			return
		}
	}
	tr := tar.NewReader(bytes.NewReader(data))
	for _, m := range members {
		h, err := tr.Next()
		for err == nil && h.Typeflag == tar.TypeXGlobalHeader {
			return // it takes them for entries that end an extended header
		}
		if err != nil || h.Typeflag == tar.TypeGNUSparse {
			return
		}
		contents, err := io.ReadAll(tr)
		if err != nil {
			return
		}
		if h.Typeflag == tar.TypeReg && strings.HasSuffix(h.Name, "/") {
			return // a directory for GNU tar and us
		}
		size := h.Size
		if m.Type != tarfile.TypeReg {
			size = 0
		}
		if h.Name != m.Name && !oldPrefix(h.Name, m.Name) && !oldPrefix(m.Name, h.Name) {
			t.Fatalf("name %q, archive/tar says %q", m.Name, h.Name)
		}
		if m.Type == tarfile.TypeReg && (size != m.Size || !bytes.Equal(contents, m.contents)) {
			t.Fatalf("%q: size %d, archive/tar says %d", m.Name, m.Size, size)
		}
	}
}

// oldPrefix tells whether one reader found a prefix and the other did not: archive/tar finds one in GNU
// headers, where Go before 1.8 wrote one by mistake, and none if the version of ustar is not 00.
func oldPrefix(longer, shorter string) bool { return strings.HasSuffix(longer, "/"+shorter) }

func rewrite(t *testing.T, members []member) {
	t.Helper()
	var buf bytes.Buffer
	w := tarfile.NewWriter(&buf)
	var written []member
	for _, m := range members {
		h := m.Header
		h.Sparse, h.ACLs = nil, nil // written whole
		h.Records = nil
		if err := w.WriteHeader(&h); err != nil {
			continue // an unknown type
		}
		if _, err := w.Write(m.contents); err != nil {
			t.Fatal(err)
		}
		written = append(written, m)
	}
	must(t, w.Close())
	again, err := tryReadAll(bytes.NewReader(buf.Bytes()))
	if err != nil || len(again) != len(written) {
		t.Fatalf("wrote %d entries, read %d: %v", len(written), len(again), err)
	}
	for i, m := range again {
		w := written[i]
		name := strings.TrimSuffix(w.Name, "/")
		if strings.TrimSuffix(m.Name, "/") != name || m.Type != w.Type || m.Linkname != w.Linkname || m.UID != w.UID || m.GID != w.GID ||
			m.Sec != w.Sec || m.Nsec != w.Nsec || !bytes.Equal(m.contents, w.contents) || len(m.Xattrs) != len(w.Xattrs) {
			t.Fatalf("wrote %+v\nread  %+v", w.Header, m.Header)
		}
	}
}
