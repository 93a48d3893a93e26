package testenv

import (
	"archive/tar"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// CacheDir is where set-up keeps what is worth keeping between test runs:
// $TARN_TEST_CACHE, or tarn-test in the user's cache directory. It may not exist.
func CacheDir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("TARN_TEST_CACHE"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("%v: set TARN_TEST_CACHE", err)
	}
	return filepath.Join(cache, "tarn-test")
}

// DebianTar gives the path of an uncompressed tar of a Debian root file system with apt, dpkg,
// python3 and git in it, about 300 MB. It is shared by all tests: read it, do not write to it.
// scripts/debian-root.sh makes it.
func DebianTar(t testing.TB) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(filepath.Join(CacheDir(t), "debian.tar"))
	if errors.Is(err, fs.ErrNotExist) {
		Unmet(t, "needs the Debian root: scripts/debian-root.sh makes it")
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// DebianDir extracts DebianTar with GNU tar into a fresh directory of the test's own, with owners,
// modes, times and xattrs, and gives its path. It takes a few seconds.
func DebianDir(t testing.TB) string {
	t.Helper()
	RequireRoot(t)
	RequireTool(t, "tar")
	dir := TempDir(t)
	ExtractTar(t, DebianTar(t), dir)
	return dir
}

// ExtractTar extracts an uncompressed tar with GNU tar into dir, faithfully: the reference that
// tarn's own view of a tar is compared with.
func ExtractTar(t testing.TB, path, dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "tar", "--extract", "--file", path, "--directory", dir,
		"--numeric-owner", "--same-owner", "--preserve-permissions", "--delay-directory-restore",
		"--xattrs", "--xattrs-include=*", "--acls")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar -xf %s: %v\n%s", path, err, out)
	}
}

// BusyboxTar writes a root file system small enough to be made anew in each test, and gives the
// path of its tar: the host's static busybox with a link in /bin for every applet,
// /etc/passwd and /etc/group with root (0) and user (1000), /root, /home/user and /tmp.
func BusyboxTar(t testing.TB) string {
	t.Helper()
	busybox := Busybox(t)
	path := filepath.Join(TempDir(t), "busybox.tar")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(writeBusyboxRoot(f, busybox, applets(t, busybox)), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// Busybox gives the path of a busybox that runs in an empty root: the host's, if it asks for no
// loader. Without one the test is skipped (fails in CI).
func Busybox(t testing.TB) string {
	t.Helper()
	RequireTool(t, "busybox")
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	bin, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer bin.Close()
	for _, p := range bin.Progs {
		if p.Type == elf.PT_INTERP {
			Unmet(t, "needs a static busybox, %s is not: install busybox-static", path)
		}
	}
	return path
}

func applets(t testing.TB, busybox string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), busybox, "--list").Output()
	if err != nil {
		t.Fatalf("busybox --list: %v", err)
	}
	return strings.Fields(string(out))
}

func writeBusyboxRoot(w io.Writer, busybox string, applets []string) error {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	stamp := time.Unix(1_700_000_000, 0)
	add := func(h tar.Header, content string) error {
		h.ModTime, h.Size = stamp, int64(len(content))
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		_, err := io.WriteString(tw, content)
		return err
	}
	entries := []struct {
		tar.Header
		content string
	}{
		{tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		{tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, string(program)},
		{tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		{tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n"},
		{
			tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644},
			"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n",
		},
		{tar.Header{Name: "home/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		{tar.Header{Name: "home/user/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 1000, Gid: 1000}, ""},
		{tar.Header{Name: "root/", Typeflag: tar.TypeDir, Mode: 0o700}, ""},
		{tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, ""},
	}
	for _, e := range entries {
		if err := add(e.Header, e.content); err != nil {
			return err
		}
	}
	for _, name := range applets {
		if name == "busybox" {
			continue
		}
		if err := add(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, ""); err != nil {
			return err
		}
	}
	return tw.Close()
}
