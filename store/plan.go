package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/diskusage"
)

// Loss is what the disk gets back of an object.
type Loss struct {
	Object
	Bytes int64
	Lent  bool // part of it stays, since others borrow it
	path  string
	had   int64 // bytes on the disk before
	id    holes.TarID
}

// Plan says what a sweep would remove if the records in drop were gone, and how many bytes of the disk that
// gives back. The lock must be exclusive; as long as it is held, what Plan says stays true, but for
// layers that somebody has open: these go when they are closed.
func (s *Store) Plan(ctx context.Context, lock *Lock, drop Selection) ([]Loss, error) {
	if err := lock.check(true); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	p := &plan{ctx: ctx, store: s}
	refs, err := s.liveWithout(drop)
	if err == nil {
		err = errors.Join(p.records(drop), p.layers(refs), p.recipes(refs), p.blobs(refs), p.inits(refs), p.leftovers())
	}
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return p.losses, nil
}

type plan struct {
	ctx    context.Context //nolint:containedctx // lives exactly as long as the one call
	store  *Store
	losses []Loss
}

// add counts an object that goes in full.
func (p *plan) add(o Object, path string) error {
	bytes, err := diskusage.Of(p.ctx, path)
	p.losses = append(p.losses, Loss{Object: o, Bytes: bytes, path: path, had: bytes})
	return err
}

func (p *plan) records(drop Selection) error {
	var errs []error
	for _, img := range drop.Images {
		errs = append(errs, p.add(Object{KindImage, img.label()}, p.store.imagePath(img)))
	}
	for _, e := range drop.Entries {
		errs = append(errs, p.add(Object{KindEntry, e.Repository + "@" + string(e.Manifest)}, p.store.entryPath(e)))
	}
	return errors.Join(errs...)
}

// recipes counts those of layers that go. What cannot be read, a sweep takes, too.
func (p *plan) recipes(refs *live) error {
	entries, err := os.ReadDir(p.store.path(dirRecipes))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		path := p.store.path(dirRecipes, entry.Name())
		if r, err := readRecipe(path); atomicfile.IsTemp(entry.Name()) || err == nil && refs.layers[r.DiffID] {
			continue
		}
		if err := p.add(Object{KindRecipe, entry.Name()}, path); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) layers(refs *live) error {
	all, err := p.store.Layers()
	if err != nil {
		return err
	}
	remnants, err := p.store.Remnants()
	if err != nil {
		return err
	}
	remnants = slices.DeleteFunc(remnants, func(r Remnant) bool {
		used, err := r.inUse()
		if err != nil || used {
			all = append(all, Layer{DiffID: r.DiffID, dir: r.dir, store: p.store}) // it borrows, still
		}
		return err != nil || used
	})
	var gone []Layer
	kept := slices.DeleteFunc(all, func(l Layer) bool {
		isGone := filepath.Dir(l.dir) == p.store.path(dirLayers) && !refs.layers[l.DiffID]
		if isGone {
			gone = append(gone, l)
		}
		return isGone
	})
	loans, err := Loans(kept)
	if err != nil {
		return err
	}
	for _, l := range gone {
		id, err := l.ID()
		if err == nil {
			err = p.lose(layerObject(l.DiffID), l.dir, id, loans[id])
		}
		if err != nil {
			return err
		}
	}
	for _, r := range remnants {
		if err := p.lose(Object{KindRemnant, filepath.Base(r.dir)}, r.dir, r.id, loans[r.id]); err != nil {
			return err
		}
	}
	return nil
}

// lose counts what goes of a layer, or of what is left of one: all but what it lends.
func (p *plan) lose(o Object, dir string, id holes.TarID, loans []Loan) error {
	if err := p.add(o, dir); err != nil || len(loans) == 0 {
		return err
	}
	loss := &p.losses[len(p.losses)-1]
	loss.Lent, loss.id, loss.Bytes = true, id, 0
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		switch entry.Name() {
		case fileTar, fileBlocks, fileHoles:
			continue
		}
		bytes, err := diskusage.Of(p.ctx, filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		loss.Bytes += bytes
	}
	freed, err := unlent(dir, loans)
	if err != nil {
		return err
	}
	if loss.Bytes += freed; loss.Bytes == 0 {
		p.losses = p.losses[:len(p.losses)-1] // it has been reduced already
	}
	return nil
}

func (p *plan) blobs(refs *live) error {
	blobs, err := p.store.blobs()
	if err != nil {
		return err
	}
	for _, d := range blobs {
		if refs.blobs[d] {
			continue
		}
		path, err := p.store.blobPath(d)
		if err == nil {
			err = p.add(blobObject(d), path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) inits(refs *live) error {
	entries, err := os.ReadDir(p.store.path(dirInit))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if refs.chains[entry.Name()] {
			continue
		}
		if err := p.add(Object{KindInit, entry.Name()}, p.store.path(dirInit, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// leftovers counts what dead processes have not finished.
func (p *plan) leftovers() error {
	for _, dir := range unfinishedIn() {
		entries, err := os.ReadDir(p.store.path(dir))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, entry := range entries {
			path := p.store.path(dir, entry.Name())
			if !atomicfile.IsTemp(entry.Name()) {
				continue
			}
			abandoned, err := isAbandoned(path)
			if err == nil && abandoned {
				err = p.add(Object{KindFile, filepath.Join(dir, entry.Name())}, path)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Happened gives the losses with the bytes that the disk really has back, after the sweep that they were
// planned for, and CollectLeftovers.
func (s *Store) Happened(ctx context.Context, losses []Loss) ([]Loss, error) {
	var real []Loss
	for _, loss := range losses {
		left, err := diskusage.Of(ctx, loss.path)
		if err == nil && left == 0 && loss.Lent {
			left, err = diskusage.Of(ctx, s.remnantPath(loss.id))
		}
		if err == nil && left == 0 && loss.Kind == KindLayer && !loss.Lent {
			left, err = s.openRemnant(ctx, loss)
		}
		if err != nil {
			return nil, err
		}
		if loss.Bytes = loss.had - left; loss.Bytes > 0 {
			real = append(real, loss)
		}
	}
	return real, nil
}

// openRemnant gives what there still is of a layer that somebody has open.
func (s *Store) openRemnant(ctx context.Context, loss Loss) (int64, error) {
	remnants, err := s.Remnants()
	if err != nil {
		return 0, err
	}
	var bytes int64
	for _, r := range remnants {
		if r.DiffID != image.Digest(loss.ID) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(r.dir, fileIndex)); err != nil {
			continue
		}
		n, err := diskusage.Of(ctx, r.dir)
		if err != nil {
			return 0, err
		}
		bytes += n
	}
	return bytes, nil
}
