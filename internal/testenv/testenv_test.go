package testenv

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

func TestParseRelease(t *testing.T) {
	for _, c := range []struct {
		in           string
		major, minor int
		ok           bool
	}{
		{"6.18.0-rc3+", 6, 18, true},
		{"6.1.0-37-amd64", 6, 1, true},
		{"5.10-custom", 5, 10, true},
		{"6", 0, 0, false},
		{"x.1", 0, 0, false},
		{"6.x", 6, 0, false},
	} {
		major, minor, ok := parseRelease(c.in)
		if ok != c.ok || (ok && (major != c.major || minor != c.minor)) {
			t.Errorf("parseRelease(%q) = %d, %d, %v", c.in, major, minor, ok)
		}
	}
}

func TestMountsBeneath(t *testing.T) {
	const info = `1 0 8:1 / / rw - ext4 /dev/vda rw
2 1 0:5 / /tmp/a rw - tmpfs none rw
3 1 0:6 / /tmp/ab rw - tmpfs none rw
4 2 0:7 / /tmp/a/with\040space\134 rw - tmpfs none rw
`
	got := mountsBeneath(info, "/tmp/a")
	if want := []string{"/tmp/a", `/tmp/a/with space\`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTempDirCleansUpMounts(t *testing.T) {
	RequireRoot(t)
	var dir string
	t.Run("leaves mounts", func(t *testing.T) {
		dir = TempDir(t)
		for _, name := range []string{"m", "m/n"} {
			target := filepath.Join(dir, name)
			if err := os.Mkdir(target, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount("none", target, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
		}
	})
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

func TestBusyboxTar(t *testing.T) {
	f, err := os.Open(BusyboxTar(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[string]byte{}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		seen[h.Name] = h.Typeflag
	}
	if seen["bin/sh"] != tar.TypeSymlink || seen["bin/busybox"] != tar.TypeReg || seen["tmp/"] != tar.TypeDir {
		t.Errorf("entries: %v", seen)
	}
}

func TestDebianTar(t *testing.T) {
	st, err := os.Stat(DebianTar(t))
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() < 200<<20 || st.Size()%512 != 0 {
		t.Errorf("the Debian root has %d bytes", st.Size())
	}
}
