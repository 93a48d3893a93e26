package tarfile_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// samples are entries of all kinds, with contents as they are stored.
func samples() []member {
	reg := func(name, contents string) member {
		return member{tarfile.Header{Name: name, Type: tarfile.TypeReg, Mode: 0o644, Size: int64(len(contents)), Sec: 1e9}, []byte(contents)}
	}
	xattrs := reg("xattrs", "x")
	xattrs.Xattrs = []tarfile.Xattr{
		{Name: "security.capability", Value: []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
		{Name: "user.empty", Value: []byte{}},
		{Name: "user.with=and%", Value: []byte("new\nline=\x00")},
	}
	times := reg("times", "")
	times.Sec, times.Nsec = -2, 500_000_000
	owner := reg("owner", "")
	owner.UID, owner.GID, owner.Uname, owner.Gname = 1<<32-2, 3_000_000, strings.Repeat("u", 40), "staff"
	late := reg("late", "")
	late.Sec = 1 << 33 // more than ustar holds, less than ext4 does
	record := reg("record", "r")
	record.Records = []tarfile.Record{{Key: "VENDOR.key", Value: "value"}}
	sparse := func(name string, size int64, segments []tarfile.Segment) member {
		var stored int64
		for _, s := range segments {
			stored += s.Length
		}
		return member{
			tarfile.Header{Name: name, Type: tarfile.TypeReg, Mode: 0o600, Size: size, Sparse: segments},
			bytes.Repeat([]byte("data"), int(stored)/4),
		}
	}
	var many []tarfile.Segment
	for i := range int64(300) {
		many = append(many, tarfile.Segment{Offset: i * 8192, Length: 512})
	}
	all := []member{
		{tarfile.Header{Name: "./", Type: tarfile.TypeDir, Mode: 0o755, Sec: 1e9, Nsec: 1}, nil},
		reg("empty", ""),
		reg("block", strings.Repeat("b", 512)),
		reg("odd", strings.Repeat("o", 1025)),
		reg(strings.Repeat("n", 100), "longest name"),
		reg(strings.Repeat("p", 155)+"/"+strings.Repeat("n", 100), "longest prefix"),
		reg(strings.Repeat("n", 101), "name for PAX"),
		reg(strings.Repeat("d/", 200)+"f", "deep"),
		reg("latin\xe9"+strings.Repeat("x", 200), "not UTF-8, long"),
		reg("latin\xe9", "not UTF-8"),
		{tarfile.Header{Name: strings.Repeat("d", 99), Type: tarfile.TypeDir, Mode: 0o1777}, nil},
		{tarfile.Header{Name: strings.Repeat("d", 155) + "/", Type: tarfile.TypeDir, Mode: 0o700}, nil},
		{tarfile.Header{Name: "hard", Type: tarfile.TypeLink, Linkname: "odd", Mode: 0o644}, nil},
		{tarfile.Header{Name: "soft", Type: tarfile.TypeSymlink, Linkname: strings.Repeat("t", 100), Mode: 0o777}, nil},
		{tarfile.Header{Name: "softer", Type: tarfile.TypeSymlink, Linkname: strings.Repeat("t", 101), Mode: 0o777}, nil},
		{tarfile.Header{Name: "char", Type: tarfile.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}, nil},
		{tarfile.Header{Name: "block-device", Type: tarfile.TypeBlock, Mode: 0o660, Devmajor: 259, Devminor: 1<<20 - 1}, nil},
		{tarfile.Header{Name: "fifo", Type: tarfile.TypeFifo, Mode: 0o4755}, nil},
		xattrs, times, owner, late, record,
		sparse("sparse", 1<<20, []tarfile.Segment{{Offset: 4096, Length: 4096}, {Offset: 100 << 10, Length: 512}}),
		sparse("sparse-to-the-end", 1<<20, []tarfile.Segment{{Offset: 1<<20 - 100, Length: 100}}),
		sparse("hole", 1<<20, []tarfile.Segment{}),
		sparse("many", 300*8192, many),
		sparse("holes/"+strings.Repeat("s", 150), 10_000, []tarfile.Segment{{Offset: 5000, Length: 5000}}),
	}
	return all
}

func writeAll(t testing.TB, members []member) ([]byte, []tarfile.Header) {
	t.Helper()
	var buf bytes.Buffer
	w := tarfile.NewWriter(&buf)
	var headers []tarfile.Header
	for _, m := range members {
		h := m.Header
		must(t, w.WriteHeader(&h))
		_, err := w.Write(m.contents)
		must(t, err)
		headers = append(headers, h)
	}
	must(t, w.Close())
	if w.Size() != int64(buf.Len()) {
		t.Errorf("Size is %d, wrote %d", w.Size(), buf.Len())
	}
	return buf.Bytes(), headers
}

func TestRoundTrip(t *testing.T) {
	data, written := writeAll(t, samples())
	if len(data)%512 != 0 {
		t.Errorf("%d bytes are no whole blocks", len(data))
	}
	members := readAll(t, data)
	if len(members) != len(written) {
		t.Fatalf("read %d entries of %d", len(members), len(written))
	}
	for i, m := range members {
		want := written[i]
		if want.Type == tarfile.TypeDir && !strings.HasSuffix(want.Name, "/") {
			want.Name += "/"
		}
		if len(m.Records) > 0 && m.Records[0].Key == "hdrcharset" {
			m.Records = nil
		}
		if !reflect.DeepEqual(m.Header, want) {
			t.Errorf("got  %+v\nwant %+v", m.Header, want)
		}
	}
	again, _ := writeAll(t, samples())
	if !bytes.Equal(data, again) {
		t.Error("the same entries gave other bytes")
	}
}

func TestWriterAgainstStandardLibrary(t *testing.T) {
	data, _ := writeAll(t, samples())
	members := readAll(t, data)
	compareWithStandardLibrary(t, data, members)
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		if h.Name == "xattrs" && h.PAXRecords["SCHILY.xattr.security.capability"] == "" {
			t.Errorf("records %q", h.PAXRecords)
		}
		if h.Name == "empty" && h.Format != tar.FormatUSTAR {
			t.Errorf("an entry that ustar can hold is %v", h.Format)
		}
	}
}

