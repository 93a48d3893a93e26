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
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sys"
)

// OpenDamaged opens a layer's tar and index to be mended, that is, to be written to where they are wrong:
// they may be mounted, and files that others borrow from must stay where they are. A file that is
// missing is made, and one of another length gets its own; what it then has is for the caller to
// find out. While it is open nobody else mends the layer. The error wraps ErrDamaged if it is not known
// where the layer's bytes were, so that it can only be replaced.
func (l Layer) OpenDamaged() (_ *holes.Tar, err error) {
	dir, err := os.OpenRoot(l.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var opened []*os.File
	defer func() {
		if err != nil {
			closeAll(opened)
			err = fmt.Errorf("layer %s: %w", l.DiffID.Short(), err)
		}
	}()
	index, err := dir.OpenFile(fileIndex, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	opened = append(opened, index)
	if err := sys.WaitFlock(index, true); err != nil {
		return nil, err
	}
	m, err := readHoles(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	own, m, err := l.openOwnDamaged(dir, m)
	if err != nil {
		return nil, err
	}
	opened = append(opened, own)
	for _, id := range m.Lenders {
		lender, err := l.store.openLender(id)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		path := lender.Name()
		lender.Close()
		if lender, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			return nil, err
		}
		opened = append(opened, lender)
	}
	return holes.NewTar(m, opened[1:], index)
}

// openOwnDamaged opens the layer's own file, with the length that it must have, and makes up the map of one
// that is the tar.
func (l Layer) openOwnDamaged(dir *os.Root, m *holes.Map) (*os.File, *holes.Map, error) {
	name := fileBlocks
	if m == nil {
		name = fileTar
		if _, err := dir.Lstat(fileBlocks); err == nil {
			return nil, nil, fmt.Errorf("%w: it has no map", ErrDamaged)
		}
		m = new(holes.Map)
		switch sums, err := l.Sums(); {
		case err == nil && sums != nil:
			m.Size = sums.Size
		default:
			info, err := dir.Lstat(name)
			if err != nil {
				return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			m.Size = info.Size()
		}
		if err := m.Prepare(); err != nil {
			return nil, nil, err
		}
	}
	own, err := openSized(dir, name, m.OwnSize())
	return own, m, err
}

// openSized opens a file for writing that has a certain length.
func openSized(dir *os.Root, name string, size int64) (*os.File, error) {
	f, err := dir.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != size {
		err = f.Truncate(size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// MendRemnant gives what is left of a layer the length that it must have, or, if it is not known any more what
// its layer looked like, a map that says no more than its generation, which is all that is needed.
func (s *Store) MendRemnant(name string) error {
	diffID, number, _ := strings.Cut(name, ".")
	remnants, err := s.Remnants()
	if err != nil {
		return err
	}
	for _, r := range remnants {
		if r.name() == name {
			return r.mend()
		}
	}
	return fmt.Errorf("remnant %.12s.%s: %w", diffID, number, ErrNotFound)
}

func (r Remnant) mend() error {
	dir, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	m, err := readHoles(dir)
	if err == nil && m != nil && m.Generation == r.id.Generation {
		own, err := openSized(dir, fileBlocks, m.OwnSize())
		if err != nil {
			return err
		}
		return errors.Join(own.Sync(), own.Close())
	}
	info, err := dir.Lstat(fileBlocks)
	if err != nil {
		return fmt.Errorf("%w: how long it was is not known any more", ErrNoSource)
	}
	plain := holes.Map{Size: info.Size(), Generation: r.id.Generation}
	return atomicfile.Write(filepath.Join(r.dir, fileHoles), plain.Encode(), 0o600)
}

// Replace puts the staged layer in the place of the one that is there, or is missing. What others borrow from
// that one is kept, as if it had been removed. The lock must be exclusive.
func (ls *LayerStage) Replace(lock *Lock, diffID image.Digest) error {
	err := lock.check(true)
	if err == nil {
		err = ls.replace(lock, diffID)
	}
	if err != nil {
		return fmt.Errorf("replace layer %s: %w", diffID.Short(), err)
	}
	return ls.Abort()
}

func (ls *LayerStage) replace(lock *Lock, diffID image.Digest) error {
	s := ls.store
	if !s.HasLayer(diffID) {
		return ls.Publish(lock, diffID)
	}
	target, err := s.layerPath(diffID)
	if err != nil {
		return err
	}
	old, err := s.damagedID(Layer{DiffID: diffID, dir: target, store: s})
	if err != nil {
		return err
	}
	id := old
	id.Generation = 0
	if err := ls.setGeneration(id, old.Generation); err != nil {
		return err
	}
	if err := errors.Join(ls.Sync(), ls.stage.dir.Sync(), s.makeDir(dirRemnants)); err != nil {
		return err
	}
	// First the new one lies where the old one will, which is where nobody looks for it. Then they change
	// places, at once.
	aside := s.remnantPath(old)
	if err := os.Rename(ls.stage.Path(), aside); err != nil {
		return err
	}
	err = errors.Join(ls.stage.dir.Close(), atomicfile.SyncDir(s.path(dirRemnants)))
	ls.stage.dir = nil
	if err == nil {
		err = sys.Exchange(target, aside)
	}
	if err == nil {
		err = errors.Join(atomicfile.SyncDir(s.path(dirLayers)), atomicfile.SyncDir(s.path(dirRemnants)))
	}
	if err != nil {
		return err
	}
	if err := (Remnant{DiffID: diffID, id: old, dir: aside}).mend(); err != nil && !errors.Is(err, ErrNoSource) {
		return err
	}
	return s.sweepRemnants()
}

// damagedID finds out of which generation a layer is whose map may say nothing: then those who borrow from it
// do.
func (s *Store) damagedID(l Layer) (holes.TarID, error) {
	id, err := tarID(l.DiffID)
	if err != nil {
		return id, err
	}
	if _, err := os.Lstat(filepath.Join(l.dir, fileTar)); err == nil {
		return id, nil // of the first
	}
	if _, generation, err := l.peek(); err == nil {
		if m, err := l.Holes(); err == nil {
			id.Generation = m.Generation
			return id, nil
		}
		id.Generation = generation
	}
	layers, err := s.Layers()
	if err != nil {
		return id, err
	}
	for _, borrower := range layers {
		dir, err := os.OpenRoot(borrower.dir)
		if err != nil {
			continue
		}
		m, err := readHoles(dir)
		_ = dir.Close() // only read
		if err != nil || m == nil {
			continue
		}
		for _, lender := range m.Lenders {
			if _, err := os.Lstat(s.remnantPath(lender)); lender.DiffID == id.DiffID && errors.Is(err, fs.ErrNotExist) {
				return lender, nil
			}
		}
	}
	if _, err := os.Lstat(s.remnantPath(id)); err == nil {
		id.Generation = s.freeGeneration(id)
	}
	return id, nil
}

func (s *Store) freeGeneration(id holes.TarID) uint32 {
	for {
		if _, err := os.Lstat(s.remnantPath(id)); errors.Is(err, fs.ErrNotExist) {
			return id.Generation
		}
		id.Generation++
	}
}

// ReplaceSums gives a layer the checksums of its tar.
func (l Layer) ReplaceSums(sums *Sums) error {
	if err := l.replaceSmall(fileSums, sums.Encode()); err != nil {
		return fmt.Errorf("layer %s: %s: %w", l.DiffID.Short(), fileSums, err)
	}
	return nil
}
