package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

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

// Plan says what Sweep and CollectLeftovers would remove if the records in drop were gone, and how many bytes of the
// disk that gives back. The lock must be exclusive; as long as it is held, what Plan says stays true.
func (s *Store) Plan(ctx context.Context, lock *Lock, drop Selection, mounts Mounts) ([]Loss, error) {
	if err := lock.check(true); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	p := &plan{ctx: ctx, store: s}
	refs, err := s.liveWithout(drop)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	gone, err := s.unneeded(refs, mounts)
	if err == nil {
		drop.Entries = slices.Concat(drop.Entries, gone.entries)
		err = errors.Join(p.records(drop), p.layers(gone), p.recipes(gone), p.blobs(gone), p.inits(gone), p.leftovers())
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

// recipes counts those of layers that go.
func (p *plan) recipes(gone *unneeded) error {
	paths, err := p.store.uselessRecipes(func(diffID image.Digest) bool {
		return slices.ContainsFunc(gone.kept, func(l Layer) bool { return l.DiffID == diffID })
	})
	for _, path := range paths {
		err = errors.Join(err, p.add(Object{KindRecipe, filepath.Base(path)}, path))
	}
	return err
}

// layers counts the layers that go, and what is left of such as went before.
func (p *plan) layers(gone *unneeded) error {
	idle, borrowers, err := p.store.idleRemnants()
	if err != nil {
		return err
	}
	objects := make(map[holes.TarID]Object)
	for id, l := range idle {
		objects[id] = Object{KindRemnant, l.remnant.name()}
	}
	for _, l := range gone.layers {
		id, err := l.ID()
		if err != nil {
			return err
		}
		objects[id] = layerObject(l.DiffID)
		idle[id] = &lent{remnant: Remnant{DiffID: l.DiffID, id: id, dir: l.dir}}
	}
	for _, l := range gone.kept {
		borrowers = append(borrowers, l.dir)
	}
	if err := addAllLent(idle, borrowers); err != nil {
		return err
	}
	inOrder := func(a, b holes.TarID) int {
		return cmp.Or(cmp.Compare(objects[a].Kind, objects[b].Kind), cmp.Compare(objects[a].ID, objects[b].ID))
	}
	for _, id := range slices.SortedFunc(maps.Keys(objects), inOrder) {
		if err := p.lose(objects[id], idle[id]); err != nil {
			return err
		}
	}
	return nil
}

// lose counts what goes of a layer, or of what is left of one: all but what it lends.
func (p *plan) lose(o Object, l *lent) error {
	dir := l.remnant.dir
	if err := p.add(o, dir); err != nil || len(l.blocks) == 0 {
		return err
	}
	loss := &p.losses[len(p.losses)-1]
	loss.Lent, loss.id, loss.Bytes = true, l.remnant.id, 0
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if isKeptOfRemnant(entry.Name()) {
			continue
		}
		bytes, err := diskusage.Of(p.ctx, filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		loss.Bytes += bytes
	}
	freed, err := l.unlent()
	if err != nil {
		return err
	}
	if loss.Bytes += freed; loss.Bytes == 0 {
		p.losses = p.losses[:len(p.losses)-1] // it has been reduced already
	}
	return nil
}

func (p *plan) blobs(gone *unneeded) error {
	for _, d := range gone.blobs {
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

func (p *plan) inits(gone *unneeded) error {
	for _, name := range gone.inits {
		if err := p.add(Object{KindInit, name}, p.store.path(dirInit, name)); err != nil {
			return err
		}
	}
	return nil
}

// leftovers counts what dead processes have not finished, or not removed in full, and containers that were never
// written.
func (p *plan) leftovers() error {
	condemned, err := p.store.condemned()
	for _, path := range condemned {
		err = errors.Join(err, p.add(Object{KindFile, strings.TrimPrefix(path, p.store.root+"/")}, path))
	}
	if err != nil {
		return err
	}
	blank, err := p.store.blankContainers()
	for _, dir := range blank {
		err = errors.Join(err, p.add(Object{KindContainer, filepath.Base(dir)}, dir))
	}
	if err != nil {
		return err
	}
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
