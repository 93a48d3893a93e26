package tarfile_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tarnfs/tarn/internal/tartest"
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

// What makes tars byte by byte.
var (
	block   = tartest.Block
	seal    = tartest.Seal
	file    = tartest.File
	ext     = tartest.Ext
	pax     = tartest.PAX
	records = tartest.Records
	join    = tartest.Join
	end     = tartest.End
	gnuTar  = tartest.GNUTar
)

const (
	atName     = tartest.AtName
	atSize     = tartest.AtSize
	atTime     = tartest.AtTime
	atType     = tartest.AtType
	atLinkname = tartest.AtLinkname
	atMagic    = tartest.AtMagic
	ustar      = tartest.Ustar
	gnu        = tartest.GNU
)

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
