package engine_test

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
)

// host is an engine on a disk of its own, with the real kernel below it.
type host struct {
	*engine.Engine
	t *testing.T
}

func newHost(t *testing.T, driver string) *host {
	t.Helper()
	testenv.RequireErofsFile(t)
	root, run := testenv.TarnRoot(t)
	e, err := engine.Open(engine.Options{Root: root, Run: run, Driver: driver})
	require.NoError(t, err)
	return &host{e, t}
}

// importFile makes an image of a tar.
func (h *host) importFile(name, path string, changes ...string) {
	h.t.Helper()
	f, err := os.Open(path)
	require.NoError(h.t, err)
	defer f.Close()
	_, err = h.Import(h.t.Context(), f, engine.ImportOptions{Name: name, Changes: changes})
	require.NoError(h.t, err)
}

// run has a new container do a script, as root, and gives what it prints.
func (h *host) run(image, name, script string, options ...func(*engine.RunOptions)) string {
	h.t.Helper()
	out, err := os.CreateTemp(h.t.TempDir(), "out")
	require.NoError(h.t, err)
	defer out.Close()
	null, err := os.Open(os.DevNull)
	require.NoError(h.t, err)
	defer null.Close()
	opts := engine.RunOptions{
		CreateOptions: engine.CreateOptions{
			Image: image, Name: name, Command: []string{"sh", "-euc", script}, NetworkOptions: engine.NetworkOptions{Networks: []string{engine.NetworkNone}}, User: "0",
		},
		Stdin: null, Stdout: out, Stderr: out,
	}
	for _, option := range options {
		option(&opts)
	}
	status, err := h.Run(h.t.Context(), opts)
	require.NoError(h.t, err)
	text, err := os.ReadFile(out.Name())
	require.NoError(h.t, err)
	require.Zero(h.t, status, "%s\n%s", script, text)
	return string(text)
}

// running is a container that runs until its input ends.
type running struct {
	h      *host
	stdin  *os.File
	stdout *bufio.Reader
	ended  chan error
}

// startBox has a new container "c" of image "box" do a script, and waits until it prints a line.
func (h *host) startBox(script string) *running {
	h.t.Helper()
	in, stdin, err := os.Pipe()
	require.NoError(h.t, err)
	stdout, out, err := os.Pipe()
	require.NoError(h.t, err)
	r := &running{h: h, stdin: stdin, stdout: bufio.NewReader(stdout), ended: make(chan error, 1)}
	go func() {
		_, err := h.Run(h.t.Context(), engine.RunOptions{
			CreateOptions: engine.CreateOptions{
				Image: "box", Name: "c", Command: []string{"sh", "-euc", script}, NetworkOptions: engine.NetworkOptions{Networks: []string{engine.NetworkNone}}, Interactive: true,
			},
			Stdin: in, Stdout: out, Stderr: os.Stderr,
		})
		_, _ = in.Close(), out.Close()
		r.ended <- err
	}()
	h.t.Cleanup(func() { _, _ = stdin.Close(), stdout.Close() })
	r.line()
	return r
}

// line waits for the container's next line.
func (r *running) line() string {
	r.h.t.Helper()
	line, err := r.stdout.ReadString('\n')
	require.NoError(r.h.t, err)
	return strings.TrimSuffix(line, "\n")
}

// say writes a line to the container.
func (r *running) say(line string) {
	r.h.t.Helper()
	_, err := io.WriteString(r.stdin, line+"\n")
	require.NoError(r.h.t, err)
}

// end lets the container end.
func (r *running) end() {
	r.h.t.Helper()
	require.NoError(r.h.t, r.stdin.Close())
	require.NoError(r.h.t, <-r.ended)
}

// mounted gives the directory where a container or an image is shown.
func (h *host) mounted(ref string) string {
	h.t.Helper()
	dir, err := h.Mount(h.t.Context(), ref)
	require.NoError(h.t, err)
	return dir
}

func (h *host) umount(ref string) {
	h.t.Helper()
	require.NoError(h.t, h.Umount(h.t.Context(), ref))
}

func (h *host) commit(name string, opts engine.CommitOptions) image.Digest {
	h.t.Helper()
	id, err := h.Commit(h.t.Context(), name, opts)
	require.NoError(h.t, err)
	return id
}

// diff lists what a container changed, as "tarn diff" prints it.
func (h *host) diff(name string) []string {
	h.t.Helper()
	changes, err := h.Diff(h.t.Context(), name)
	require.NoError(h.t, err)
	lines := make([]string, 0, len(changes))
	for _, c := range changes {
		lines = append(lines, c.Type+" "+c.Path)
	}
	return lines
}

// unpacked has umoci unpack an image, and gives the directory of its root file system.
func (h *host) unpacked(ref string) string {
	h.t.Helper()
	testenv.RequireTool(h.t, "umoci")
	dir := testenv.TempDir(h.t)
	layout, bundle := filepath.Join(dir, "layout"), filepath.Join(dir, "bundle")
	require.NoError(h.t, h.Save(h.t.Context(), engine.SaveOptions{Images: []string{ref}, Output: layout, Format: "oci-dir"}))
	name := layout + ":docker.io/library/" + ref + ":latest"
	out, err := exec.CommandContext(h.t.Context(), "umoci", "unpack", "--image", name, bundle).CombinedOutput()
	require.NoError(h.t, err, "%s", out)
	return filepath.Join(bundle, "rootfs")
}

// initLayer leaves out of a comparison what only containers have: an image has no place for it.
func (h *host) initLayer(image string) func(path string) bool {
	h.t.Helper()
	places := []string{"dev/pts", "dev/shm", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf", "proc", "sys", "dev", "etc"}
	root := h.mounted(image)
	missing := map[string]bool{}
	for _, place := range places {
		if _, err := os.Lstat(filepath.Join(root, place)); err != nil {
			missing[place] = true
		}
	}
	h.umount(image)
	return func(path string) bool { return missing[path] }
}

// requireSame compares a container's whole tree with an image's, as umoci unpacks it, and gives it.
func (h *host) requireSame(container, image string) map[string]*treecmp.Entry {
	h.t.Helper()
	want, err := treecmp.Read(h.mounted(container), treecmp.Options{})
	require.NoError(h.t, err)
	h.umount(container)
	require.Greater(h.t, len(want), 100)
	got, err := treecmp.Read(h.unpacked(image), treecmp.Options{})
	require.NoError(h.t, err)
	onlyContainers := h.initLayer(image)
	packed := maps.Clone(want)
	maps.DeleteFunc(packed, func(path string, _ *treecmp.Entry) bool { return onlyContainers(path) })
	h.requireNone(treecmp.DiffEntries(packed, got))
	return want
}

func (h *host) requireNone(differences []string) {
	h.t.Helper()
	require.Empty(h.t, differences[:min(len(differences), 30)])
}

// topLayer gives the tar of an image's top layer.
func (h *host) topLayer(ref string) []byte {
	h.t.Helper()
	img, err := h.Image(ref)
	require.NoError(h.t, err)
	ids := img.Config.RootFS.DiffIDs
	l, err := h.Store.Layer(ids[len(ids)-1])
	require.NoError(h.t, err)
	tar, err := l.OpenTar()
	require.NoError(h.t, err)
	defer tar.Close()
	var data bytes.Buffer
	_, err = io.Copy(&data, tar)
	require.NoError(h.t, err)
	return data.Bytes()
}
