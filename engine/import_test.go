package engine_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
)

func newEngine(t *testing.T) *engine.Engine {
	t.Helper()
	e, err := engine.Open(engine.Options{Root: filepath.Join(t.TempDir(), "root"), Run: t.TempDir()})
	require.NoError(t, err)
	return e
}

// file is an entry of a test's tar: a directory if its name ends in a slash.
type file struct {
	name, content string
}

func makeTar(t *testing.T, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			header.Typeflag = tar.TypeDir
		}
		require.NoError(t, w.WriteHeader(header))
		_, err := io.WriteString(w, f.content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func bigTar(t *testing.T) []byte {
	t.Helper()
	noise := make([]byte, 9<<20+100)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	return makeTar(t, file{"bin/", ""}, file{"bin/noise", string(noise)}, file{"etc/", ""}, file{"etc/issue", "hello\n"})
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func zstded(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	return w.EncodeAll(data, nil)
}

func TestImportKeepsTheTarByteForByte(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	plain := bigTar(t)
	sum := sha256.Sum256(plain)
	diffID := image.Digest("sha256:" + hex.EncodeToString(sum[:]))
	var ids []image.Digest
	for name, input := range map[string][]byte{"plain": plain, "gzip": gzipped(t, plain), "zstd": zstded(t, plain)} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			id, err := e.Import(t.Context(), iotest.HalfReader(bytes.NewReader(input)), engine.ImportOptions{Name: "deb", Changes: []string{"CMD [\"sh\"]"}})
			require.NoError(t, err)
			ids = append(ids, id)
			img, err := e.Image("deb")
			require.NoError(t, err)
			require.Equal(t, id, img.ID)
			require.Equal(t, []image.Digest{diffID}, img.Config.RootFS.DiffIDs)
			require.Equal(t, image.Words{"sh"}, img.Config.Config.Cmd)
			layer, err := e.Store.Layer(diffID)
			require.NoError(t, err)
			tar, err := layer.OpenTar()
			require.NoError(t, err)
			stored, err := io.ReadAll(tar)
			require.NoError(t, err)
			require.True(t, bytes.Equal(plain, stored))
			require.NoError(t, tar.Close())
			index, err := os.Stat(layer.IndexPath())
			require.NoError(t, err)
			require.Positive(t, index.Size())
			requireNoLeftovers(t, e)

			again, err := e.Import(t.Context(), bytes.NewReader(input), engine.ImportOptions{Name: "deb", Changes: []string{"CMD [\"sh\"]"}})
			require.NoError(t, err)
			require.Equal(t, id, again)
			requireNoLeftovers(t, e)
		})
	}
	require.Len(t, ids, 3)
	require.Equal(t, ids[0], ids[1], "the same tar, options and SOURCE_DATE_EPOCH give the same image")
	require.Equal(t, ids[0], ids[2])
}

func TestImportFailureLeavesNothing(t *testing.T) {
	plain := bigTar(t)
	packed := gzipped(t, plain)
	for name, input := range map[string][]byte{
		"cut tar":       plain[:len(plain)/2],
		"cut gzip":      packed[:len(packed)/2],
		"cut zstd":      zstded(t, plain)[:4<<20],
		"nothing":       nil,
		"not a tar":     bytes.Repeat([]byte("hello world "), 1000),
		"bzip2":         []byte("BZh91AY&SY"),
		"climbing name": makeTar(t, file{"a/../../etc/passwd", "x"}),
		"flipped byte":  append(append(bytes.Clone(packed[:len(packed)-6]), packed[len(packed)-6]^1), packed[len(packed)-5:]...),
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			_, err := e.Import(t.Context(), bytes.NewReader(input), engine.ImportOptions{Name: "bad"})
			require.Error(t, err)
			require.NotContains(t, err.Error(), "\n", "one line")
			_, err = e.Image("bad")
			require.ErrorIs(t, err, engine.ErrNoImage)
			requireEmpty(t, e, "layers")
			requireEmpty(t, e, "images")
			requireEmpty(t, e, "blobs")
			requireNoLeftovers(t, e)
		})
	}
	for _, opts := range []engine.ImportOptions{{Name: "UPPER"}, {Name: "a@sha256:" + strings.Repeat("0", 64)}, {Changes: []string{"RUN x"}}} {
		_, err := newEngine(t).Import(t.Context(), bytes.NewReader(plain), opts)
		require.Error(t, err)
	}
}

func requireNoLeftovers(t *testing.T, e *engine.Engine) {
	t.Helper()
	requireEmpty(t, e, "tmp")
}

func requireEmpty(t *testing.T, e *engine.Engine, dir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(e.Store.Root(), dir))
	require.NoError(t, err)
	require.Empty(t, entries, dir)
}

