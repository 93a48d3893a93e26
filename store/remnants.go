package store

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sys"
)

// Remnant is what is left of a layer that was removed: all of it while somebody uses it, then what
// others borrow from it. If there was no room to rename it, it lies where it lay, condemned.
type Remnant struct {
	DiffID image.Digest
	id     holes.TarID
	dir    string
}

// Dir gives the remnant's directory.
func (r Remnant) Dir() string { return r.dir }

// name is how the remnant's directory is called among the others.
func (r Remnant) name() string { return fmt.Sprintf("%x.%d", r.id.DiffID, r.id.Generation) }

// Remnants lists what is left of removed layers.
func (s *Store) Remnants() ([]Remnant, error) {
	// First those that may move to where the others are.
	list, err := s.condemnedLayers()
	if err != nil {
		return nil, fmt.Errorf("list remnants: %w", err)
	}
	entries, err := os.ReadDir(s.path(dirRemnants))
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list remnants: %w", err)
	}
	for _, entry := range entries {
		name, number, _ := strings.Cut(entry.Name(), ".")
		r := Remnant{DiffID: image.Digest(image.SHA256 + ":" + name), dir: s.path(dirRemnants, entry.Name())}
		generation, err := strconv.ParseUint(number, 10, 32)
		if n, hexErr := hex.Decode(r.id.DiffID[:], []byte(name)); err == nil && hexErr == nil && n == len(r.id.DiffID) {
			r.id.Generation = uint32(generation)
			list = append(list, r)
		}
	}
	return list, nil
}

