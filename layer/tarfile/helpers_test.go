package tarfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// member is an entry with its contents.
type member struct {
	tarfile.Header
	contents []byte
}

// readAll reads a whole tar, by Read and again by Contents.
func readAll(t testing.TB, data []byte) []member {
	t.Helper()
	members, err := tryReadAll(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		again, err := io.ReadAll(m.Contents(bytes.NewReader(data)))
		if err != nil || !bytes.Equal(again, m.contents) {
			t.Fatalf("%q: Contents differ from Read: %v", m.Name, err)
		}
	}
	return members
}

func tryReadAll(r io.Reader) (members []member, err error) {
	tr := tarfile.NewReader(r, tarfile.Limits{})
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

// block makes a header block: fields by their offset, the checksum computed.
func block(fields map[int]string) []byte {
	b := make([]byte, tarfile.BlockSize)
	for offset, value := range map[int]string{100: "0000644\x00", 108: "0000000\x00", 116: "0000000\x00", 124: "00000000000\x00", 136: "00000000000\x00"} {
		copy(b[offset:], value)
	}
	for offset, value := range fields {
		copy(b[offset:], value)
	}
	return seal(b)
}

func seal(b []byte) []byte {
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b[:tarfile.BlockSize] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

const (
	atName     = 0
	atSize     = 124
	atTime     = 136
	atType     = 156
	atLinkname = 157
	atMagic    = 257
	ustar      = "ustar\x0000"
	gnu        = "ustar  \x00"
)

// file is a regular file's header and contents.
func file(name, contents string) []byte {
	return body(block(map[int]string{atName: name, atSize: fmt.Sprintf("%011o\x00", len(contents)), atType: "0", atMagic: ustar}), contents)
}

// body appends contents and padding.
func body(b []byte, contents string) []byte {
	b = append(b, contents...)
	return append(b, make([]byte, (tarfile.BlockSize-len(contents)%tarfile.BlockSize)%tarfile.BlockSize)...)
}

// ext is a header of the types x, g, L and K.
func ext(kind, contents string) []byte {
	return body(block(map[int]string{
		atName: "ext", atSize: fmt.Sprintf("%011o\x00", len(contents)), atType: kind, atMagic: ustar,
	}), contents)
}

// pax is an 'x' header of pairs of key and value.
func pax(pairs ...string) []byte { return ext("x", records(pairs...)) }

func records(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		n := len(pairs[i]) + len(pairs[i+1]) + 3
		total := n + len(fmt.Sprint(n))
		total = n + len(fmt.Sprint(total))
		fmt.Fprintf(&b, "%d %s=%s\n", total, pairs[i], pairs[i+1])
	}
	return b.String()
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func end() []byte { return make([]byte, 2*tarfile.BlockSize) }

// gnuTar makes a tar of dir with GNU tar.
func gnuTar(t testing.TB, dir string, args ...string) []byte {
	t.Helper()
	testenv.RequireTool(t, "tar")
	out := filepath.Join(testenv.TempDir(t), "out.tar")
	args = append([]string{"--create", "--sort=name", "--file", out, "--directory", dir}, args...)
	cmd := exec.CommandContext(t.Context(), "tar", append(args, ".")...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, msg)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// plainTree is a directory that all dialects can hold, but for the long names.
func plainTree(t testing.TB, long bool) string {
	t.Helper()
	dir := testenv.TempDir(t)
	write := func(name, contents string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(contents), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Unix(1234567890, 0)); err != nil {
			t.Fatal(err)
		}
	}
	write("empty", "")
	write("block", strings.Repeat("b", 512))
	write("big", strings.Repeat("0123456789abcdef", 12345))
	write("dir/one", "1")
	write("latin\xe9", "not UTF-8")
	if long {
		write(strings.Repeat("d", 60)+"/"+strings.Repeat("e", 60)+"/"+strings.Repeat("f", 70), "prefix")
		write("x/"+strings.Repeat("n", 200), "name over 100")
		deep := strings.Repeat("deep/", 60)
		write(deep+"file", "path over 256")
		must(t, os.Symlink(strings.Repeat("t", 300), filepath.Join(dir, "longlink")))
		must(t, os.Link(filepath.Join(dir, deep, "file"), filepath.Join(dir, "z-hard")))
	}
	must(t, os.Symlink("dir/one", filepath.Join(dir, "soft")))
	must(t, os.Link(filepath.Join(dir, "big"), filepath.Join(dir, "hard")))
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
