package engine

import (
	"context"
	"errors"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry/server"
	"github.com/tarnfs/tarn/store"
)

// DeleteManifest implements server.Writer. A tag that names a local image is taken from it, as "tarn
// rmi" would. What a container uses is kept for as long as the container is there.
func (c *storeContent) DeleteManifest(ctx context.Context, repository string, ref server.Reference) error {
	name, err := repositoryName(repository)
	if err != nil {
		return err
	}
	return c.sweeping(ctx, func(lock *store.Lock) error {
		var found bool
		if ref.Digest == "" {
			found, err = c.deleteTag(lock, name, ref.Tag)
		} else {
			found, err = c.deleteDigest(lock, name, ref.Digest)
		}
		if err == nil && !found {
			err = server.ErrManifest
		}
		return err
	})
}

// sweeping removes something under the exclusive lock, and then all that nothing refers to any more.
func (c *storeContent) sweeping(ctx context.Context, remove func(lock *store.Lock) error) error {
	lock, err := c.engine.Store.Exclusive(ctx)
	if err != nil {
		return err
	}
	if err = remove(lock); err == nil {
		_, err = c.engine.Store.Sweep(lock, c.engine.mounts())
	}
	return errors.Join(err, lock.Unlock(), c.engine.Store.CollectLeftovers())
}

func (c *storeContent) deleteTag(lock *store.Lock, repository, tag string) (found bool, err error) {
	img, err := c.engine.Store.Image(repository + ":" + tag)
	if err == nil {
		return true, c.takeName(lock, img)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	entry, err := c.engine.Store.Entry(repository, tag)
	if err == nil {
		return true, c.engine.Store.RemoveEntry(lock, entry)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	return false, nil
}

// deleteDigest removes a manifest from the repository, with all tags that stand for it. Where a tag
// stands for an index that only chose it for this machine, the index stays.
func (c *storeContent) deleteDigest(lock *store.Lock, repository string, d image.Digest) (found bool, err error) {
	entries, err := c.engine.entriesIn(repository)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if e.Manifest == d {
			found = true
			if err := c.engine.Store.RemoveEntry(lock, e); err != nil {
				return false, err
			}
		}
	}
	images, err := c.engine.imagesIn(repository)
	if err != nil {
		return false, err
	}
	for ref, img := range images {
		switch {
		case img.Target() == d:
			err = c.takeName(lock, img)
		case img.Manifest == d:
			if err = c.takeName(lock, img); err == nil && ref.Tag() != "" {
				err = c.engine.Store.SetEntry(lock, store.Entry{Repository: repository, Tag: ref.Tag(), Manifest: img.Index, Created: img.Created})
			}
		default:
			continue
		}
		if err != nil {
			return false, err
		}
		found = true
	}
	if !found {
		return false, nil
	}
	// An image that lost its name to a later push is held by nothing but that it once had it.
	return true, c.dropUnnamed(lock, d)
}

// takeName takes the name from an image. If a container uses it, it is kept without one.
func (c *storeContent) takeName(lock *store.Lock, img store.Image) error {
	user, err := c.engine.userOf(img.ID)
	if err != nil {
		return err
	}
	if user != nil {
		unnamed := img
		unnamed.Name = ""
		if err := c.engine.Store.SetImage(lock, unnamed); err != nil {
			return err
		}
	}
	return c.engine.Store.RemoveImage(lock, img)
}

func (c *storeContent) dropUnnamed(lock *store.Lock, manifest image.Digest) error {
	images, err := c.engine.Store.Images()
	if err != nil {
		return err
	}
	for _, img := range images {
		if img.Name != "" || img.Target() != manifest && img.Manifest != manifest {
			continue
		}
		user, err := c.engine.userOf(img.ID)
		if err == nil && user == nil {
			err = c.engine.Store.RemoveUnnamed(lock, img.Manifest)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// DeleteBlob implements server.Writer.
func (c *storeContent) DeleteBlob(ctx context.Context, d image.Digest) error {
	found, err := c.pending.discard(d)
	if err != nil {
		return err
	}
	if blob, err := c.Blob(ctx, d); err == nil {
		found = true
		_ = blob.Close() // read only
	} else if !errors.Is(err, server.ErrBlob) {
		return err
	}
	if !found {
		return server.ErrBlob
	}
	if err := c.sweeping(ctx, func(*store.Lock) error { return nil }); err != nil {
		return err
	}
	if blob, err := c.Blob(ctx, d); err == nil {
		_ = blob.Close() // read only
		return server.ErrInUse
	}
	return nil
}
