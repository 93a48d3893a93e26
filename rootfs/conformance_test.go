package rootfs_test

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

// site is where a driver is tried: a store and a run directory of its own.
type site struct {
	driver rootfs.Driver
	root   string
	run    string
	base   string // both lie in it, and room for uppers
}

func newSite(t testing.TB, driver, base string) site {
	t.Helper()
	s := site{base: base, root: filepath.Join(base, "root"), run: filepath.Join(base, "run")}
	require.NoError(t, os.MkdirAll(s.root, 0o700))
	require.NoError(t, os.MkdirAll(s.run, 0o700))
	var err error
	s.driver, err = rootfs.NewDriver(driver, s.run)
	require.NoError(t, err)
	return s
}

// release takes back what the test mounted, and checks that there is nothing left.
func (s site) release(t testing.TB, layers ...rootfs.Layer) {
	t.Helper()
	for _, l := range layers {
		require.NoError(t, s.driver.Release(l))
	}
	require.Empty(t, mountsBelow(t, s.base))
}

// onEachDriver runs a test of the contract against every implementation.
func onEachDriver(t *testing.T, test func(t *testing.T, s site)) {
	t.Helper()
	for _, name := range []string{rootfs.Erofs, rootfs.Dirs} {
		t.Run(name, func(t *testing.T) {
			requireDriver(t, name)
			base := testenv.TempDir(t)
			noLeaks(t, base)
			test(t, newSite(t, name, base))
		})
	}
}

func requireDriver(t *testing.T, name string) {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.RequireFilesystem(t, "overlay")
	if name == rootfs.Erofs {
		testenv.RequireErofsFile(t)
	}
}

// capNetRaw is a security.capability value, version 2, that permits and makes effective CAP_NET_RAW
// (linux/capability.h).
func capNetRaw() string {
	var v [20]byte
	binary.LittleEndian.PutUint32(v[0:], 0x02000001)
	binary.LittleEndian.PutUint32(v[4:], 1<<13)
	return string(v[:])
}

func TestTreeIsTheTars(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		acl := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x05\x00\xe8\x03\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x05\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
		l := storeEntries(t, s.root,
			entry{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o751, Uid: 1, Gid: 2}},
			entry{Header: withXattrs(dir("d", 0o1777), "user.name", "value", "trusted.x", "y")},
			entry{Header: tar.Header{Name: "d/file", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 70000, Gid: 80000}},
			entry{Header: tar.Header{Name: "d/hard", Typeflag: tar.TypeLink, Linkname: "d/file"}},
			entry{Header: withXattrs(file("cap", 0o755), "security.capability", capNetRaw())},
			entry{Header: withXattrs(file("acl", 0o750), "system.posix_acl_access", acl)},
			entry{Header: link("link", "/d/file")},
			entry{Header: file("empty", 0o600), content: []byte{}},
			entry{Header: file("big", 0o644), content: slices.Repeat([]byte("0123456789abcde\n"), 100_001)},
			entry{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}},
			entry{Header: tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}},
			entry{Header: file("not\xffutf8", 0o644)},
		)
		lowers := mountAll(t, s.driver, l)
		got := listing(t, view(t, lowers))

		want := filepath.Join(s.base, "want")
		untar(t, tarPath(l), want)
		require.Equal(t, listing(t, want), got)
		// The layer's own directory has the same: nothing in it needed overlay's encoding.
		require.Equal(t, got, listing(t, sys.FDPath(lowers[0])))

		s.release(t, l)
	})
}

