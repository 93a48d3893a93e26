package store

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/diskusage"
	"github.com/tarnfs/tarn/internal/sys"
)

// Loan is a stretch of a layer's own file that another layer borrows.
type Loan struct {
	Borrower  image.Digest
	At, Count uint32 // in blocks
}

// ID names what the layer keeps of its tar.
func (l Layer) ID() (holes.TarID, error) {
	id, err := tarID(l.DiffID)
	if err != nil {
		return id, err
	}
	_, id.Generation, err = l.peek()
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return id, err
}

// ID names what the remnant keeps of its layer's tar.
func (r Remnant) ID() holes.TarID { return r.id }

// Loans lists what is lent to the layers given, by the place in the lender's file.
func Loans(layers []Layer) (map[holes.TarID][]Loan, error) {
	loans := make(map[holes.TarID][]Loan)
	for _, l := range layers {
		err := addLoans(loans, l.DiffID, l.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // removed since it was listed
			return nil, err
		}
	}
	for _, list := range loans {
		slices.SortFunc(list, func(a, b Loan) int { return cmp.Compare(a.At, b.At) })
	}
	return loans, nil
}

func addLoans(loans map[holes.TarID][]Loan, borrower image.Digest, path string) error {
	dir, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	m, err := readHoles(dir)
	if err != nil || m == nil {
		return err
	}
	for _, r := range m.Ranges {
		if r.Device > 0 {
			id := m.Lenders[r.Device-1]
			loans[id] = append(loans[id], Loan{Borrower: borrower, At: r.At, Count: r.Count})
		}
	}
	return nil
}

// OwnUsage gives the bytes on the disk of a layer's own file.
func (l Layer) OwnUsage(ctx context.Context) (int64, error) { return ownUsage(ctx, l.dir) }

// OwnUsage gives the bytes on the disk of the file that is left of a layer.
func (r Remnant) OwnUsage(ctx context.Context) (int64, error) { return ownUsage(ctx, r.dir) }

func ownUsage(ctx context.Context, dir string) (int64, error) {
	for _, name := range []string{fileBlocks, fileTar} {
		bytes, err := diskusage.Of(ctx, filepath.Join(dir, name))
		if bytes > 0 || err != nil {
			return bytes, err
		}
	}
	return 0, nil
}

// unlent gives the bytes on the disk that shrink would give back of the file itself.
func (l *lent) unlent() (int64, error) {
	root, err := os.OpenRoot(l.remnant.dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	own, m, err := openOwn(root)
	if err != nil {
		return 0, err
	}
	defer own.Close()
	data, err := sys.DataRanges(own, m.OwnSize())
	if err != nil {
		return 0, err
	}
	block, err := sys.BlockSize(own)
	if err != nil {
		return 0, err
	}
	var freed int64
	for r := range l.unused(m.OwnSize()) {
		r = r.Within(block)
		for len(data) > 0 && data[0].Offset+data[0].Length <= r.Offset {
			data = data[1:]
		}
		for _, d := range data {
			if d.Offset >= r.Offset+r.Length {
				break
			}
			start, end := max(d.Offset, r.Offset), min(d.Offset+d.Length, r.Offset+r.Length)
			// The last block of a file is on the disk in full.
			freed += (end - start + block - 1) / block * block
		}
	}
	return freed, nil
}
