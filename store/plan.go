package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// Sizes are what extracted layers take on the disk, by path. It takes long to count their files.
type Sizes map[string]sizeOf

type sizeOf struct {
	root  fs.FileInfo
	bytes int64
}

// tree gives what a directory takes whose contents do not change, unless it is another one by now.
func (s Sizes) tree(ctx context.Context, path string) (int64, error) {
	root, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	if known, found := s[path]; found && os.SameFile(known.root, root) {
		return known.bytes, nil
	}
	bytes, err := diskusage.Of(ctx, path)
	if err == nil {
		s[path] = sizeOf{root, bytes}
	}
	return bytes, err
}

// Measure prepares for Plan, which then holds its lock for a moment only. No lock is needed.
func (s *Store) Measure(ctx context.Context, drop Selection, mounts Mounts) (Sizes, error) {
	p := &plan{ctx: ctx, store: s, sizes: make(Sizes)}
	refs, err := s.liveWithout(drop)
	if err != nil {
		return nil, err
	}
	gone, err := s.unneeded(refs, mounts)
	if err != nil {
		return nil, err
	}
	for _, l := range gone.layers {
		if _, _, err := p.usage(l.dir); err != nil {
			return nil, err
		}
	}
	return p.sizes, nil
}

// Plan says what Sweep and CollectLeftovers would remove if the records in drop were gone, and how many bytes of the
// disk that gives back. The lock must be exclusive; as long as it is held, what Plan says stays true. sizes are what Measure
// gave, or nil.
func (s *Store) Plan(ctx context.Context, lock *Lock, drop Selection, mounts Mounts, sizes Sizes) ([]Loss, error) {
	if err := lock.check(true); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	if sizes == nil {
		sizes = make(Sizes)
	}
	p := &plan{ctx: ctx, store: s, sizes: sizes}
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
	sizes  Sizes
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
	all, rest, err := p.usage(l.remnant.dir)
	if err != nil {
		return err
	}
	loss := Loss{Object: o, Bytes: all, path: l.remnant.dir, had: all}
	if len(l.blocks) > 0 {
		freed, err := l.unlent()
		if err != nil {
			return err
		}
		loss.Lent, loss.id, loss.Bytes = true, l.remnant.id, rest+freed
	}
	if loss.Bytes > 0 { // else it has been reduced already
		p.losses = append(p.losses, loss)
	}
	return nil
}

// usage gives what a layer takes, or what is left of one; rest is without what would have to be kept for borrowers.
func (p *plan) usage(dir string) (all, rest int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0, err
	}
	if all, err = diskusage.Self(p.ctx, dir); err != nil {
		return 0, 0, err
	}
	for _, entry := range entries {
		measure := diskusage.Of
		if entry.IsDir() {
			measure = p.sizes.tree
		}
		bytes, err := measure(p.ctx, filepath.Join(dir, entry.Name()))
		if err != nil {
			return 0, 0, err
		}
		all += bytes
		if !isKeptOfRemnant(entry.Name()) {
			rest += bytes
		}
	}
	return all, rest, nil
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
