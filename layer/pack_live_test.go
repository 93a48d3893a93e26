package layer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/rootfs"
)

// emptyBase is a layer of a root with one directory.
func emptyBase(t testing.TB) string {
	t.Helper()
	return tarOf(t, `mkdir dir; echo x > dir/file; touch -d @1600000000 dir/file dir .`)
}

// TestPackRefuses names what no layer can hold.
func TestPackRefuses(t *testing.T) {
	base := emptyBase(t)
	for name, tc := range map[string]struct {
		script string
		want   error
		path   string
	}{
		"a whiteout's name":          {`touch dir/.wh.file`, layer.ErrReserved, `"/dir/.wh.file"`},
		"the opaque marker's":        {`mkdir n; touch n/.wh..wh..opq`, layer.ErrReserved, `"/n/.wh..wh..opq"`},
		"a directory":                {`mkdir .wh.d`, layer.ErrReserved, `"/.wh.d"`},
		"in a renamed directory":     {`mv dir n; touch n/.wh.x`, layer.ErrReserved, `"/n/.wh.x"`},
		"a name that is only that":   {`touch dir/.wh.`, layer.ErrReserved, `"/dir/.wh."`},
		"renamed, but no whole view": {`mv dir n`, layer.ErrNoMerged, `"/n"`},
		"chmod, but no whole view":   {`chmod 600 dir/file`, layer.ErrNoMerged, `"/dir/file"`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, rootfs.Erofs, base)
			b.sh(tc.script)
			src := b.source()
			if errors.Is(tc.want, layer.ErrNoMerged) {
				src.Merged = nil
			}
			_, err := packBytes(t.Context(), src, layer.PackOptions{})
			require.ErrorIs(t, err, tc.want)
			require.ErrorContains(t, err, tc.path)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

// TestPackOfAMount does not go into what someone mounted in an upper.
func TestPackOfAMount(t *testing.T) {
	b := newBox(t, rootfs.Erofs, emptyBase(t))
	b.sh(`mkdir n`)
	point := filepath.Join(b.home, "upper", "n")
	require.NoError(t, syscall.Mount("tmpfs", point, "tmpfs", 0, ""))
	defer func() { require.NoError(t, syscall.Unmount(point, 0)) }()
	_, err := packBytes(t.Context(), b.source(), layer.PackOptions{})
	require.ErrorIs(t, err, layer.ErrMount)
	_, err = packBytes(t.Context(), b.source(), layer.PackOptions{Exclude: []string{"/n/"}})
	require.NoError(t, err)
}

func TestPackExcludes(t *testing.T) {
	b := newBox(t, rootfs.Erofs, emptyBase(t))
	b.sh(`mkdir -p data/deep etc; touch data/x data/deep/y etc/hosts etc/other; rm dir/file; mkdir datax`)
	opts := []string{"/etc/hosts", "data", "/dir/file"}
	data, err := packBytes(t.Context(), b.source(), layer.PackOptions{Exclude: opts})
	require.NoError(t, err)
	var names []string
	for _, h := range tarEntries(t, b.keep(data)) {
		names = append(names, h.Name)
	}
	require.Equal(t, []string{"./", "datax/", "dir/", "etc/", "etc/other"}, names)
	changes, err := layer.Changes(t.Context(), b.source(), layer.ChangesOptions{Exclude: opts})
	require.NoError(t, err)
	require.Equal(t, []layer.Change{{Path: "/datax", Kind: layer.Added}, {Path: "/etc", Kind: layer.Added}, {Path: "/etc/other", Kind: layer.Added}}, changes)
}

func TestPackClampsTimes(t *testing.T) {
	b := newBox(t, rootfs.Erofs, emptyBase(t))
	b.sh(`touch -d @1500000000.5 old; touch -d @1700000000.5 new; ln -s x link; touch -h -d @1800000000 link`)
	epoch := time.Unix(1_650_000_000, 0)
	data, err := packBytes(t.Context(), b.source(), layer.PackOptions{SourceDateEpoch: &epoch})
	require.NoError(t, err)
	times := map[string]time.Time{}
	for _, h := range tarEntries(t, b.keep(data)) {
		times[h.Name] = time.Unix(h.Sec, int64(h.Nsec))
	}
	require.Equal(t, map[string]time.Time{"./": epoch, "old": time.Unix(1_500_000_000, 5e8), "new": epoch, "link": epoch}, times)
}

// spoiler does something when the first bytes of a file's contents come.
type spoiler struct {
	bytes.Buffer
	mark string
	do   func()
}

func (s *spoiler) Write(p []byte) (int, error) {
	if s.do != nil && strings.Contains(string(p), s.mark) {
		s.do()
		s.do = nil
	}
	return s.Buffer.Write(p)
}

// TestPackOfAFileThatShrinks has a file cut short while it is read.
func TestPackOfAFileThatShrinks(t *testing.T) {
	for name, script := range map[string]string{
		"new":     `head -c 4M /dev/zero | tr '\0' M > f`,
		"renamed": `head -c 4M /dev/zero | tr '\0' M > dir/f; mv dir n; mv n/f n/g`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, rootfs.Erofs, emptyBase(t))
			b.sh(script)
			w := &spoiler{mark: "MMMM", do: func() { b.sh(`for f in f n/g; do [ ! -e $f ] || truncate -s 1M $f; done`) }}
			err := layer.Pack(t.Context(), w, b.source(), layer.PackOptions{})
			require.ErrorIs(t, err, layer.ErrChanged)
			require.Nil(t, w.do)
			_, err = packBytes(t.Context(), b.source(), layer.PackOptions{})
			require.NoError(t, err, "once it keeps still")
		})
	}
}

