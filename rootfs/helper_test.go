package rootfs_test

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/rootfs"
)

// epoch is the time of every entry that does not say otherwise.
var epoch = time.Unix(1_000_000_000, 123_456_789)

func dir(name string, mode int64) tar.Header {
	return tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode}
}

func link(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}
}

func file(name string, mode int64) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}
}

func withXattrs(h tar.Header, pairs ...string) tar.Header {
	h.PAXRecords = map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		h.PAXRecords["SCHILY.xattr."+pairs[i]] = pairs[i+1]
	}
	return h
}

// entry is a tar entry; a regular file without content holds its own name.
type entry struct {
	tar.Header
	content []byte
}

// storeLayer writes a layer as the store keeps it: root/layers/<diffID>/layer.tar and index.erofs.
func storeLayer(t testing.TB, root string, headers ...tar.Header) rootfs.Layer {
	t.Helper()
	entries := make([]entry, len(headers))
	for i, h := range headers {
		entries[i] = entry{Header: h}
	}
	return storeEntries(t, root, entries...)
}

func storeEntries(t testing.TB, root string, entries ...entry) rootfs.Layer {
	t.Helper()
	var data strings.Builder
	w := tar.NewWriter(&data)
	for _, e := range entries {
		h := e.Header
		h.Format = tar.FormatPAX
		if h.ModTime.IsZero() {
			h.ModTime = epoch
		}
		content := e.content
		if h.Typeflag == tar.TypeReg {
			if content == nil {
				content = []byte(h.Name)
			}
			h.Size = int64(len(content))
		}
		require.NoError(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write(content)
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return storeTar(t, root, data.String())
}

// layerIn is the layer whose files lie in the directory dir, named by its diffID.
func layerIn(dir string) rootfs.Layer {
	l := rootfs.Layer{DiffID: "sha256:" + filepath.Base(dir), Dir: dir, Tmp: filepath.Dir(dir)}
	l.Open = func() (*holes.Tar, error) { return holes.OpenPlain(tarPath(l), indexPath(l)) }
	return l
}

func tarPath(l rootfs.Layer) string   { return filepath.Join(l.Dir, "layer.tar") }
func indexPath(l rootfs.Layer) string { return filepath.Join(l.Dir, "index.erofs") }

func storeTar(t testing.TB, root, data string) rootfs.Layer {
	t.Helper()
	sum := sha256.Sum256([]byte(data))
	id := hex.EncodeToString(sum[:])
	d := filepath.Join(root, "layers", id)
	l := layerIn(d)
	require.NoError(t, os.MkdirAll(d, 0o700))
	require.NoError(t, os.WriteFile(tarPath(l), []byte(data), 0o600))
	writeIndex(t, l)
	return l
}

// mountAll mounts layers, given the lowest first, and lists their directories the topmost first.
func mountAll(t testing.TB, d rootfs.Driver, layers ...rootfs.Layer) []*os.File {
	t.Helper()
	var lowers []*os.File
	for _, l := range slices.Backward(layers) {
		f, err := d.Mount(t.Context(), l)
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		lowers = append(lowers, f)
	}
	return lowers
}

// openDir opens a directory, and makes it if it is missing.
func openDir(t testing.TB, path string) *os.File {
	t.Helper()
	require.NoError(t, os.MkdirAll(path, 0o755))
	f, err := sys.OpenPath(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// stack is a container's overlay: its directory, where it can be reached, and its parts.
type stack struct {
	path        string
	mount       *os.File
	upper, work *os.File
}

// overlayOn stacks a fresh upper, in base, on lowers.
func overlayOn(t testing.TB, base string, lowers []*os.File, opts rootfs.OverlayOptions) stack {
	t.Helper()
	s := stack{upper: openDir(t, filepath.Join(base, "upper")), work: openDir(t, filepath.Join(base, "work"))}
	require.NoError(t, rootfs.PrepareUpper(s.upper, lowers))
	opts.Run = filepath.Join(base, "run")
	mount, err := rootfs.Overlay(lowers, s.upper, s.work, opts)
	require.NoError(t, err)
	t.Cleanup(func() { mount.Close() })
	s.mount, s.path = mount, sys.FDPath(mount)
	return s
}

// view stacks lowers without an upper and gives a path to it.
func view(t testing.TB, lowers []*os.File) string {
	t.Helper()
	return sys.FDPath(viewMount(t, lowers))
}

func viewMount(t testing.TB, lowers []*os.File) *os.File {
	t.Helper()
	mount, err := rootfs.Overlay(lowers, nil, nil, rootfs.OverlayOptions{Run: testenv.TempDir(t)})
	require.NoError(t, err)
	t.Cleanup(func() { mount.Close() })
	return mount
}

// listing describes every entry below a directory in full: what a user can see of it.
func listing(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root+"/.", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		line, err := describe(path)
		lines = append(lines, name+" "+line)
		return err
	})
	require.NoError(t, err)
	return lines
}

func describe(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	st := info.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // always so on Linux
	line := fmt.Sprintf("%v %d:%d %d", info.Mode(), st.Uid, st.Gid, info.ModTime().UnixNano())
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		line += " -> " + target
	case syscall.S_IFREG:
		data, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" %d bytes %x links %d", info.Size(), sha256.Sum256(data), st.Nlink)
	case syscall.S_IFCHR, syscall.S_IFBLK:
		line += fmt.Sprintf(" %d", st.Rdev)
	}
	xattrs, err := xattrsOf(path)
	return line + xattrs, err
}

