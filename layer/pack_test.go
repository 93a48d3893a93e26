package layer_test

import (
	"bytes"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/layer/tarfile"
	"github.com/tarnfs/tarn/rootfs"
)

// baseScript makes a layer that has something of everything.
const baseScript = `
umask 022
mkdir -p etc dir/sub/deep other opq/old/older empty acl
echo conf > etc/conf; echo two > etc/two; echo same1 > etc/same1; echo same2 > etc/same2
echo d > dir/file; echo s > dir/sub/file; echo p > dir/sub/deep/file; echo o > other/file
echo h > h1; ln h1 h2; ln h1 dir/h3; ln dir/file dir/sub/link
ln -s etc/conf symlink; ln -s dir dirlink; ln symlink symlink2
mkfifo fifo; mknod null c 1 3; mknod disk b 8 1
echo x > opq/x; echo y > opq/old/y; echo z > opq/old/older/z
head -c 300000 /dev/urandom > big
truncate -s 16M sparse; echo data | dd of=sparse bs=1 seek=10000000 conv=notrunc status=none
truncate -s 1M hole
cp /bin/true ping; setcap cap_net_raw+ep ping; chmod 4755 big
setfattr -n user.a -v 1 etc/conf; setfattr -n trusted.b -v 2 etc; setfattr -n user.c -v 3 dir
setfacl -m u:1000:rw,g:70000:r etc/two; setfacl -m d:g:5:rwx acl; chown 70000:80000 other/file
touch -- $'bad\xff\xfename' $'new\nline' ' space' '-dash' 'ünïcode'
mkdir -p "$(printf 'l%.0s' {1..150})/$(printf 'm%.0s' {1..150})"; (cd l*/m*; echo long > file)
find . -exec touch -h -d @1600000000.123456789 {} +
`