// TestPackWhileAllChanges packs while a shell does its worst. Whatever it hits, the tar is one that
// Scan takes, or there is an error that says to try again.
func TestPackWhileAllChanges(t *testing.T) {
	b := newBox(t, rootfs.Erofs, tarOf(t, baseScript))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			_ = scramble(b.path, i)
		}
	}()
	defer func() { stop(); <-done }()
	packed := 0
	for range 60 {
		data, err := packBytes(t.Context(), b.source(), layer.PackOptions{})
		if errors.Is(err, layer.ErrChanged) {
			continue
		}
		require.NoError(t, err)
		_, err = layer.Scan(bytes.NewReader(data), layer.Limits{})
		require.NoError(t, err)
		packed++
		_, err = layer.Changes(t.Context(), b.source(), layer.ChangesOptions{})
		require.NoError(t, err)
	}
	require.Positive(t, packed)
}

// scramble makes, changes, renames and removes files and directories of all kinds.
func scramble(root string, i int) error {
	at := func(format string, args ...any) string { return filepath.Join(root, fmt.Sprintf(format, args...)) }
	old, now := i%7, (i+1)%7
	return errors.Join(
		os.MkdirAll(at("s%d/a/b", now), 0o755),
		os.WriteFile(at("s%d/a/b/f", now), bytes.Repeat([]byte("x"), 1000*(i%300)), 0o644),
		os.Link(at("s%d/a/b/f", now), at("s%d/l", now)),
		os.Rename(at("s%d/a", now), at("s%d/r", now)),
		os.Chmod(at("etc/conf"), os.FileMode(0o600+i%8)),
		os.Rename(at("dir"), at("rid")), os.Rename(at("rid"), at("dir")),
		os.Rename(at("dir/sub"), at("dir/bus")), os.Rename(at("dir/bus"), at("dir/sub")),
		os.Truncate(at("big"), int64(1000*(i%300))),
		os.Remove(at("opq/x")), os.WriteFile(at("opq/x"), nil, 0o644),
		os.RemoveAll(at("s%d", old)), os.Symlink("x", at("s%d", old)), os.Remove(at("s%d", old)),
	)
}

func TestPackStops(t *testing.T) {
	b := newBox(t, rootfs.Erofs, emptyBase(t))
	b.sh(`head -c 64M /dev/zero | tr '\0' M > f`)
	ctx, cancel := context.WithCancel(t.Context())
	w := &spoiler{mark: "MMMM", do: cancel}
	require.ErrorIs(t, layer.Pack(ctx, w, b.source(), layer.PackOptions{}), context.Canceled)
	require.Less(t, w.Len(), 4<<20)
	_, err := layer.Changes(ctx, b.source(), layer.ChangesOptions{})
	require.ErrorIs(t, err, context.Canceled)
}

// TestPackLeavesNothingOpen looks at the descriptors after packs that did and did not succeed.
func TestPackLeavesNothingOpen(t *testing.T) {
	b := newBox(t, rootfs.Erofs, tarOf(t, baseScript))
	b.sh(changes["rename, then change"] + "; rm -r other; mkdir other; touch other/.wh.x; chmod 600 etc/conf")
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(names)
	}
	before := count()
	for range 3 {
		_, err := packBytes(t.Context(), b.source(), layer.PackOptions{})
		require.ErrorIs(t, err, layer.ErrReserved)
		_, err = packBytes(t.Context(), b.source(), layer.PackOptions{Exclude: []string{"other"}})
		require.NoError(t, err)
		_, err = layer.Changes(t.Context(), b.source(), layer.ChangesOptions{})
		require.NoError(t, err)
	}
	require.Equal(t, before, count())
}