func TestLayersAreWhereTheySayTheyAre(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		l := storeLayer(t, s.root, dir("d", 0o755), file("d/f", 0o644))
		automatic, err := rootfs.NewDriver(rootfs.Auto, s.run)
		require.NoError(t, err)
		name, path := s.driver.Locate(l)
		require.Equal(t, s.driver.Name(), name)
		require.NoDirExists(t, filepath.Join(path, "d"))

		lowers := mountAll(t, s.driver, l)
		want, err := sys.StatFile(lowers[0])
		require.NoError(t, err)
		for _, d := range []rootfs.Driver{s.driver, automatic} {
			name, path := d.Locate(l)
			require.Equal(t, s.driver.Name(), name)
			got, err := sys.StatFile(openDir(t, path))
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		s.release(t, l)
	})
}

func TestWhiteoutsAndOpaqueDirectories(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		layers := []rootfs.Layer{
			storeLayer(t, s.root, dir("a", 0o755), file("a/gone", 0o644), file("a/stays", 0o644), file("a/replaced", 0o600),
				dir("opaque", 0o700), file("opaque/gone", 0o644), dir("whole", 0o755), file("whole/gone", 0o644)),
			storeLayer(t, s.root, dir("a", 0o711), file("a/.wh.gone", 0), file("a/replaced", 0o640), file(".wh.whole", 0),
				dir("opaque", 0o755), file("opaque/.wh..wh..opq", 0), file("opaque/new", 0o644), file("a/.wh.never-was", 0)),
			storeLayer(t, s.root, dir("whole", 0o755), file("whole/again", 0o644), file("a/.wh.stays", 0)),
		}
		var names [][]string
		for i := range layers {
			lowers := mountAll(t, s.driver, layers[:i+1]...)
			names = append(names, tree(t, view(t, lowers)))
		}
		require.Equal(t, []string{
			"a 0755", "a/gone 0644", "a/replaced 0600", "a/stays 0644", "opaque 0700", "opaque/gone 0644", "whole 0755", "whole/gone 0644",
		}, names[0])
		require.Equal(t, []string{"a 0711", "a/replaced 0640", "a/stays 0644", "opaque 0755", "opaque/new 0644"}, names[1])
		require.Equal(t, []string{
			"a 0755", "a/replaced 0640", "opaque 0755", "opaque/new 0644", "whole 0755", "whole/again 0644",
		}, names[2][:6])

		// A layer that whites out what is not below it shows no trace of that when it is alone.
		alone := view(t, mountAll(t, s.driver, layers[1]))
		require.Equal(t, []string{"a 0711", "a/replaced 0640", "opaque 0755", "opaque/new 0644"}, tree(t, alone))
		xattrs, err := xattrsOf(filepath.Join(alone, "opaque"))
		require.NoError(t, err)
		require.Empty(t, xattrs)

		s.release(t, layers...)
	})
}

// tree lists names and modes only.
func tree(t testing.TB, root string) []string {
	t.Helper()
	var names []string
	for _, line := range listing(t, root) {
		name, _, _ := strings.Cut(line, " ")
		if name == "." {
			continue
		}
		info, err := os.Lstat(filepath.Join(root, name))
		require.NoError(t, err)
		names = append(names, fmt.Sprintf("%s %04o", name, info.Mode().Perm()))
	}
	return names
}

func TestOpaqueRootHidesAllBelow(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		layers := []rootfs.Layer{
			storeLayer(t, s.root, dir("d", 0o755), file("d/gone", 0o644), file("gone", 0o644)),
			storeLayer(t, s.root, file(".wh..wh..opq", 0), dir("d", 0o700), file("d/new", 0o644)),
			storeLayer(t, s.root, file("top", 0o644)),
		}
		for n, want := range map[int][]string{
			2: {"d 0700", "d/new 0644"},
			3: {"d 0700", "d/new 0644", "top 0644"},
		} {
			lowers := mountAll(t, s.driver, layers[:n]...)
			require.Equal(t, want, tree(t, view(t, lowers)))
			st := overlayOn(t, filepath.Join(s.base, fmt.Sprint(n)), lowers, rootfs.OverlayOptions{})
			require.Equal(t, want, tree(t, st.path))
			merged, err := rootfs.MergedView(st.upper, lowers, rootfs.OverlayOptions{})
			require.NoError(t, err)
			require.Equal(t, want, tree(t, sys.FDPath(merged)))
			require.NoError(t, merged.Close())
		}
		s.release(t, layers...)
	})
}

