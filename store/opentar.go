package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
)

// OpenTar opens the layer's tar, as it arrived, and its index. Until it is closed, the layer and
// whatever it borrows stay as they are, even if the layer is removed. The error wraps ErrNotFound
// if the layer is not there any more.
func (l Layer) OpenTar() (*holes.Tar, error) {
	tar, err := l.openTar()
	if errors.Is(err, fs.ErrNotExist) && !l.store.HasLayer(l.DiffID) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", l.DiffID.Short(), err)
	}
	return tar, nil
}

func (l Layer) openTar() (_ *holes.Tar, err error) {
	dir, err := os.OpenRoot(l.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	index, err := dir.Open(fileIndex)
	if err != nil {
		return nil, err
	}
	var opened []*os.File
	defer func() {
		if err != nil {
			closeAll(append(opened, index))
		}
	}()
	if err := l.inPlace(dir); err != nil {
		return nil, err
	}
	own, m, err := openOwn(dir)
	if err != nil {
		return nil, err
	}
	opened = append(opened, own)
	for _, id := range m.Lenders {
		f, err := l.store.openLender(id)
		if err != nil {
			return nil, err
		}
		opened = append(opened, f)
	}
	return holes.NewTar(m, opened, index)
}

// inPlace makes sure that the directory that was opened is still the layer's. The index is open by
// then: if the layer is removed from now on, the sweep sees that, and leaves all as it is.
func (l Layer) inPlace(dir *os.Root) error {
	opened, err := dir.Stat(".")
	if err != nil {
		return err
	}
	named, err := os.Stat(l.dir)
	if err != nil {
		return err
	}
	if !os.SameFile(opened, named) || isCondemned(named) {
		return fs.ErrNotExist
	}
	return nil
}

// openOwn opens the file with what a layer, or what is left of one, keeps of its tar, and says how
// the rest is found.
func openOwn(dir *os.Root) (*os.File, *holes.Map, error) {
	m, err := readHoles(dir)
	if err != nil {
		return nil, nil, err
	}
	name := fileBlocks
	if m == nil {
		name = fileTar
	}
	f, err := dir.Open(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if m == nil && err == nil {
		m = &holes.Map{Size: info.Size()}
		err = m.Prepare()
	}
	if err == nil && info.Size() != m.OwnSize() {
		err = fmt.Errorf("%s: %w: it has %d bytes, should have %d", name, ErrDamaged, info.Size(), m.OwnSize())
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, m, nil
}

// readHoles reads the map of a layer; nil if it borrows nothing.
func readHoles(dir *os.Root) (*holes.Map, error) {
	f, err := dir.Open(fileHoles)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // most layers have none
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, holes.MaxEncoded+1))
	if err != nil {
		return nil, err
	}
	m, err := holes.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fileHoles, err)
	}
	return m, nil
}

// Holes says where the layer's tar lies.
func (l Layer) Holes() (*holes.Map, error) {
	dir, err := os.OpenRoot(l.dir)
	if err == nil {
		defer dir.Close()
		var f *os.File
		var m *holes.Map
		if f, m, err = openOwn(dir); err == nil {
			return m, f.Close()
		}
	}
	return nil, fmt.Errorf("layer %s: %w", l.DiffID.Short(), err)
}

// openLender opens what is there of a tar that is borrowed from: a layer's, or what is left of one
// that was removed, which may still lie in the same place. It can only move from the first place to the second.
func (s *Store) openLender(id holes.TarID) (*os.File, error) {
	name := hex.EncodeToString(id.DiffID[:])
	for _, path := range []string{s.path(dirLayers, name), s.remnantPath(id)} {
		f, err := openGeneration(path, id.Generation)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, fmt.Errorf("borrowed from layer %s: %w", image.SHA256+":"+name, ErrNotFound)
}

func openGeneration(path string, generation uint32) (*os.File, error) {
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// The rest of its map says what it borrows itself, which is nothing to those who borrow from it.
	_, have, err := peek(dir)
	name := fileBlocks
	if errors.Is(err, fs.ErrNotExist) {
		name, err = fileTar, nil
	}
	if err == nil && have != generation {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	return dir.Open(name)
}

// peek reads the beginning of the map of a layer, or of what is left of one.
func peek(dir *os.Root) (size int64, generation uint32, err error) {
	f, err := dir.Open(fileHoles)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	return holes.Peek(f)
}

func (s *Store) remnantPath(id holes.TarID) string {
	return s.path(dirRemnants, fmt.Sprintf("%x.%d", id.DiffID, id.Generation))
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // was only read
	}
}
