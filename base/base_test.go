package base

import (
	"archive/tar"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"

	"github.com/tarnfs/tarn/internal/testenv"
)

func TestOpenWithoutImage(t *testing.T) {
	_, err := open(fstest.MapFS{"image/README.md": {}})
	if !errors.Is(err, ErrNotBuilt) {
		t.Fatalf("err = %v, want ErrNotBuilt", err)
	}
}

// TestImage checks that what is embedded is a root that a shell can start in.
func TestImage(t *testing.T) {
	layer, err := Open()
	if errors.Is(err, ErrNotBuilt) {
		testenv.Unmet(t, "%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer layer.Close()
	z, err := zstd.NewReader(layer)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()

	entries := map[string]*tar.Header{}
	var names []string
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s belongs to %d:%d", h.Name, h.Uid, h.Gid)
		}
		entries[h.Name] = h
		names = append(names, h.Name)
	}
	if !slices.IsSorted(names) {
		t.Error("the entries are not sorted")
	}
	for name, mode := range map[string]int64{"bin/bb": 0o755, "etc/passwd": 0o644, "etc/group": 0o644, "etc/os-release": 0o644, "root/": 0o700, "tmp/": 0o1777} {
		if h := entries[name]; h == nil || h.Mode != mode {
			t.Errorf("%s: got %+v, want mode %o", name, h, mode)
		}
	}
	for name := range strings.FieldsSeq("sh ls cat echo true false mkdir rm cp mv ln id sleep grep ps mount hostname uname") {
		if h := entries["bin/"+name]; h == nil || h.Linkname != "bb" {
			t.Errorf("bin/%s is no link to bb: %+v", name, h)
		}
	}
}

func TestConfigStartsAShellInPath(t *testing.T) {
	c := Config()
	if len(c.Cmd) != 1 || !path.IsAbs(c.Cmd[0]) {
		t.Errorf("Cmd = %q", c.Cmd)
	}
	if !slices.ContainsFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		t.Errorf("Env has no PATH: %q", c.Env)
	}
}