// changes are what may happen in a container. Each is done alone on the base.
var changes = map[string]string{
	"nothing":               `:`,
	"only read":             `cat etc/conf > /dev/null; ls -R > /dev/null`,
	"new file":              `echo n > etc/new`,
	"new kinds":             `mkdir -p n/m; mkfifo n/fifo; mknod n/null c 1 3; mknod n/disk b 259 1048575; ln -s /nowhere n/link; touch n/empty`,
	"new socket":            `mkdir n; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("n/sock")'`,
	"contents":              `echo longer than before > etc/conf`,
	"append":                `echo more >> big`,
	"truncate":              `: > big`,
	"same size and time":    `touch -r etc/conf /tmp/$$; echo CONF > etc/conf; touch -r /tmp/$$ etc/conf; rm /tmp/$$`,
	"written, but the same": `cp -p etc/conf /tmp/$$; cat /tmp/$$ > etc/conf; touch -r /tmp/$$ etc/conf; rm /tmp/$$; touch -d @1600000000.123456789 etc`,
	"mode":                  `chmod 600 etc/conf dir`,
	"mode of a sparse file": `chmod 600 sparse hole`,
	"owner":                 `chown 5:6 big; chown -h 7:8 symlink; chown 9:10 dir`,
	"huge owner":            `chown 4000000000:3000000000 etc/conf`,
	"time":                  `touch -d @1700000000.987654321 etc/conf; touch -h -d @1500000000.5 symlink; touch -d @-5.25 etc/two; touch -d @9999999999 dir/file`,
	"time of a directory":   `touch -d @1700000000 dir`,
	"xattr":                 `setfattr -n user.new -v value etc/conf; setfattr -n user.a -v changed etc/conf; setfattr -n user.d -v '' dir; setfattr -n trusted.s -v 5 -h symlink`,
	"xattr gone":            `setfattr -x user.a etc/conf; setfattr -x user.c dir`,
	"xattrs with odd names": `setfattr -n 'user.a=b%3D%' -v 0x00ff0a3d etc/conf; setfattr -n 'user.ü' -v 1 etc/conf`,
	"overlay's own xattrs":  `setfattr -n trusted.overlay.opaque -v y dir; setfattr -n trusted.overlay.redirect -v /etc other; setfattr -n trusted.overlay.overlay.x -v 1 etc/conf; setfattr -n trusted.overlay.metacopy -v '' etc/two`,
	"capabilities":          `setcap cap_net_admin,cap_net_bind_service+ep big; setcap -r ping; cp /bin/true n; setcap cap_chown+ei n`,
	"capability of a copy":  `chmod 700 ping`,
	// Linux (6.18) sets no ACL on a file of EROFS unless something else copied it up (ovl_set_acl).
	"acl":                          `touch -r etc/conf etc/conf etc/two; touch -r dir dir acl; setfacl -m u:4:rwx etc/conf; setfacl -b etc/two; setfacl -m u:9:r,d:u:9:rx dir; mkdir acl/sub; echo i > acl/inherits; setfacl -k acl`,
	"set-ID and sticky":            `chmod 2775 dir; mkdir dir/inherits; chmod 1777 other; cp /bin/true su; chmod 6755 su`,
	"delete a file":                `rm etc/conf symlink fifo null`,
	"delete a directory":           `rm -r dir`,
	"delete all":                   `find . -mindepth 1 -delete`,
	"delete what was made":         `echo a > etc/new; rm etc/new; mkdir n; rmdir n`,
	"delete and make again":        `rm etc/conf; echo again > etc/conf`,
	"directory made again":         `rm -r dir; mkdir dir`,
	"directory made again, filled": `rm -r dir; mkdir -p dir/sub/new; echo f > dir/file; echo f > dir/sub/file; rm dir/file`,
	"opaque in opaque":             `rm -r opq; mkdir opq; mkdir opq/old; echo w > opq/old/w; rm -r opq/old; mkdir opq/old`,
	"file becomes directory":       `rm etc/conf; mkdir etc/conf; echo in > etc/conf/in`,
	"directory becomes file":       `rm -r dir; echo f > dir`,
	"directory becomes link":       `rm -r dir; ln -s other dir`,
	"link becomes directory":       `rm dirlink; mkdir dirlink; echo in > dirlink/in`,
	"file becomes socket":          `rm etc/conf; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("etc/conf")'`,
	"directory becomes socket":     `rm -r dir; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("dir")'`,
	"socket where all is new":      `rm -r dir; mkdir dir; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("dir/file")'`,
	"file becomes device":          `rm etc/conf; mknod etc/conf c 5 5`,
	"rename a file":                `mv etc/conf etc/renamed`,
	"rename over a file":           `mv etc/same1 etc/same2`,
	"rename between directories":   `mv etc/conf dir/sub/`,
	"rename a sparse file":         `mv sparse dir/`,
	"rename, then write":           `mv etc/conf etc/renamed; echo w >> etc/renamed; chmod 600 etc/renamed`,
	"rename into a new directory":  `mkdir -p n/m; mv etc/conf big n/m/`,
	"rename a directory":           `mv dir renamed`,
	"rename a directory deeper":    `mkdir n; mv dir n/; mv n/dir/sub/deep n/dir/deep`,
	"rename, then change":          `mv dir renamed; echo c > renamed/file; rm renamed/sub/file; mkdir renamed/sub/new; chmod 700 renamed/sub/deep`,
	"rename, then rename inside":   `mv dir renamed; mv renamed/sub renamed/bus; echo n > renamed/bus/deep/new`,
	"rename over a deleted one":    `rm -r other; mv dir other`,
	"rename over an empty one":     `mv -T dir empty`,
	"swap directories":             `mv dir tmp; mv other dir; mv tmp other`,
	"rename there and back":        `mv dir tmp; mv tmp dir; touch -d @1600000000.123456789 .`,
	"new directory at the old":     `mv dir renamed; mkdir dir; echo n > dir/file`,
	"opaque in renamed":            `mv dir renamed; rm -r renamed/sub; mkdir renamed/sub; echo n > renamed/sub/n`,
	"metadata in renamed":          `mv dir renamed; chmod 600 renamed/file renamed/sub/file; mv sparse renamed/; chmod 600 renamed/sparse`,
	"hard links":                   `echo n > n1; ln n1 n2; ln n1 dir/n3; ln symlink2 sym3; mknod c1 c 9 9; ln c1 c2`,
	"link to a lower file":         `ln etc/conf dir/conf; ln big big2`,
	"link to a lower link":         `ln h1 h4`,
	"write to a lower link":        `echo changed > h1`,
	"mode of a lower link":         `chmod 600 h2; setfattr -n user.h -v 1 dir/h3`,
	"links around a renamed":       `ln dir/sub/deep/file outside; mv dir renamed; ln renamed/file outside2; ln big renamed/big`,
	"lower links in renamed":       `mv dir renamed; ln renamed/sub/link renamed/third`,
	"link's first name goes":       `ln etc/conf etc/aconf; rm etc/conf`,
	"sparse, new":                  `truncate -s 8M n; echo x | dd of=n bs=1 seek=5000000 conv=notrunc status=none; truncate -s 4097 m; echo x > k; truncate -s 40M k`,
	"sparse, ends in data":         `truncate -s 3000000 n; echo end >> n`,
	"sparse, written":              `echo mid | dd of=sparse bs=1 seek=12000000 conv=notrunc status=none`,
	"preallocated":                 `fallocate -l 2M n; echo x | dd of=n bs=1 seek=1000000 conv=notrunc status=none`,
	"zeros":                        `head -c 1000000 /dev/zero > n`,
	"root's mode":                  `chmod 750 .`,
	"root's xattr":                 `setfattr -n user.root -v 1 .`,
	"root's time":                  `touch -d @1650000000 .`,
	"names":                        `touch -- $'bad\xff\xfename2' $'new\nline2' '--force' 'ü' "$(printf 'n%.0s' {1..255})" '.whx' '.w' 'a ' '*'; ln -s "$(printf 't%.0s' {1..300})" longlink`,
	"long paths":                   `d=$(printf 'l%.0s' {1..100}); mkdir -p n/$d/$d/$d/$d/$d; echo x > n/$d/$d/$d/$d/$d/$d; ln n/$d/$d/$d/$d/$d/$d hard`,
	"deep":                         `d=.; for i in {1..100}; do d=$d/d$i; done; mkdir -p $d; echo x > $d/x`,
	"a package manager's":          `rm etc/two; for i in {1..200}; do echo $i > dir/sub/p$i; done; for i in {1..200}; do mv -f dir/sub/p$i dir/sub/q$i; done; rm -r opq; tar -C /etc -cf - default | tar -C etc -xf -`,
}

