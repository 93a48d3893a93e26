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

// RemoveImage takes the name ref from its image. With its last name the image goes, with the layers
// that no other image or container needs; so it does if ref is its ID. An image with several names
// goes by its ID only with force. An image that a container uses stays: with force it loses its
// names and is kept, without one, until the container is removed.
func (e *Engine) RemoveImage(ctx context.Context, ref string, force bool) (*Removed, error) {
	lock, err := e.Store.Exclusive(ctx)
	if err != nil {
		return nil, err
	}
	removed, err := e.removeImage(lock, ref, force)
	return removed, errors.Join(err, lock.Unlock())
}

func (e *Engine) removeImage(lock *store.Lock, ref string, force bool) (*Removed, error) {
	img, err := e.Image(ref)
	if err != nil {
		return nil, err
	}
	names, err := e.namesOf(img.ID)
	if err != nil {
		return nil, err
	}
	if byName := isNameOf(ref, img.Name); byName && len(names) > 1 {
		removed := &Removed{Untagged: []string{familiar(img.Name)}}
		return removed, e.Store.RemoveImage(lock, img.Image)
	} else if !byName && len(names) > 1 && !force {
		return nil, fmt.Errorf("%w: %s has %d names (remove them one by one, or all with -f)", ErrImageInUse, ref, len(names))
	}
	user, err := e.userOf(img.ID)
	if err != nil {
		return nil, err
	}
	if user != nil && !force {
		return nil, fmt.Errorf("%w: %s by container %s (remove it with 'tarn rm %s', or untag the image with -f)",
			ErrImageInUse, ref, user.Name, user.Name)
	}
	return e.deleteImage(lock, img, user != nil)
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

// deleteImage removes every record of the image. In use, it keeps one without a name.
func (e *Engine) deleteImage(lock *store.Lock, img *Image, inUse bool) (*Removed, error) {
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
		} else {
			err = e.Store.RemoveUnnamed(lock, record.Manifest)
		}
		if err == nil && record.Name != "" {
			removed.Untagged = append(removed.Untagged, familiar(record.Name))
			err = e.Store.RemoveImage(lock, record)
		}
		if err != nil {
			return removed, err
		}
	}
	if inUse {
		return removed, nil
	}
	swept, err := e.Store.Sweep(lock, func(l store.Layer) error { return e.Driver.Release(driverLayer(l)) })
	removed.Deleted = append(removed.Deleted, img.ID)
	// Of an image, the top layer is deleted first.
	for _, diffID := range slices.Backward(img.Config.RootFS.DiffIDs) {
		if slices.Contains(swept.Layers, diffID) && !slices.Contains(removed.Deleted, diffID) {
			removed.Deleted = append(removed.Deleted, diffID)
		}
	}
	return removed, err
}
