package main

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// userland is the content of the image: the busybox binary and what a root needs around it.
type userland struct {
	binary   string            // path of bb
	commands []string          // the names it answers to
	version  string            // of u-root
	licenses map[string][]byte // by module
}

// stamp is every entry's time in seconds since 1970: the same tree must give the same bytes.
const stamp = 1_700_000_000

func (u userland) writeTar(w io.Writer) error {
	entries := map[string]tar.Header{}
	contents := map[string][]byte{}
	dir := func(name string, mode int64) {
		entries[name+"/"] = tar.Header{Typeflag: tar.TypeDir, Mode: mode}
	}
	file := func(name string, mode int64, content []byte) {
		entries[name] = tar.Header{Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(content))}
		contents[name] = content
	}
	link := func(name, target string) {
		entries[name] = tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}
	}

	for _, name := range []string{"bin", "etc", "home", "usr", "usr/share", "usr/share/licenses", "var", "var/log"} {
		dir(name, 0o755)
	}
	for _, name := range []string{"dev", "proc", "sys", "run"} {
		dir(name, 0o755)
	}
	dir("root", 0o700)
	dir("tmp", 0o1777)
	dir("var/tmp", 0o1777)
	link("usr/bin", "../bin")
	link("sbin", "bin")

	file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	file("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	file("etc/os-release", 0o644, fmt.Appendf(nil,
		"NAME=\"tarn base\"\nID=tarn-base\nVERSION_ID=%s\nPRETTY_NAME=\"tarn base (u-root %s)\"\n",
		strings.TrimPrefix(u.version, "v"), u.version))
	for module, text := range u.licenses {
		file("usr/share/licenses/"+strings.ReplaceAll(module, "/", "_"), 0o644, text)
	}

	bb, err := os.ReadFile(u.binary)
	if err != nil {
		return err
	}
	file("bin/bb", 0o755, bb)
	for _, name := range append([]string{"sh"}, u.commands...) {
		link("bin/"+name, "bb")
	}

	tw := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		h := entries[name]
		h.Name, h.ModTime = name, time.Unix(stamp, 0)
		if err := tw.WriteHeader(&h); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := tw.Write(contents[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return tw.Close()
}