func xattrsOf(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", fmt.Errorf("listxattr %s: %w", path, err)
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	var out strings.Builder
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return "", fmt.Errorf("getxattr %s: %w", path, err)
		}
		fmt.Fprintf(&out, " %s=%q", name, buf[:n])
	}
	return out.String(), nil
}

// mountsBelow lists the mount points below a directory, as the kernel has them now.
func mountsBelow(t testing.TB, dir string) []string {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	var points []string
	for line := range strings.Lines(string(info)) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	return points
}

// noLeaks checks at the test's end that no descriptor stayed open and no mount below dir.
func noLeaks(t testing.TB, dir string) {
	t.Helper()
	before := openFiles(t)
	t.Cleanup(func() {
		require.Empty(t, mountsBelow(t, dir), "mounts left behind")
		require.Equal(t, before, openFiles(t), "descriptors left open")
	})
}

func openFiles(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	var open []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // the one that read the directory
		}
		require.NoError(t, err)
		if !strings.HasPrefix(target, "anon_inode:") && !strings.HasPrefix(target, "pipe:") {
			open = append(open, target)
		}
	}
	return open
}

func readAll(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	data, err := io.ReadAll(f)
	require.NoError(t, err)
	return string(data)
}

// untar extracts with GNU tar, to compare with.
func untar(t testing.TB, file, to string) {
	t.Helper()
	testenv.RequireTool(t, "tar")
	require.NoError(t, os.MkdirAll(to, 0o755))
	out, err := exec.CommandContext(t.Context(), "tar", "--xattrs", "--xattrs-include=*", "--same-owner", "-p", "-C", to, "-xf", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func umask(t testing.TB, mask int) (restore func()) {
	t.Helper()
	old := syscall.Umask(mask)
	return func() { syscall.Umask(old) }
}

func writeIndex(t testing.TB, l rootfs.Layer) {
	t.Helper()
	data, err := os.Open(tarPath(l))
	require.NoError(t, err)
	defer data.Close()
	plain, err := holes.Plain(data)
	require.NoError(t, err)
	scanned, err := layer.Scan(plain, layer.Limits{})
	require.NoError(t, err)
	index, err := os.OpenFile(indexPath(l), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return // the same tar as another layer of the test
	}
	require.NoError(t, err)
	defer index.Close()
	_, err = scanned.WriteIndex(index, plain)
	require.NoError(t, err)
}