func TestImageCannotSteerOverlay(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		layers := []rootfs.Layer{
			storeLayer(t, s.root, dir("secret", 0o700), file("secret/f", 0o600), dir("d", 0o755), file("d/kept", 0o644), file("f", 0o644)),
			storeLayer(t, s.root,
				withXattrs(dir("moved", 0o755), "trusted.overlay.redirect", "/secret"),
				withXattrs(dir("d", 0o755), "trusted.overlay.opaque", "y"),
				withXattrs(file("f", 0o644), "trusted.overlay.metacopy", "", "trusted.overlay.redirect", "/secret/f"),
			),
		}
		lowers := mountAll(t, s.driver, layers...)
		root := view(t, lowers)
		require.Equal(t, []string{"d 0755", "d/kept 0644", "f 0644", "moved 0755", "secret 0700", "secret/f 0600"}, tree(t, root))
		require.Equal(t, "f", readAll(t, filepath.Join(root, "f")))
		xattrs, err := xattrsOf(filepath.Join(root, "moved"))
		require.NoError(t, err)
		require.Equal(t, ` trusted.overlay.redirect="/secret"`, xattrs, "the image's own attribute is kept, as data")
		s.release(t, layers...)
	})
}

func TestSetuidCapabilitiesAndDevicesWorkInContainer(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		program := readAll(t, "/proc/self/exe")
		l := storeEntries(t, s.root,
			entry{Header: file("setuid", 0o4755), content: []byte(program)},
			entry{Header: withXattrs(file("cap", 0o755), "security.capability", capNetRaw()), content: []byte(program)},
			entry{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}},
		)
		lowers := mountAll(t, s.driver, l)
		st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{})
		point := filepath.Join(s.base, "point")
		require.NoError(t, rootfs.MountAt(t.Context(), st.mount, point))
		// The test's directory is closed to others; the mount is not.
		require.NoError(t, os.Chmod(s.base, 0o711))

		require.Equal(t, "euid 0", runAs(t, 12345, filepath.Join(point, "setuid"), "euid"))
		require.Equal(t, "euid 12345", runAs(t, 12345, filepath.Join(point, "cap"), "euid"))
		require.Contains(t, runAs(t, 12345, filepath.Join(point, "cap"), "caps"), "CapEff:\t0000000000002000")
		require.NoError(t, os.WriteFile(filepath.Join(point, "null"), []byte("x"), 0))

		require.NoError(t, st.mount.Close())
		require.NoError(t, rootfs.Unmount(point))
		require.NoDirExists(t, point)
		s.release(t, l)
	})
}

func TestNobodyWritesToLayers(t *testing.T) {
	requireDriver(t, rootfs.Erofs)
	s := newSite(t, rootfs.Erofs, testenv.TempDir(t))
	l := storeLayer(t, s.root, dir("d", 0o777))
	lowers := mountAll(t, s.driver, l)
	err := os.WriteFile(filepath.Join(sys.FDPath(lowers[0]), "d", "x"), nil, 0o644)
	require.ErrorIs(t, err, syscall.EROFS)
	s.release(t, l)
}

