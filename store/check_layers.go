package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
)

// errStranger says that a file is nothing of tarn's.
var errStranger = errors.New("nothing of tarn's is called so there")

func (c *Census) checkLayers() error {
	entries, err := c.list(dirLayers)
	if err != nil {
		return err
	}
	for _, entry := range c.store.withoutCondemned(dirLayers, entries) { // the others are remnants
		path := c.store.path(dirLayers, entry.Name())
		l, err := c.store.Layer(image.Digest(image.SHA256 + ":" + entry.Name()))
		if err != nil {
			c.fault(Object{KindFile, c.relative(path)}, path, errStranger)
			continue
		}
		o := layerObject(l.DiffID)
		_, needed := c.users[o]
		if !needed {
			if needed, err = c.mounts.inUse(l); err != nil {
				return err
			}
		}
		if !needed {
			c.leftover(o, path)
		}
		c.Layers = append(c.Layers, l)
		if err := c.checkLayer(o, l); err != nil {
			c.fault(o, path, err)
		}
	}
	return nil
}

// checkLayer proves that all of a layer's tar lies somewhere.
func (c *Census) checkLayer(o Object, l Layer) error {
	dir, err := os.OpenRoot(l.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	m, ok, err := c.checkOwn(o, dir, l.dir)
	if err != nil || !ok {
		return err
	}
	for i, id := range m.Lenders {
		if err := c.checkLender(m, i, id); err != nil {
			c.partFault(o, filepath.Join(l.dir, fileBlocks), err)
		}
	}
	if _, err := dir.Lstat(fileIndex); err != nil {
		c.partFault(o, l.IndexPath(), plain(err))
	}
	if _, err := l.Sums(); err != nil {
		c.Faults = append(c.Faults, Fault{Object: o, Part: fileSums, Path: c.relative(filepath.Join(l.dir, fileSums)), Err: err, Harmless: true})
	}
	return nil
}

// checkOwn looks at the files of a layer, or of what is left of one. It gives its map unless that, or the
// file that it is about, is at fault.
func (c *Census) checkOwn(o Object, dir *os.Root, path string) (m *holes.Map, ok bool, err error) {
	names, err := os.ReadDir(path)
	if err != nil {
		return nil, false, err
	}
	for _, name := range names {
		switch name.Name() {
		case fileTar, fileBlocks, fileHoles, fileIndex, fileContents, fileSums, "root":
		default:
			c.partFault(o, filepath.Join(path, name.Name()), errStranger)
		}
	}
	m, err = readHoles(dir)
	if err != nil {
		c.partFault(o, filepath.Join(path, fileHoles), err)
		return nil, false, nil
	}
	own, other := fileBlocks, fileTar
	if m == nil {
		own, other = fileTar, fileBlocks
	}
	if _, err := dir.Lstat(other); err == nil {
		// Which of the two is right, the map decides; that may be what is missing.
		if m == nil {
			c.partFault(o, filepath.Join(path, fileHoles), fmt.Errorf("%w, but there is %s", fs.ErrNotExist, other))
		} else {
			c.partFault(o, filepath.Join(path, other), errStranger)
		}
		return nil, false, nil
	}
	f, m, err := openOwn(dir)
	if err != nil {
		c.partFault(o, filepath.Join(path, own), plain(err))
		return nil, false, nil
	}
	return m, true, f.Close()
}

// plain leaves out the path, which the fault has already.
func plain(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// checkLender proves that what is borrowed from one lender is there: that no range lies outside of its
// file, or in a hole of it, from where it would have to be looked for elsewhere.
func (c *Census) checkLender(m *holes.Map, i int, id holes.TarID) error {
	name := fmt.Sprintf("%x", id.DiffID)
	for _, path := range []string{c.store.path(dirLayers, name), c.store.remnantPath(id)} {
		own, err := openGeneration(path, id.Generation)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("borrowed from layer %.12s: %w", name, err)
		}
		own.Close()
		// A map that cannot be read is at fault with the lender: who borrows does not need it.
		lender, err := ownMap(path)
		for _, r := range m.Ranges {
			if err == nil && int(r.Device) == i+1 && !lender.Holds(r.At, r.Count) {
				return fmt.Errorf("%w: blocks from %d on are borrowed from layer %.12s, which does not have them", ErrDamaged, r.Start, name)
			}
		}
		return nil
	}
	return fmt.Errorf("%w: borrowed from layer %.12s (%d), which is not there", ErrDamaged, name, id.Generation)
}

func ownMap(path string) (*holes.Map, error) {
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, m, err := openOwn(dir)
	if err != nil {
		return nil, err
	}
	return m, f.Close()
}

func (c *Census) checkRemnants() error {
	entries, err := c.list(dirRemnants)
	if err != nil {
		return err
	}
	known := make(map[string]bool)
	if c.Remnants, err = c.store.Remnants(); err != nil {
		return err
	}
	borrowed := c.lenders()
	for _, r := range c.Remnants {
		known[filepath.Base(r.dir)] = true
		o := Object{KindRemnant, r.name()}
		if !borrowed[r.id] {
			if used, err := r.inUse(); err == nil && !used {
				c.leftover(o, r.dir)
			}
			continue // whether it is sound does not matter
		}
		dir, err := os.OpenRoot(r.dir)
		if err != nil {
			c.fault(o, r.dir, err)
			continue
		}
		m, ok, err := c.checkOwn(o, dir, r.dir)
		if err = errors.Join(err, dir.Close()); err != nil {
			return err
		}
		if ok && m.Generation != r.id.Generation {
			c.partFault(o, filepath.Join(r.dir, fileHoles), fmt.Errorf("%w: it is of generation %d", ErrDamaged, m.Generation))
		}
	}
	for _, entry := range entries {
		if !known[entry.Name()] {
			path := c.store.path(dirRemnants, entry.Name())
			c.fault(Object{KindFile, c.relative(path)}, path, errStranger)
		}
	}
	return nil
}

// lenders gives the tars that somebody borrows from: layers, and remnants that are in use, as for the sweep.
func (c *Census) lenders() map[holes.TarID]bool {
	borrowed := make(map[holes.TarID]bool)
	dirs := []string{}
	for _, l := range c.Layers {
		dirs = append(dirs, l.dir)
	}
	for _, r := range c.Remnants {
		if used, err := r.inUse(); err != nil || used {
			dirs = append(dirs, r.dir)
		}
	}
	for _, path := range dirs {
		dir, err := os.OpenRoot(path)
		if err != nil {
			continue
		}
		if m, err := readHoles(dir); err == nil && m != nil {
			for _, id := range m.Lenders {
				borrowed[id] = true
			}
		}
		_ = dir.Close() // only read
	}
	return borrowed
}

func (c *Census) checkInits() error {
	entries, err := c.list(dirInit)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := c.store.path(dirInit, entry.Name())
		o := Object{KindInit, entry.Name()}
		switch {
		case !entry.IsDir() || strings.Trim(entry.Name(), "0123456789abcdef") != "":
			c.fault(Object{KindFile, c.relative(path)}, path, errStranger)
		case c.users[o] == nil, condemnedAt(path):
			c.leftover(o, path)
		}
	}
	return nil
}