// TestPackRoundTrip does each change in a real overlay, packs it, and mounts the packed layer on the
// old one: both views must be the same. Extracted as an upper, the layer must pack to itself.
func TestPackRoundTrip(t *testing.T) {
	base := tarOf(t, baseScript)
	for _, driver := range []string{rootfs.Erofs, rootfs.Dirs} {
		for _, name := range slices.Sorted(maps.Keys(changes)) {
			t.Run(driver+"/"+name, func(t *testing.T) {
				b := newBox(t, driver, base)
				b.sh(changes[name])
				packed := b.pack(b.source())
				stack := b.lowers
				if len(tarEntries(t, packed)) > 0 { // else there is no layer
					stack = slices.Insert(slices.Clone(stack), 0, b.mountLayer(packed))
				}
				requireSameTree(t, b.path, b.show(b.view(stack...)), packed)
				requireSameTar(t, packed, b.packStopped())
				requireSameTar(t, packed, b.packExtracted(packed))
				b.requireChanges()
			})
		}
	}
}

// requireSameTree compares what a container sees with the layer packed of it on the layers below.
// Sockets have no place in a layer. Of a file that has names in both, those that are packed have lost the others: no layer can say that
// its file is one of another layer.
func requireSameTree(t *testing.T, want, got, packed string) {
	t.Helper()
	wanted, err := treecmp.Read(want, treecmp.Options{})
	require.NoError(t, err)
	maps.DeleteFunc(wanted, func(_ string, e *treecmp.Entry) bool { return e.Mode&syscall.S_IFMT == syscall.S_IFSOCK })
	found, err := treecmp.Read(got, treecmp.Options{})
	require.NoError(t, err)
	own := make(map[string]bool)
	for _, h := range tarEntries(t, packed) {
		own[path.Clean(h.Name)] = true
	}
	for name, e := range wanted {
		e.Group = slices.DeleteFunc(slices.Clone(e.Group), func(other string) bool { return own[other] != own[name] })
	}
	for _, e := range found {
		e.Group = slices.Clone(e.Group)
	}
	for _, entries := range []map[string]*treecmp.Entry{wanted, found} {
		for _, e := range entries {
			if len(e.Group) == 1 {
				e.Group = nil // its other names are hidden
			}
		}
	}
	require.Empty(t, treecmp.DiffEntries(wanted, found))
}

func requireSameTar(t *testing.T, want, got string) {
	t.Helper()
	a, b := tarEntries(t, want), tarEntries(t, got)
	require.Equal(t, a, b)
	x, err := os.ReadFile(want)
	require.NoError(t, err)
	y, err := os.ReadFile(got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(x, y), "the same entries, but not the same bytes")
}

// tarEntries lists a tar's headers, to be read by people.
func tarEntries(t testing.TB, path string) []tarfile.Header {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	r := tarfile.NewReader(f, tarfile.Limits{})
	var all []tarfile.Header
	for {
		h, err := r.Next()
		if err == io.EOF { //nolint:errorlint // bare, as documented
			return all
		}
		require.NoError(t, err)
		all = append(all, *h)
	}
}

// packStopped packs once more as it is done when nothing runs: the upper as a read-only layer.
func (b *box) packStopped() string {
	b.t.Helper()
	require.NoError(b.t, b.merged.Close())
	require.NoError(b.t, syscall.Unmount(b.path, 0))
	view, err := rootfs.MergedView(b.upper, b.lowers, b.options())
	require.NoError(b.t, err)
	b.merged = view
	b.closeLater(view)
	b.path = b.show(view)
	return b.pack(b.source())
}