// TestWriterAgainstGNUTar extracts with GNU tar, archives that, and compares.
func TestWriterAgainstGNUTar(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.RequireTool(t, "tar")
	data, _ := writeAll(t, samples())
	dir := testenv.TempDir(t)
	cmd := exec.CommandContext(t.Context(), "tar", "--extract", "--file=-", "--directory", dir, "--numeric-owner", "--xattrs", "--xattrs-include=*", "--same-owner", "--same-permissions", "--delay-directory-restore")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "Ignoring unknown extended header keyword") && !strings.Contains(line, "implausibly old time stamp") && !strings.Contains(line, "in the future") {
			t.Errorf("tar says %s", line)
		}
	}
	want := make(map[string]member)
	for _, m := range readAll(t, data) {
		want[strings.TrimSuffix(filepath.Join(".", m.Name), "/")] = m
	}
	for _, m := range readAll(t, gnuTar(t, dir, "--format=posix", "--numeric-owner", "--sparse", "--xattrs", "--xattrs-include=*")) {
		name := filepath.Join(".", m.Name)
		w, ok := want[name]
		if !ok {
			continue // a parent that the sample did not have
		}
		delete(want, name)
		if w.Type == tarfile.TypeLink || m.Type == tarfile.TypeLink {
			continue // which of the names is the file is a matter of order
		}
		if m.Type != w.Type || m.Mode != w.Mode || m.UID != w.UID || m.GID != w.GID || m.Sec != w.Sec || m.Nsec != w.Nsec ||
			m.Linkname != w.Linkname || m.Devmajor != w.Devmajor || m.Devminor != w.Devminor || !bytes.Equal(m.contents, w.contents) {
			t.Errorf("%q: got  %+v\nwant %+v", name, m.Header, w.Header)
		}
		for _, x := range w.Xattrs {
			if !reflect.DeepEqual(m.Xattrs, w.Xattrs) {
				t.Errorf("%q: xattr %q: got %q, want %q", name, x.Name, m.Xattrs, w.Xattrs)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("GNU tar did not extract %v", want)
	}
}

// TestLargeFiles writes headers of files that only PAX can tell the size of.
func TestLargeFiles(t *testing.T) {
	const huge = 9 << 40
	sink := &sparseSink{}
	w := tarfile.NewWriter(sink)
	h := tarfile.Header{Name: "huge", Type: tarfile.TypeReg, Size: huge}
	must(t, w.WriteHeader(&h))
	if h.PackedSize != huge {
		t.Errorf("%+v", h)
	}
	m, err := tarfile.NewReader(bytes.NewReader(sink.data), tarfile.Limits{}).Next()
	if !errors.Is(err, tarfile.ErrTruncated) {
		t.Errorf("%v, %v, want it to be cut short", m, err)
	}
	m, err = tarfile.NewReader(onlyReader{bytes.NewReader(sink.data)}, tarfile.Limits{}).Next()
	if err != nil || m.Size != huge {
		t.Errorf("%v, %v, want a size of %d", m, err, int64(huge))
	}
}

type sparseSink struct{ data []byte }

func (s *sparseSink) Write(p []byte) (int, error) {
	s.data = append(s.data, p...)
	return len(p), nil
}

func TestWriterErrors(t *testing.T) {
	for name, h := range map[string]tarfile.Header{
		"no name":         {Type: tarfile.TypeReg},
		"NUL in name":     {Name: "a\x00", Type: tarfile.TypeReg},
		"NUL in target":   {Name: "a", Linkname: "\x00", Type: tarfile.TypeSymlink},
		"type":            {Name: "a", Type: 'x'},
		"no type":         {Name: "a"},
		"file with slash": {Name: "a/", Type: tarfile.TypeReg},
		"negative size":   {Name: "a", Type: tarfile.TypeReg, Size: -1},
		"nanoseconds":     {Name: "a", Type: tarfile.TypeReg, Nsec: 1e9},
		"sparse fifo":     {Name: "a", Type: tarfile.TypeFifo, Sparse: []tarfile.Segment{}},
		"segments":        {Name: "a", Type: tarfile.TypeReg, Size: 10, Sparse: []tarfile.Segment{{Offset: 5, Length: 6}}},
		"xattr":           {Name: "a", Type: tarfile.TypeReg, Xattrs: []tarfile.Xattr{{Name: ""}}},
		"record":          {Name: "a", Type: tarfile.TypeReg, Records: []tarfile.Record{{Key: "a=b"}}},
		"unknown owner":   {Name: "a", Type: tarfile.TypeReg, ACLs: []tarfile.ACL{{Name: tarfile.XattrACLAccess, Text: "user:lisa:r--"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tarfile.NewWriter(io.Discard).WriteHeader(&h); err == nil {
				t.Error("no error")
			}
		})
	}
	w := tarfile.NewWriter(io.Discard)
	must(t, w.WriteHeader(&tarfile.Header{Name: "a", Type: tarfile.TypeReg, Size: 2}))
	if _, err := w.Write([]byte("abc")); err == nil {
		t.Error("no error for too much")
	}
	if err := w.WriteHeader(&tarfile.Header{Name: "b", Type: tarfile.TypeReg}); err == nil {
		t.Error("no error for too little")
	}
	if err := w.Close(); err == nil {
		t.Error("no error for too little at the end")
	}
	full := tarfile.NewWriter(fullDisk{})
	if err := full.WriteHeader(&tarfile.Header{Name: "a", Type: tarfile.TypeReg}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("error of the output: %v", err)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, os.ErrClosed }
