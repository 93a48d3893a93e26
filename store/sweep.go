package store

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/tarnfs/tarn/image"
)

// Swept says what a sweep removed.
type Swept struct {
	Layers []image.Digest
	Blobs  []image.Digest
}

// live is what names and containers refer to.
type live struct {
	layers map[image.Digest]bool
	blobs  map[image.Digest]bool
	chains map[string]bool // hexadecimal, as the directories of init/ are named

	documents map[image.Digest]bool // what followEntry has seen
	past      []Entry               // not to be followed any more
}

// Mounts is what the store asks, and has done, about the mounts of layers, which it does not make itself.
type Mounts struct {
	// InUse tells whether a layer has to stay although nothing refers to it; nil: none has to.
	InUse func(Layer) (bool, error)
	// Release unmounts a layer before it goes; nil: nobody has mounted any. If it fails, the layer stays.
	Release func(Layer) error
}

func (m Mounts) inUse(l Layer) (bool, error) {
	if m.InUse == nil {
		return false, nil
	}
	used, err := m.InUse(l)
	if err != nil {
		err = fmt.Errorf("layer %s: %w", l.DiffID.Short(), err)
	}
	return used, err
}

func (m Mounts) release(l Layer) error {
	if m.Release == nil {
		return nil
	}
	return m.Release(l)
}

// unneeded is what a sweep takes out of its place. Sweep takes it, and Plan says what the disk gets back of it.
type unneeded struct {
	layers  []Layer
	kept    []Layer // all others
	blobs   []image.Digest
	inits   []string // names below init/
	entries []Entry
}

// unneeded finds what is not among refs.
func (s *Store) unneeded(refs *live, mounts Mounts) (*unneeded, error) {
	u := &unneeded{entries: refs.past}
	layers, err := s.Layers()
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		stays := refs.layers[l.DiffID]
		if !stays {
			if stays, err = mounts.inUse(l); err != nil {
				return nil, err
			}
		}
		if stays {
			u.kept = append(u.kept, l)
		} else {
			u.layers = append(u.layers, l)
		}
	}
	if u.blobs, err = s.blobs(); err != nil {
		return nil, err
	}
	u.blobs = slices.DeleteFunc(u.blobs, func(d image.Digest) bool { return refs.blobs[d] })
	inits, err := os.ReadDir(s.path(dirInit))
	if err != nil {
		return nil, err
	}
	for _, init := range inits {
		if !refs.chains[init.Name()] && !condemnedAt(s.path(dirInit, init.Name())) {
			u.inits = append(u.inits, init.Name())
		}
	}
	return u, nil
}