// condemnedLayers lists what is left of layers that could not be renamed.
func (s *Store) condemnedLayers() ([]Remnant, error) {
	entries, err := os.ReadDir(s.path(dirLayers))
	if err != nil {
		return nil, err
	}
	var list []Remnant
	for _, entry := range entries {
		l := Layer{DiffID: image.Digest(image.SHA256 + ":" + entry.Name()), dir: s.path(dirLayers, entry.Name()), store: s}
		if l.DiffID.Validate() != nil || !condemnedAt(l.dir) {
			continue
		}
		r, err := l.remnant()
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// remnant is what the layer is when it is removed, as long as it lies where it does.
func (l Layer) remnant() (Remnant, error) {
	id, err := tarID(l.DiffID)
	// If it cannot be told, it is most likely the first.
	if _, generation, peekErr := l.peek(); peekErr == nil {
		id.Generation = generation
	}
	return Remnant{DiffID: l.DiffID, id: id, dir: l.dir}, err
}

// retire takes a layer out of the way of all who look for layers. The rest is sweepRemnants's.
func (s *Store) retire(l Layer) error {
	r, err := l.remnant()
	if err != nil {
		return err
	}
	if err = s.putAside(r); lacksRoom(err) {
		return condemn(l.dir)
	}
	return err
}

// putAside moves a remnant to where the others are.
func (s *Store) putAside(r Remnant) error {
	if err := s.makeDir(dirRemnants); err != nil {
		return err
	}
	return os.Rename(r.dir, s.remnantPath(r.id))
}

// putAllAside moves those that there was no room for, if there is now.
func (s *Store) putAllAside() error {
	remnants, err := s.condemnedLayers()
	errs := []error{err}
	for _, r := range remnants {
		if err := s.putAside(r); !lacksRoom(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// makeWay moves what is left of a layer out of the place where the same layer is to come again. It may be that
// layer already, published by somebody else: the names lock lets one look at a time.
func (s *Store) makeWay(diffID image.Digest) error {
	l, err := s.layerPath(diffID)
	if err != nil || !condemnedAt(l) {
		return err
	}
	return s.withNames(func() error {
		if !condemnedAt(l) {
			return nil
		}
		r, err := Layer{DiffID: diffID, dir: l, store: s}.remnant()
		if err != nil {
			return err
		}
		return s.putAside(r)
	})
}

// sweepRemnants removes of removed layers what nobody needs any more. Layers that were retired do not
// come back after a power cut from here on, so that what they borrowed may go.
func (s *Store) sweepRemnants() error {
	remnants, err := s.Remnants()
	if err != nil || len(remnants) == 0 {
		return err
	}
	if err := errors.Join(atomicfile.SyncDir(s.path(dirRemnants)), atomicfile.SyncDir(s.path(dirLayers))); err != nil {
		return err
	}
	idle, borrowers, err := s.idleRemnants()
	errs := []error{err}
	layers, err := s.Layers()
	if err != nil || len(idle) == 0 {
		return errors.Join(append(errs, err)...)
	}
	for _, l := range layers {
		borrowers = append(borrowers, l.dir)
	}
	// If it is not known what somebody borrows, nothing may go.
	if err := addAllLent(idle, borrowers); err != nil {
		return errors.Join(append(errs, fmt.Errorf("what was removed stays on the disk: %w", err))...)
	}
	return errors.Join(append(errs, s.reduce(idle), s.putAllAside())...)
}

// idleRemnants gives the remnants that nobody has open, and the directories of the others, which still need what they
// borrow. One of which that cannot be told is among these, whatever the error is.
func (s *Store) idleRemnants() (idle map[holes.TarID]*lent, used []string, err error) {
	remnants, err := s.Remnants()
	errs := []error{err}
	idle = make(map[holes.TarID]*lent)
	for _, r := range remnants {
		inUse, err := r.inUse()
		errs = append(errs, err)
		if err != nil || inUse {
			used = append(used, r.dir)
		} else {
			idle[r.id] = &lent{remnant: r}
		}
	}
	return idle, used, errors.Join(errs...)
}

// inUse tells whether somebody mounts the layer, reads it, or is about to borrow from it.
func (r Remnant) inUse() (bool, error) {
	index, err := os.Open(filepath.Join(r.dir, fileIndex))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // of this only what others borrow is left
	}
	if err != nil {
		return false, err
	}
	defer index.Close()
	used, err := sys.OpenElsewhere(index)
	if errors.Is(err, sys.ErrNoLease) {
		// Nothing is borrowed on such file systems, and what is not borrowed can go: a file that is
		// open stays until it is closed.
		return false, nil
	}
	return used, err
}

// lent is a remnant with what others borrow from it.
type lent struct {
	remnant Remnant
	blocks  []holes.Range // Start and Count are places in its file
}

// addAllLent adds what the layers in these directories borrow.
func addAllLent(idle map[holes.TarID]*lent, borrowers []string) error {
	for _, dir := range borrowers {
		if err := addLent(idle, dir); err != nil {
			return err
		}
	}
	return nil
}

// addLent adds what the layer in dir borrows.
func addLent(idle map[holes.TarID]*lent, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	m, err := readHoles(root)
	if err != nil {
		return fmt.Errorf("layer %.12s: %w", filepath.Base(dir), err)
	}
	if m == nil {
		return nil
	}
	for _, r := range m.Ranges {
		if r.Device == 0 {
			continue
		}
		if lender := idle[m.Lenders[r.Device-1]]; lender != nil {
			lender.blocks = append(lender.blocks, holes.Range{Start: r.At, Count: r.Count})
		}
	}
	return nil
}

// reduce removes what nobody borrows from. What borrowed from others is gone for good before those
// are punched.
func (s *Store) reduce(idle map[holes.TarID]*lent) error {
	var errs []error
	for id, l := range idle {
		if len(l.blocks) > 0 {
			continue
		}
		delete(idle, id)
		if err := s.bury(l.remnant.dir); err != nil {
			errs = append(errs, err)
		}
	}
	if err := atomicfile.SyncDir(s.path(dirRemnants)); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, l := range idle {
		errs = append(errs, l.shrink())
	}
	return errors.Join(errs...)
}

// isKeptOfRemnant tells which files of a layer there still have to be for those who borrow from it.
func isKeptOfRemnant(name string) bool {
	return name == fileTar || name == fileBlocks || name == fileHoles
}

// shrink leaves of a remnant only what is borrowed.
func (l *lent) shrink() error {
	root, err := os.OpenRoot(l.remnant.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	own, m, err := openOwn(root)
	if err != nil {
		return fmt.Errorf("remnant of layer %s: %w", l.remnant.DiffID.Short(), err)
	}
	defer own.Close()
	entries, err := os.ReadDir(l.remnant.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if isKeptOfRemnant(entry.Name()) {
			continue
		}
		if err := root.RemoveAll(entry.Name()); err != nil {
			return err
		}
	}
	rw, err := root.OpenFile(filepath.Base(own.Name()), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer rw.Close()
	err = sys.PunchHoles(rw, l.unused(m.OwnSize()))
	if errors.Is(err, sys.ErrNoPunch) {
		return nil // it is all or nothing here
	}
	return err
}

// unused yields the stretches of the remnant's file that nobody borrows.
func (l *lent) unused(size int64) func(yield func(sys.Range) bool) {
	slices.SortFunc(l.blocks, func(a, b holes.Range) int { return cmp.Compare(a.Start, b.Start) })
	return func(yield func(sys.Range) bool) {
		end := int64(0)
		for _, b := range l.blocks {
			start := int64(b.Start) * holes.BlockSize
			if start > end && !yield(sys.Range{Offset: end, Length: start - end}) {
				return
			}
			end = max(end, start+int64(b.Count)*holes.BlockSize)
		}
		if size > end {
			yield(sys.Range{Offset: end, Length: size - end})
		}
	}
}
