package layer

import (
	"errors"
	"fmt"
	"io"

	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/holes"
)

// WriteIndex writes the EROFS index of the tree to w, which must be empty, and
// returns its size in bytes. tar is the tar the tree was scanned from; it is read
// only where a file's data is not aligned as EROFS needs it. The index points at
// where tar.Map says that contents lie: its extra devices are tar.Devices. The same
// tar with the same map gives the same bytes.
func (t *Tree) WriteIndex(w io.WriterAt, tar *holes.Tar) (int64, error) {
	devices := make([]erofs.Device, 0, len(tar.Devices))
	for _, f := range tar.Devices {
		info, err := f.Stat()
		if err != nil {
			return 0, fmt.Errorf("index of a layer: %w", err)
		}
		devices = append(devices, erofs.Device{Size: info.Size(), Data: f})
	}
	if err := t.place(tar.Map); err != nil {
		return 0, fmt.Errorf("index of a layer: %w", err)
	}
	size, err := erofs.Write(w, t.Root, devices, erofs.Options{})
	if err != nil {
		return 0, fmt.Errorf("index of a layer: %w", err)
	}
	return size, nil
}

// place makes the extents of all files point at where the map says that they lie, once.
func (t *Tree) place(m *holes.Map) error {
	switch {
	case t.placed == m:
		return nil
	case t.placed != nil:
		return errors.New("the tree was placed by another map")
	case m.Size != t.TarSize:
		return fmt.Errorf("%w: it is of a tar of %d bytes, this has %d", holes.ErrDamaged, m.Size, t.TarSize)
	}
	t.placed = m
	if !m.Whole() {
		placeBelow(t.Root, m, make(map[*erofs.Inode]bool))
	}
	return nil
}

func placeBelow(dir *erofs.Inode, m *holes.Map, done map[*erofs.Inode]bool) {
	for _, e := range dir.Entries {
		switch {
		case e.Inode.Mode&erofs.ModeType == erofs.ModeDir:
			placeBelow(e.Inode, m, done)
		case len(e.Inode.Extents) > 0 && !done[e.Inode]: // it may have several names
			done[e.Inode] = true
			e.Inode.Extents = placed(e.Inode.Extents, m)
		}
	}
}

// placed turns extents of the tar into extents of the map's devices.
func placed(extents []erofs.Extent, m *holes.Map) []erofs.Extent {
	all := extents[:0:0]
	for _, e := range extents {
		for piece := range m.Pieces(e.Physical, e.Length) {
			all = append(all, erofs.Extent{
				Logical: e.Logical + piece.Offset - e.Physical, Length: piece.Length,
				Device: uint16(tarDevice + piece.Device), Physical: piece.At,
			})
		}
	}
	return all
}