func TestImportOptions(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	t.Setenv("FROM_HERE", "here")
	plain := makeTar(t, file{"f", "x"})
	shell := func(command string) image.Words { return image.Words{"/bin/sh", "-c", command} }
	for name, tc := range map[string]struct {
		opts engine.ImportOptions
		want image.RunConfig
	}{
		"none":       {engine.ImportOptions{}, image.RunConfig{}},
		"shell form": {engine.ImportOptions{Cmd: "echo $HOME; true", Entrypoint: "exec env"}, image.RunConfig{Cmd: shell("echo $HOME; true"), Entrypoint: shell("exec env")}},
		"JSON form":  {engine.ImportOptions{Cmd: `["-x", "a b"]`, Entrypoint: `[ "/bin/env" ]`}, image.RunConfig{Cmd: image.Words{"-x", "a b"}, Entrypoint: image.Words{"/bin/env"}}},
		"not quite JSON is the shell's": {
			engine.ImportOptions{Cmd: `['sh']`}, image.RunConfig{Cmd: shell(`['sh']`)},
		},
		"environment": {
			engine.ImportOptions{Env: []string{"A=1", "B=$A 'x'", "FROM_HERE", "NOT_HERE", "A=2", "EMPTY="}},
			image.RunConfig{Env: []string{"A=2", "B=$A 'x'", "FROM_HERE=here", "EMPTY="}},
		},
		"labels": {
			engine.ImportOptions{Labels: []string{"a=b=c", "d", "e.f/g= h"}},
			image.RunConfig{Labels: map[string]string{"a": "b=c", "d": "", "e.f/g": " h"}},
		},
		"user and directory": {
			engine.ImportOptions{User: "1000:users", WorkDir: "srv/../var/"}, image.RunConfig{User: "1000:users", WorkingDir: "/var"},
		},
		"changes come last": {
			engine.ImportOptions{
				Cmd: `["a"]`, Env: []string{"A=1"}, User: "x", WorkDir: "/a",
				Changes: []string{`ENTRYPOINT ["e"]`, "USER y", "ENV B=$A", "WORKDIR b", "STOPSIGNAL SIGQUIT", "EXPOSE 80"},
			},
			image.RunConfig{
				Cmd: image.Words{"a"}, Entrypoint: image.Words{"e"}, Env: []string{"A=1", "B=1"}, User: "y", WorkingDir: "/a/b",
				StopSignal: "SIGQUIT", ExposedPorts: map[string]struct{}{"80/tcp": {}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			opts := tc.opts
			opts.Name, opts.Author, opts.Message = "x", "Ada", "why"
			opts.Platform = image.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
			_, err := e.Import(t.Context(), bytes.NewReader(plain), opts)
			require.NoError(t, err)
			img, err := e.Image("x")
			require.NoError(t, err)
			require.Equal(t, tc.want, img.Config.Config)
			require.Equal(t, "Ada", img.Config.Author)
			require.Equal(t, "why", img.Config.History[0].Comment)
			require.Equal(t, "linux/arm/v7", img.Config.Platform().String())
			require.Equal(t, int64(1700000000), img.Config.CreatedAt().Unix())
		})
	}
	for _, opts := range []engine.ImportOptions{
		{Env: []string{"=x"}},
		{Labels: []string{"=x"}},
		{Changes: []string{"FROM x"}},
		{Cmd: " "},
	} {
		e := newEngine(t)
		_, err := e.Import(t.Context(), bytes.NewReader(plain), opts)
		require.Error(t, err, "%+v", opts)
		requireNothing(t, e)
	}
}

func TestImportFile(t *testing.T) {
	plain := makeTar(t, file{"f", "x"})
	path := writeFile(t, "root.tar.zst", zstded(t, plain))
	open := func(path string) *os.File {
		f, err := os.Open(path)
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	byName, err := newEngine(t).ImportFile(t.Context(), path, nil, engine.ImportOptions{})
	require.NoError(t, err)
	fromStdin, err := newEngine(t).ImportFile(t.Context(), "-", open(path), engine.ImportOptions{})
	require.NoError(t, err)
	require.Equal(t, byName, fromStdin)

	for name, tc := range map[string]struct {
		path  string
		stdin *os.File
		names string
	}{
		"no file":     {filepath.Join(t.TempDir(), "absent.tar"), nil, "absent.tar: no such file or directory"},
		"a directory": {t.TempDir(), nil, "tarn import -"},
		"a terminal":  {"-", terminal(t), "redirect"},
		"a cut tar":   {writeFile(t, "cut.tar", bigTar(t)[:1<<20]), nil, "cut.tar"},
		"no tar":      {"-", open(writeFile(t, "text", bytes.Repeat([]byte("text\n"), 200))), "standard input"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			_, err := e.ImportFile(t.Context(), tc.path, tc.stdin, engine.ImportOptions{Name: "x"})
			require.ErrorContains(t, err, tc.names)
			require.NotContains(t, err.Error(), "\n")
			requireNothing(t, e)
		})
	}
}
