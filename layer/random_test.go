package layer_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/internal/tartest"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/rootfs"
)

// model is a tree told in the simplest way: names from the root, and what they are. The same
// pointer under two names is a hard link.
type model map[string]*thing

type thing struct {
	kind     byte // as in a tar
	contents string
	mtime    int64
}

func (m model) remove(name string) {
	delete(m, name)
	m.empty(name)
}

func (m model) empty(dir string) {
	maps.DeleteFunc(m, func(name string, _ *thing) bool { return strings.HasPrefix(name, dir+"/") })
}

func (m model) put(name string, what *thing) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if m[dir] == nil {
			m[dir] = &thing{kind: '5'}
		}
	}
	if old := m[name]; old == nil || old.kind != '5' || what.kind != '5' {
		m.remove(name)
	}
	m[name] = what
}

// room tells whether a tar may have an entry of that name now.
func (m model) room(name string) bool {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if m[dir] != nil && m[dir].kind != '5' {
			return false
		}
	}
	return true
}

// dir gives the directory of that name, or what an implied one is.
func (m model) dir(name string) *thing {
	if m[name] != nil {
		return m[name]
	}
	return &thing{kind: '5'}
}

// change is what a layer says.
type change struct {
	files             model
	whiteouts, opaque []string
}

// over gives the tree that is seen through the change.
func (c change) over(below model) model {
	seen := maps.Clone(below)
	for _, name := range c.whiteouts {
		seen.remove(name)
	}
	for _, dir := range c.opaque {
		seen.empty(dir)
	}
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		if old := seen[name]; old != nil && (old.kind != '5' || c.files[name].kind != '5') {
			seen.remove(name)
		}
		seen[name] = c.files[name]
	}
	return seen
}

// randomLayer makes a tar of random entries, in an order that no sane program would choose, and says
// what it means.
func randomLayer(random *rand.Rand) ([]byte, change) {
	var tar []byte
	c := change{files: model{}}
	name := func() string {
		parts := make([]string, 1+random.IntN(3))
		for i := range parts {
			parts[i] = string(rune('a' + random.IntN(4)))
		}
		return path.Join(parts...)
	}
	for i := range random.IntN(25) {
		at := name()
		if !c.files.room(at) {
			continue
		}
		what := &thing{mtime: int64(random.IntN(1000))}
		fields := map[int]string{tartest.AtTime: tartest.Octal(what.mtime), tartest.AtMode: "0000755\x00"}
		switch kind := random.IntN(10); kind {
		case 0, 1, 2: // a directory, or what is already one
			what.kind = '5'
			tar = join(tar, aNode(at+"/", '5', fields))
		case 3, 4:
			what.kind, what.contents = '0', fmt.Sprint("contents ", i)
			fields[tartest.AtSize] = tartest.Octal(int64(len(what.contents)))
			tar = join(tar, tartest.Body(aNode(at, '0', fields), what.contents))
		case 5:
			what.kind, what.contents = '2', fmt.Sprint("target ", i)
			fields[tartest.AtLinkname] = what.contents
			tar = join(tar, aNode("./"+at, '2', fields))
		case 6:
			to := name()
			if what = c.files[to]; to == at || what == nil || what.kind == '5' {
				continue
			}
			tar = join(tar, aLink(at, to))
		default:
			dir, base := path.Split(at)
			if kind == 7 && c.files.room(at+"/x") {
				c.opaque = append(c.opaque, at)
				tar = join(tar, aFile(at+"/.wh..wh..opq", ""))
				what = c.files.dir(at)
				break
			}
			c.whiteouts = append(c.whiteouts, at)
			tar = join(tar, aFile(dir+".wh."+base, ""))
			if dir == "" {
				continue
			}
			at = strings.TrimSuffix(dir, "/")
			what = c.files.dir(at)
		}
		c.files.put(at, what)
		if what.kind != '5' {
			// What was said in a directory of that name went with it.
			below := func(name string) bool { return strings.HasPrefix(name+"/", at+"/") }
			c.opaque = slices.DeleteFunc(c.opaque, below)
			c.whiteouts = slices.DeleteFunc(c.whiteouts, func(name string) bool { return below(path.Dir(name)) })
		}
	}
	return join(tar, tartest.End()), c
}

// entries describes a model as treecmp describes a mounted tree.
func (m model) entries() tree {
	all := tree{".": {Mode: unix.S_IFDIR | 0o755, Mtime: time.Unix(0, 0), Xattrs: map[string]string{}}}
	names := make(map[*thing][]string)
	for name, what := range m {
		e := &treecmp.Entry{Mode: unix.S_IFDIR | 0o755, Mtime: time.Unix(what.mtime, 0), Xattrs: map[string]string{}}
		all[name] = e
		switch what.kind {
		case '5':
			continue
		case '0':
			e.Mode, e.Size, e.Hash = unix.S_IFREG|0o755, int64(len(what.contents)), sha256.Sum256([]byte(what.contents))
		case '2':
			e.Mode, e.Size, e.Link = unix.S_IFLNK|0o777, int64(len(what.contents)), what.contents
		}
		names[what] = append(names[what], name)
	}
	for _, group := range names {
		setGroup(all, group)
	}
	return all
}

// TestRandomStacks compares random layers, mounted one above the other, with the model, and what Stats
// counts in their indexes with what changed in the mounted trees.
func TestRandomStacks(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			seen := model{}
			below := tree{}
			var layers []rootfs.Layer
			for range 1 + random.IntN(5) {
				tar, change := randomLayer(random)
				layers = append(layers, storeLayer(t, writeTemp(t, tar)))
				seen = change.over(seen)
				now := readTree(t, stackOf(t, rootfs.Erofs, layers))
				sameTree(t, fmt.Sprint(len(layers), " layers"), seen.entries(), now)
				own := readTree(t, mountLayer(t, rootfs.Erofs, layers[len(layers)-1]))
				if got, want := statsOf(t, layers), countChanges(below, now, own); got != want {
					t.Errorf("%d layers: Stats %+v, want %+v", len(layers), got, want)
				}
				below = now
			}
		})
	}
}

// statsOf counts the topmost layer's changes.
func statsOf(t *testing.T, layers []rootfs.Layer) layer.Counts {
	t.Helper()
	var images []*erofs.Image
	for _, l := range slices.Backward(layers) {
		index := openFile(t, filepath.Join(l.Dir, "index.erofs"))
		info, err := index.Stat()
		must(t, err)
		image, err := erofs.Open(index, info.Size())
		must(t, err)
		images = append(images, image)
	}
	counts, err := layer.Stats(images[0], images[1:])
	must(t, err)
	return counts
}

// countChanges counts by looking: at the tree below a layer, the tree with it, and its own.
func countChanges(below, now, own tree) (c layer.Counts) {
	isFile := func(e *treecmp.Entry) bool { return e != nil && e.Mode&unix.S_IFMT != unix.S_IFDIR }
	for name, e := range now {
		switch {
		case isFile(e) && !isFile(below[name]):
			c.Added++
		case isFile(e) && isFile(own[name]):
			c.Changed++
		}
	}
	for name, e := range below {
		if isFile(e) && !isFile(now[name]) {
			c.Deleted++
		}
	}
	for name, e := range own {
		if e.Mode&unix.S_IFMT == unix.S_IFREG && (len(e.Group) == 0 || e.Group[0] == name) {
			c.Bytes += e.Size
		}
	}
	return c
}