// TestThreeHundredLayers sees something of each: a file that no other has, in a directory that all have;
// and the upper ones' word on what the lower ones had.
func TestThreeHundredLayers(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		layers := make([]rootfs.Layer, 0, 300)
		for i := range 300 {
			layers = append(layers, storeLayer(t, s.root,
				dir("all", 0o755), file(fmt.Sprintf("all/%03d", i), 0o644),
				file(fmt.Sprintf("short-lived-%03d", i), 0o644), file(fmt.Sprintf(".wh.short-lived-%03d", i-7), 0),
				file("common", int64(0o400+i%8))))
		}
		lowers := mountAll(t, s.driver, layers...)
		st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{})
		require.NoError(t, os.WriteFile(filepath.Join(st.path, "all", "123"), []byte("changed"), 0o644))
		names := tree(t, st.path)
		require.Len(t, names, 1+300+1+7)
		require.Equal(t, []string{
			fmt.Sprintf("common %04o", 0o400+299%8), "short-lived-293 0644", "short-lived-294 0644", "short-lived-295 0644",
			"short-lived-296 0644", "short-lived-297 0644", "short-lived-298 0644", "short-lived-299 0644",
		}, names[301:])
		below := view(t, lowers)
		for i := range 300 {
			name := fmt.Sprintf("all/%03d", i)
			require.Equal(t, name, readAll(t, filepath.Join(below, name)))
			if i == 123 {
				name = "changed"
			}
			require.Equal(t, name, readAll(t, filepath.Join(st.path, "all", fmt.Sprintf("%03d", i))))
		}
		s.release(t, layers...)
	})
}

func TestReleaseLeavesContainersUndisturbed(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		l := storeLayer(t, s.root, dir("d", 0o755), file("d/f", 0o644))
		lowers := mountAll(t, s.driver, l)
		st := overlayOn(t, s.base, lowers, rootfs.OverlayOptions{})
		open, err := os.Open(filepath.Join(sys.FDPath(lowers[0]), "d", "f"))
		require.NoError(t, err)
		defer open.Close()

		s.release(t, l) // although a file is open in it
		s.release(t, l) // and again, which is no error
		require.Equal(t, "d/f", readAll(t, filepath.Join(st.path, "d", "f")))

		again := mountAll(t, s.driver, l)
		require.Equal(t, "d/f", readAll(t, filepath.Join(sys.FDPath(again[0]), "d", "f")))
		s.release(t, l)
	})
}

func TestBadLayers(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		l := storeLayer(t, s.root, file("f", 0o644))

		hostile := l
		hostile.DiffID = "../../../etc"
		_, err := s.driver.Mount(t.Context(), hostile)
		require.ErrorContains(t, err, "not a SHA-256 diffID")
		require.ErrorContains(t, s.driver.Release(hostile), "not a SHA-256 diffID")

		require.NoError(t, os.Remove(tarPath(l)))
		_, err = s.driver.Mount(t.Context(), l)
		require.ErrorIs(t, err, rootfs.ErrBadLayer)
		require.ErrorIs(t, err, os.ErrNotExist)
		require.NotErrorIs(t, err, rootfs.ErrUnsupported)
		require.ErrorContains(t, err, strings.TrimPrefix(l.DiffID, "sha256:"))
		s.release(t, l)
	})
}

func TestDamagedIndexIsNotTakenForAnOldKernel(t *testing.T) {
	requireDriver(t, rootfs.Erofs)
	for name, damage := range map[string]func(index []byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"garbage":   func(b []byte) []byte { return slices.Repeat([]byte{0xa5}, len(b)) },
		"bad magic": func(b []byte) []byte { b[1024] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			base := testenv.TempDir(t)
			noLeaks(t, base)
			s := newSite(t, rootfs.Auto, base)
			l := storeLayer(t, s.root, file("f", 0o644))
			index, err := os.ReadFile(indexPath(l))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(indexPath(l), damage(index), 0o600))
			_, err = s.driver.Mount(t.Context(), l)
			require.ErrorIs(t, err, rootfs.ErrBadLayer)
			require.NotErrorIs(t, err, rootfs.ErrUnsupported)
			s.release(t, l)
		})
	}
}

func TestUnknownDriver(t *testing.T) {
	_, err := rootfs.NewDriver("btrfs", t.TempDir())
	require.EqualError(t, err, `storage driver "btrfs": unknown: use auto, erofs or dirs`)
}