// packExtracted packs the upper that a layer's tar extracts to.
func (b *box) packExtracted(packed string) string {
	b.t.Helper()
	upper := b.mkdir("again")
	tar := plain(b.t, openFile(b.t, packed))
	require.NoError(b.t, layer.Extract(b.t.Context(), tar, upper, layer.ExtractOptions{}))
	entries := tarEntries(b.t, packed)
	if len(entries) == 0 {
		require.NoError(b.t, rootfs.PrepareUpper(upper, b.lowers))
	}
	return b.pack(layer.PackSource{Upper: upper, Lower: b.lower})
}

// requireChanges holds Changes against what a comparison of both whole trees says, by Docker's
// rules (moby/go-archive, FileInfo.addChanges).
func (b *box) requireChanges() {
	b.t.Helper()
	got, err := layer.Changes(b.t.Context(), b.source(), layer.ChangesOptions{})
	require.NoError(b.t, err)
	var lines []string
	for _, c := range got {
		lines = append(lines, c.Kind.String()+" "+c.Path)
	}
	before, err := treecmp.Read(b.show(b.lower), treecmp.Options{})
	require.NoError(b.t, err)
	after, err := treecmp.Read(b.path, treecmp.Options{})
	require.NoError(b.t, err)
	require.Equal(b.t, dockerChanges(before, after), lines)
}

func dockerChanges(before, after map[string]*treecmp.Entry) []string {
	kinds := map[string]string{}
	isDir := func(e *treecmp.Entry) bool { return e != nil && e.Mode&syscall.S_IFMT == syscall.S_IFDIR }
	for p, now := range after {
		old := before[p]
		// Below a directory that was none before, all is new.
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if !isDir(before[dir]) {
				old = nil
			}
		}
		switch {
		case p == ".":
		case old == nil:
			kinds[p] = "A"
		case differs(old, now):
			kinds[p] = "C"
		}
	}
	for p := range before {
		// Of what is gone, only the top.
		if after[p] == nil && isDir(after[path.Dir(p)]) {
			kinds[p] = "D"
		}
	}
	for p := range maps.Clone(kinds) {
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if kinds[dir] == "" {
				kinds[dir] = "C"
			}
		}
	}
	var lines []string
	for _, p := range slices.Sorted(maps.Keys(kinds)) {
		lines = append(lines, kinds[p]+" /"+p)
	}
	return lines
}

func differs(a, b *treecmp.Entry) bool {
	shown := func(xattrs map[string]string) map[string]string {
		kept := maps.Clone(xattrs)
		maps.DeleteFunc(kept, func(name, _ string) bool { return strings.HasPrefix(name, "trusted.overlay.") })
		return kept
	}
	dir := a.Mode&syscall.S_IFMT == syscall.S_IFDIR
	return a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.Size != b.Size || a.Rdev != b.Rdev ||
		!dir && !a.Mtime.Equal(b.Mtime) || a.Link != b.Link || a.Hash != b.Hash || !maps.Equal(shown(a.Xattrs), shown(b.Xattrs))
}

// TestPackKeepsHoles looks at what is stored of files with holes.
func TestPackKeepsHoles(t *testing.T) {
	b := newBox(t, rootfs.Erofs, tarOf(t, `
		truncate -s 8M lower
		for at in 0 5000000; do echo x | dd of=lower bs=1 seek=$at conv=notrunc status=none; done
		truncate -s 8M hole; cp lower moved`))
	b.sh(`
		chmod 600 lower; mkdir d; mv moved d/
		truncate -s 1G huge; truncate -s 4095 small
		head -c 1M /dev/zero > zeros; fallocate -l 1M preallocated
		fallocate -l 1M both; truncate -s 9M both; echo x | dd of=both bs=1 seek=8M conv=notrunc status=none
		truncate -s 4M many; for i in {0..499}; do echo $i | dd of=many bs=8192 seek=$i conv=notrunc status=none; done`)
	for range 2 {
		stored := map[string]int64{}
		for _, h := range tarEntries(t, b.pack(b.source())) {
			if h.Type == tarfile.TypeReg {
				stored[h.Name] = h.PackedSize
			}
		}
		require.Equal(t, map[string]int64{
			"lower": 8192, "d/moved": 8192, ".wh.moved": 0, "huge": 0, "small": 4095, "zeros": 1 << 20, "preallocated": 1 << 20, "both": 4096, "many": 500 * 4096,
		}, stored)
		// Reading a preallocated block makes it data for lseek(2).
		b.sh(`cat preallocated both > /dev/null`)
	}
}

// TestPackWithoutLayers packs the container of an image that has none.
func TestPackWithoutLayers(t *testing.T) {
	testenv.RequireRoot(t)
	b := newShelf(t, rootfs.Erofs)
	b.open()
	b.sh(`mkdir a; echo x > a/b; rm -f nothing`)
	src := b.source()
	src.Lower = nil
	packed := b.pack(src)
	treecmp.Equal(t, b.path, b.show(b.view(b.mountLayer(packed))), treecmp.Options{})
}
