package holes

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Tar is a layer's tar, open. It reads as the bytes that arrived, wherever they lie.
//
// As long as it is open, nothing that it needs is taken away, whatever is removed from the store:
// its Index is open, which is what a sweep looks at.
type Tar struct {
	*io.SectionReader
	Map *Map
	// Devices are the files that the tar is made of, the layer's own first, then those of
	// Map.Lenders: the index's extra devices, in order. None of them is a tar: they are for the
	// kernel, to mount or to copy from.
	Devices []*os.File
	Index   *os.File // nil where there is none yet
}

// NewTar joins a map and its devices. Closing the Tar closes devices and index.
func NewTar(m *Map, devices []*os.File, index *os.File) (*Tar, error) {
	if len(devices) != 1+len(m.Lenders) {
		return nil, fmt.Errorf("%w: it has %d lenders, given are %d", ErrDamaged, len(m.Lenders), len(devices)-1)
	}
	readers := make([]io.ReaderAt, len(devices))
	for i, device := range devices {
		readers[i] = device
	}
	return &Tar{SectionReader: m.Reader(readers), Map: m, Devices: devices, Index: index}, nil
}

// Plain gives a tar that lies in a file as it is. Closing the Tar closes the file.
func Plain(f *os.File) (*Tar, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m := &Map{Size: info.Size()}
	if err := m.Prepare(); err != nil {
		return nil, err
	}
	return NewTar(m, []*os.File{f}, nil)
}

// OpenPlain opens a tar that lies in a file as it is, and its index.
func OpenPlain(tarPath, indexPath string) (*Tar, error) {
	f, err := os.Open(tarPath)
	if err != nil {
		return nil, err
	}
	t, err := Plain(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if t.Index, err = os.Open(indexPath); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Close closes all files.
func (t *Tar) Close() error {
	errs := make([]error, 0, len(t.Devices)+1)
	for _, f := range t.Devices {
		errs = append(errs, f.Close())
	}
	if t.Index != nil {
		errs = append(errs, t.Index.Close())
	}
	return errors.Join(errs...)
}

// Reader reads a tar through its map; devices are as Tar.Devices.
func (m *Map) Reader(devices []io.ReaderAt) *io.SectionReader {
	return io.NewSectionReader(&reader{m: m, devices: devices}, 0, m.Size)
}

type reader struct {
	m       *Map
	devices []io.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, offset int64) (int, error) {
	done := 0
	for piece := range r.m.Pieces(offset, int64(len(p))) {
		n, err := r.devices[piece.Device].ReadAt(p[done:done+int(piece.Length)], piece.At)
		done += n
		if n < int(piece.Length) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return done, fmt.Errorf("tar at offset %d, %d of its file %d: %w", piece.Offset, piece.At, piece.Device, err)
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}
