package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// ErrImageInUse is wrapped when an image cannot be removed because something needs it.
var ErrImageInUse = errors.New("image is in use")

// Removed says what a removal took away, in Docker's order.
type Removed struct {
	Untagged []string       // familiar names
	Deleted  []image.Digest // image IDs, then diffIDs of layers
}

// RemoveImageOptions says how to remove images.
type RemoveImageOptions struct {
	Force   bool // all names that an ID has, and those of an image in use
	NoPrune bool // leave images without a name that it was made from
}

// RemoveImage takes the name ref from its image. With its last name the image goes, with the images
// without a name that only it was made from, and the layers that no other image or container needs;
// so it does if ref is its ID. An image with several names goes by its ID only with Force. An image
// that a container uses stays: with Force it loses its names and is kept, without one, until the
// container is removed. What was pushed here and is no image goes by its name, too.
func (e *Engine) RemoveImage(ctx context.Context, ref string, opts RemoveImageOptions) (*Removed, error) {
	lock, err := e.Store.Exclusive(ctx)
	if err != nil {
		return nil, err
	}
	removed, err := e.removeImage(lock, ref, opts)
	// What was removed need not be gone from the disk before others go on.
	return removed, errors.Join(err, lock.Unlock(), e.Store.CollectLeftovers())
}

func (e *Engine) removeImage(lock *store.Lock, ref string, opts RemoveImageOptions) (*Removed, error) {
	img, err := e.Image(ref)
	if errors.Is(err, ErrNoImage) {
		if removed, err := e.removeHeld(lock, ref); removed != nil || err != nil {
			return removed, err
		}
	}
	if err != nil {
		return nil, err
	}
	names, err := e.namesOf(img.ID)
	if err != nil {
		return nil, err
	}
	if byName := isNameOf(ref, img.Name); byName && len(names) > 1 {
		removed := &Removed{Untagged: []string{familiar(img.Name)}}
		return removed, e.untag(lock, img.Image)
	} else if !byName && len(names) > 1 && !opts.Force {
		return nil, fmt.Errorf("%w: %s has %d names (remove them one by one, or all with -f)", ErrImageInUse, ref, len(names))
	}
	user, err := e.userOf(img.ID)
	if err != nil {
		return nil, err
	}
	if user != nil && !opts.Force {
		return nil, fmt.Errorf("%w: %s by container %s (remove it with 'tarn rm %s', or untag the image with -f)",
			ErrImageInUse, ref, user.Name, user.Name)
	}
	removed, err := e.removeRecords(lock, img, user != nil)
	if err != nil || user != nil {
		return removed, err
	}
	removed.Deleted = append(removed.Deleted, img.ID)
	if !opts.NoPrune {
		err = e.removeSteps(lock, img.Config, removed)
	}
	if err != nil {
		return removed, err
	}
	return removed, e.sweep(lock, img.Config.RootFS.DiffIDs, removed)
}

// sweep removes what nothing needs any more, and tells which of an image's layers went.
func (e *Engine) sweep(lock *store.Lock, layers []image.Digest, removed *Removed) error {
	swept, err := e.Store.Sweep(lock, e.mounts())
	// The top layer is deleted first.
	for _, diffID := range slices.Backward(layers) {
		if slices.Contains(swept.Layers, diffID) && !slices.Contains(removed.Deleted, diffID) {
			removed.Deleted = append(removed.Deleted, diffID)
		}
	}
	return err
}

// untag removes a name, and what a registry's clients could pull of it by digest.
func (e *Engine) untag(lock *store.Lock, img store.Image) error {
	if err := e.Store.RemoveImage(lock, img); err != nil {
		return err
	}
	return e.forget(lock, img)
}

// isNameOf reports whether ref was given as a name, and not as an ID.
func isNameOf(ref, name string) bool {
	parsed, err := image.ParseReference(ref)
	if err != nil || name == "" {
		return false
	}
	have, err := image.ParseReference(name)
	return err == nil && have.Repository() == parsed.Repository()
}

func (e *Engine) userOf(id image.Digest) (*store.Container, error) {
	containers, err := e.Store.Containers()
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		if c.Damaged != nil {
			return nil, fmt.Errorf("%w (remove it with 'tarn rm %s')", c.Damaged, c.Name)
		}
		if c.ImageID == id {
			return c, nil
		}
	}
	return nil, nil
}

// removeSteps removes the images that were only steps on the way to one that is gone.
func (e *Engine) removeSteps(lock *store.Lock, config *image.Config, removed *Removed) error {
	rows, err := e.imageRows()
	if err != nil {
		return err
	}
	// The latest step first: the earlier ones are steps to that one.
	slices.SortStableFunc(rows, func(a, b ImageRow) int { return len(b.config.History) - len(a.config.History) })
	for i := 0; i < len(rows); {
		step := rows[i]
		if !step.Dangling() || !continues(config, step.config) || step.isStepOfAny(rows) {
			i++
			continue
		}
		user, err := e.userOf(step.ID)
		if err != nil || user != nil {
			return err // what it was made from is needed, too
		}
		if err := e.Store.RemoveUnnamed(lock, step.Manifest); err != nil {
			return err
		}
		rows = slices.Delete(rows, i, i+1)
		removed.Deleted = append(removed.Deleted, step.ID)
	}
	return nil
}

// removeRecords removes every record of the image. In use, it keeps one without a name.
func (e *Engine) removeRecords(lock *store.Lock, img *Image, inUse bool) (*Removed, error) {
	records, err := e.Store.Images()
	if err != nil {
		return nil, err
	}
	removed := new(Removed)
	for _, record := range records {
		if record.ID != img.ID {
			continue
		}
		if inUse {
			unnamed := record
			unnamed.Name = ""
			err = e.Store.SetImage(lock, unnamed)
		} else if err = e.Store.RemoveUnnamed(lock, record.Manifest); err == nil && record.Name == "" {
			err = e.forget(lock, record)
		}
		if err == nil && record.Name != "" {
			removed.Untagged = append(removed.Untagged, familiar(record.Name))
			err = e.untag(lock, record)
		}
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}
