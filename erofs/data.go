package erofs

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// Data returns the contents of a regular file, holes included. devices are the
// extra devices in the order of the device table.
func (n *Node) Data(devices []io.ReaderAt) (*io.SectionReader, error) {
	extents, err := n.Extents()
	if err != nil {
		return nil, err
	}
	if len(devices) != len(n.image.devices) {
		return nil, fmt.Errorf("erofs: %d devices given, the image has %d", len(devices), len(n.image.devices))
	}
	data := &fileData{extents: extents, size: n.Size, image: n.image, devices: devices}
	return io.NewSectionReader(data, 0, n.Size), nil
}

// fileData reads a file through its extents.
type fileData struct {
	extents []Extent
	size    int64
	image   *Image
	devices []io.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (f *fileData) ReadAt(p []byte, offset int64) (int, error) {
	short := int64(len(p)) > f.size-offset
	if short {
		p = p[:max(0, f.size-offset)]
	}
	next, _ := slices.BinarySearchFunc(f.extents, offset, func(e Extent, at int64) int {
		if e.Logical+e.Length <= at {
			return -1
		}
		return 1
	})
	done := 0
	for done < len(p) {
		n, err := f.piece(p[done:], offset+int64(done), &next)
		done += n
		if err != nil {
			return done, err
		}
	}
	if short {
		return done, io.EOF
	}
	return done, nil
}

// piece reads up to the end of an extent, or of the hole before it.
func (f *fileData) piece(p []byte, offset int64, next *int) (int, error) {
	hole := int64(len(p))
	if *next < len(f.extents) {
		hole = min(hole, f.extents[*next].Logical-offset)
	}
	if hole > 0 {
		clear(p[:hole])
		return int(hole), nil
	}
	e := f.extents[*next]
	*next++
	skip := offset - e.Logical
	p = p[:min(int64(len(p)), e.Length-skip)]
	if e.Device == 0 {
		if err := f.image.readAt(p, e.Physical+skip); err != nil {
			return 0, fmt.Errorf("erofs: %w", err)
		}
		return len(p), nil
	}
	n, err := f.devices[e.Device-1].ReadAt(p, e.Physical+skip)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, fmt.Errorf("erofs: device %d: %w", e.Device, err)
}