// TestPackTree has GNU tar extract the tar of a whole merged tree: it is the same tree.
func TestPackTree(t *testing.T) {
	base := tarOf(t, baseScript)
	for _, driver := range []string{rootfs.Erofs, rootfs.Dirs} {
		t.Run(driver, func(t *testing.T) {
			b := newBox(t, driver, base)
			b.sh(`mv dir renamed; rm h2; touch .wh.x; chmod 600 sparse; ln big big2; mkdir opq2; mv opq opq2/; setfattr -n user.x -v 1 .`)
			var buf bytes.Buffer
			require.NoError(t, layer.PackTree(t.Context(), &buf, b.merged, layer.PackOptions{}))
			out := filepath.Join(b.home, "out")
			require.NoError(t, os.Mkdir(out, 0o700))
			path := b.keep(buf.Bytes())
			testenv.ExtractTar(t, path, out)
			require.Greater(t, treecmp.Equal(t, b.path, out, treecmp.Options{}), 30)
			for _, h := range tarEntries(t, path) {
				require.Less(t, h.PackedSize, int64(1<<20), "%s: its holes were stored", h.Name)
			}
			var again bytes.Buffer
			dir, err := sys.OpenPath(out)
			require.NoError(t, err)
			defer dir.Close()
			require.NoError(t, layer.PackTree(t.Context(), &again, dir, layer.PackOptions{}))
			require.True(t, bytes.Equal(buf.Bytes(), again.Bytes()), "the same tree on another file system gives the same tar")
		})
	}
}

// TestPackOfALongDirectory has entries in the order of their paths.
func TestPackOfALongDirectory(t *testing.T) {
	b := newBox(t, rootfs.Erofs, emptyBase(t))
	b.sh(`mkdir n; cd n; seq 3000 | xargs touch; cd ..; mv n m; rm m/77`)
	entries := tarEntries(t, b.pack(b.source()))
	require.Len(t, entries, 1+1+2999)
	for i := range len(entries) - 1 {
		require.Less(t, strings.TrimPrefix(entries[i].Name, "./"), entries[i+1].Name)
	}
}

// TestPackOnFilesystems packs the same files from file systems that have other blocks, and other ideas
// of holes.
func TestPackOnFilesystems(t *testing.T) {
	testenv.RequireRoot(t)
	const script = `
		truncate -s 1M hole; for at in 5000 300000 302000 900000; do echo x | dd of=hole bs=1 seek=$at conv=notrunc status=none; done
		truncate -s 9M end; echo x >> end; head -c 200000 /dev/zero > zeros; fallocate -l 300000 allocated; echo x > small; truncate -s 4000 small
		truncate -s 4M many; for i in {0..99}; do echo $i | dd of=many bs=20000 seek=$i conv=notrunc status=none; done
		setfattr -n user.a -v "$(head -c 800 /dev/zero | tr '\0' a)" hole; ln hole hole2; touch -d @1600000000 * .; chmod 755 .`
	packed := func(t *testing.T, dir string) []byte {
		t.Helper()
		shell(t, dir, script)
		f, err := sys.OpenPath(dir)
		require.NoError(t, err)
		defer f.Close()
		var first, again bytes.Buffer
		require.NoError(t, layer.Pack(t.Context(), &first, layer.PackSource{Upper: f}, layer.PackOptions{}))
		shell(t, dir, `cat * > /dev/null; sync -f .`)
		require.NoError(t, layer.Pack(t.Context(), &again, layer.PackSource{Upper: f}, layer.PackOptions{}))
		require.True(t, bytes.Equal(first.Bytes(), again.Bytes()), "once all is on the disk and was read")
		return first.Bytes()
	}
	want := packed(t, testenv.TempDir(t))
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			testenv.RequireTool(t, "mkfs."+kind)
			testenv.RequireFilesystem(t, kind)
			dir := testenv.TempDir(t)
			shell(t, dir, `truncate -s 400M disk; mkfs.`+kind+` -q disk; mkdir point; mount -o loop disk point; mkdir point/dir`)
			got := packed(t, filepath.Join(dir, "point", "dir"))
			require.Equal(t, tarEntries(t, writeTemp(t, want)), tarEntries(t, writeTemp(t, got)))
			require.True(t, bytes.Equal(want, got))
		})
	}
}
