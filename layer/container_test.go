package layer_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/rootfs"
)

// box is a container's file system on real mounts: layers, and an upper that a shell writes to.
type box struct {
	t      testing.TB
	home   string
	driver string
	lowers []*os.File // the topmost first
	upper  *os.File
	work   *os.File
	merged *os.File // the overlay
	lower  *os.File // the layers without the upper
	path   string   // where merged is mounted
}

// newBox stacks an empty upper on one layer, whose tar is at base.
func newBox(t testing.TB, driver, base string) *box {
	t.Helper()
	b := newShelf(t, driver)
	b.lowers = []*os.File{b.mountLayer(base)}
	b.open()
	return b
}

// newShelf has no layers yet.
func newShelf(t testing.TB, driver string) *box {
	t.Helper()
	testenv.RequireErofsFile(t)
	return &box{t: t, home: testenv.TempDir(t), driver: driver}
}

func (b *box) open() {
	b.t.Helper()
	b.upper, b.work = b.mkdir("upper"), b.mkdir("work")
	require.NoError(b.t, rootfs.PrepareUpper(b.upper, b.lowers))
	b.lower = b.view(b.lowers...)
	b.mount()
}

// mount makes the overlay. The upper and what was done to it stay as they are.
func (b *box) mount() {
	b.t.Helper()
	var err error
	b.merged, err = rootfs.Overlay(b.lowers, b.upper, b.work, b.options())
	require.NoError(b.t, err)
	b.closeLater(b.merged)
	b.path = b.show(b.merged)
}

func (b *box) options() rootfs.OverlayOptions {
	return rootfs.OverlayOptions{Run: filepath.Join(b.home, "run")}
}

func (b *box) closeLater(f *os.File) { b.t.Cleanup(func() { f.Close() }) }

func (b *box) mkdir(name string) *os.File {
	b.t.Helper()
	path := filepath.Join(b.home, name)
	require.NoError(b.t, os.MkdirAll(path, 0o755))
	f, err := sys.OpenPath(path)
	require.NoError(b.t, err)
	b.closeLater(f)
	return f
}

// show attaches a mount where a shell and treecmp can see it.
func (b *box) show(mount *os.File) string {
	b.t.Helper()
	path, err := os.MkdirTemp(b.home, "mnt-")
	require.NoError(b.t, err)
	require.NoError(b.t, os.Remove(path))
	require.NoError(b.t, rootfs.MountAt(b.t.Context(), mount, path))
	return path
}

// view stacks directories, the topmost first, without an upper.
func (b *box) view(lowers ...*os.File) *os.File {
	b.t.Helper()
	view, err := rootfs.Overlay(lowers, nil, nil, b.options())
	require.NoError(b.t, err)
	b.closeLater(view)
	return view
}

// mountLayer gives the tree of a layer's tar.
func (b *box) mountLayer(tarPath string) *os.File {
	b.t.Helper()
	return mountLayer(b.t, b.driver, storeLayer(b.t, tarPath))
}

// sh has a shell do something in the container's root.
func (b *box) sh(script string) {
	b.t.Helper()
	shell(b.t, b.path, script)
}

func shell(t testing.TB, dir, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", script, out)
}

func (b *box) source() layer.PackSource {
	return layer.PackSource{Upper: b.upper, Lower: b.lower, Merged: b.merged}
}

// pack writes the upper as a layer and gives the path of its tar.
func (b *box) pack(src layer.PackSource) string {
	b.t.Helper()
	data, err := packBytes(b.t.Context(), src, layer.PackOptions{})
	require.NoError(b.t, err)
	return b.keep(data)
}

func (b *box) keep(data []byte) string {
	b.t.Helper()
	f, err := os.CreateTemp(b.home, "layer-*.tar")
	require.NoError(b.t, err)
	defer f.Close()
	_, err = f.Write(data)
	require.NoError(b.t, err)
	return f.Name()
}

func packBytes(ctx context.Context, src layer.PackSource, opts layer.PackOptions) ([]byte, error) {
	var buf bytes.Buffer
	err := layer.Pack(ctx, &buf, src, opts)
	return buf.Bytes(), err
}

// tarOf has GNU tar pack what a script makes in an empty directory.
func tarOf(t testing.TB, script string) string {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.RequireTool(t, "tar", "setfattr", "setfacl")
	dir := testenv.TempDir(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "root"), 0o755))
	shell(t, filepath.Join(dir, "root"), script)
	shell(t, dir, "tar --sparse --xattrs --xattrs-include='*' --acls --numeric-owner --sort=name -C root -cf base.tar .")
	return filepath.Join(dir, "base.tar")
}