// Sweep removes the layers, blobs and init layers that neither a name, nor a container, nor a
// repository's entry refers to. What is removed is only taken out of its place: the disk has its room back
// when CollectLeftovers, which needs no lock and takes longer, has run.
// Where a layer cannot be unmounted it stays, and the error is reported after the rest has been swept. The lock
// must be exclusive.
func (s *Store) Sweep(lock *Lock, mounts Mounts) (Swept, error) {
	var swept Swept
	if err := lock.check(true); err != nil {
		return swept, fmt.Errorf("sweep: %w", err)
	}
	refs, err := s.live()
	if err != nil {
		return swept, fmt.Errorf("sweep: %w", err)
	}
	gone, err := s.unneeded(refs, mounts)
	if err != nil {
		return swept, fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, layer := range gone.layers {
		err := mounts.release(layer)
		if err == nil {
			err = s.retire(layer)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("layer %s: %w", layer.DiffID.Short(), err))
			continue
		}
		swept.Layers = append(swept.Layers, layer.DiffID)
	}
	errs = append(errs, s.sweepRemnants())
	for _, e := range gone.entries {
		errs = append(errs, s.RemoveEntry(lock, e))
	}
	for _, d := range gone.blobs {
		path, err := s.blobPath(d)
		if err == nil {
			err = s.bury(path)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		swept.Blobs = append(swept.Blobs, d)
	}
	for _, name := range gone.inits {
		errs = append(errs, s.bury(s.path(dirInit, name)))
	}
	if err := errors.Join(append(errs, s.sweepRecipes())...); err != nil {
		return swept, fmt.Errorf("sweep: %w", err)
	}
	return swept, nil
}

// live follows every name, container and entry. If one cannot be read, nothing may be swept, as
// what it needs is not known.
func (s *Store) live() (*live, error) { return s.liveWithout(Selection{}) }

// Selection is records that are to be removed.
type Selection struct {
	Images  []Image
	Entries []Entry
}

func (s *Store) liveWithout(drop Selection) (*live, error) {
	refs := &live{
		layers: map[image.Digest]bool{}, blobs: map[image.Digest]bool{}, chains: map[string]bool{},
		documents: map[image.Digest]bool{},
	}
	images, err := s.imageRecords()
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		if slices.Contains(drop.Images, img) {
			continue
		}
		if err := s.follow(refs, img.Manifest); err != nil {
			return nil, fmt.Errorf("image %q: %w", img.Name, err)
		}
		refs.blobs[img.Index] = true
	}
	if err := s.followPins(refs); err != nil {
		return nil, err
	}
	containers, err := s.Containers()
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		if c.Damaged == nil {
			err = s.follow(refs, c.Manifest)
		} else {
			err = fmt.Errorf("%w (remove it with 'tarn rm %s')", c.Damaged, c.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", c.Name, err)
		}
	}
	// After the images: follow must not find their manifests marked already.
	err = s.eachEntry(func(e Entry, isCurrent bool) error {
		if slices.Contains(drop.Entries, e) {
			return nil
		}
		if !isCurrent {
			refs.past = append(refs.past, e)
			return nil
		}
		if err := s.followEntry(refs, e.Manifest); err != nil {
			return fmt.Errorf("entry of %s: %w", e.Repository, err)
		}
		return nil
	})
	return refs, err
}

// followEntry follows a manifest of any kind and the manifests that it lists. Of these not all need
// be there, or be what the list says.
func (s *Store) followEntry(refs *live, manifest image.Digest) error {
	for todo := []image.Digest{manifest}; len(todo) > 0; todo = todo[1:] {
		d := todo[0]
		if refs.documents[d] {
			continue
		}
		doc, err := s.Document(d)
		isListed := d != manifest
		switch {
		case isListed && errors.Is(err, ErrNotFound):
			continue
		case isListed && errors.Is(err, image.ErrDocument):
			refs.blobs[d] = true
			continue
		case err != nil:
			return err
		}
		refs.documents[d], refs.blobs[d] = true, true
		for _, blob := range doc.Blobs() {
			refs.blobs[blob.Digest] = true
			// A tar that is not compressed may be kept as a layer only; one that is, as a recipe.
			refs.layers[blob.Digest] = true
			if recipe, err := s.Recipe(blob.Digest); err == nil && !s.HasBlob(blob.Digest) {
				refs.layers[recipe.DiffID] = true
			}
		}
		for _, listed := range doc.Manifests {
			todo = append(todo, listed.Digest)
		}
	}
	return nil
}

func (s *Store) follow(refs *live, manifest image.Digest) error {
	if refs.blobs[manifest] {
		return nil
	}
	m, err := s.Manifest(manifest)
	if err != nil {
		return err
	}
	config, err := s.Config(m.Config.Digest)
	if err != nil {
		return err
	}
	refs.blobs[manifest] = true
	refs.blobs[m.Config.Digest] = true
	for _, layer := range m.Layers {
		refs.blobs[layer.Digest] = true
	}
	for _, diffID := range config.RootFS.DiffIDs {
		refs.layers[diffID] = true
	}
	if chain := image.ChainID(config.RootFS.DiffIDs); chain != "" {
		refs.chains[chain.Hex()] = true
	}
	return nil
}
