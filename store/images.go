package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sealed"
)

// Image is a name of an image, or an image kept without a name.
type Image struct {
	// Name is canonical, with its tag ("docker.io/library/debian:12"), or with the digest by which
	// it was pulled. An image that lost its
	// last name, or never had one, is kept under an empty Name.
	Name string `json:"name,omitempty"`
	// Manifest is the digest of the image's manifest, a blob.
	Manifest image.Digest `json:"manifest"`
	// Index is the digest of the index that Manifest was chosen from, a blob, if the image was pulled
	// from one: what the name means in the registry.
	Index image.Digest `json:"index,omitempty"`
	// Made says that the manifest was made here, so that it is for a push to choose how layers are compressed.
	Made bool `json:"made,omitempty"`
	// ID is the digest of the image's config, a blob.
	ID image.Digest `json:"id"`
	// Created is when the name was given. UTC.
	Created time.Time `json:"created"`
}

// imagePath: names become file names by their hash, which has no length or character limits.
func (s *Store) imagePath(img Image) string {
	key := img.Name
	if key == "" {
		key = "@" + string(img.Manifest)
	}
	return s.path(dirImages, image.DigestBytes([]byte(key)).Hex()+".json")
}

// SetImage points img.Name at img.Manifest, or keeps the manifest without a name if Name is empty.
// Another image that had the name before is kept without one, and another entry of that name is gone. All
// blobs and layers of the image must have been published under this same lock, which may be shared.
func (s *Store) SetImage(lock *Lock, img Image) error {
	if err := errors.Join(lock.check(false), img.Manifest.Validate(), img.ID.Validate()); err != nil {
		return fmt.Errorf("name image %q: %w", img.Name, err)
	}
	return s.withNames(func() error {
		old, err := s.Image(img.Name)
		switch {
		case img.Name == "":
		case errors.Is(err, ErrNotFound):
		case err != nil:
			return err
		case old.ID != img.ID:
			old.Name = ""
			if err := s.writeImage(old); err != nil {
				return err
			}
		}
		if err := s.writeImage(img); err != nil {
			return err
		}
		return s.dropEntry(img.Name)
	})
}

func (s *Store) writeImage(img Image) error {
	data, err := sealed.Encode(img)
	if err != nil {
		return err
	}
	return atomicfile.Write(s.imagePath(img), data, 0o600)
}

// Image finds an image by its exact canonical name with tag.
func (s *Store) Image(name string) (Image, error) {
	if name == "" {
		return Image{}, fmt.Errorf("image %q: %w", name, ErrNotFound)
	}
	img, err := readImage(s.imagePath(Image{Name: name}))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("image %q: %w", name, ErrNotFound)
	}
	if err != nil {
		return Image{}, err
	}
	if img.Name != name {
		return Image{}, fmt.Errorf("image %q: %w: its record is of %q", name, ErrDamaged, img.Name)
	}
	return img, nil
}

func readImage(path string) (Image, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Image{}, err
	}
	var img Image
	if err := sealed.Decode(data, &img); err != nil {
		return Image{}, fmt.Errorf("image record %s: %w: %w", path, ErrDamaged, err)
	}
	if err := errors.Join(img.Manifest.Validate(), img.ID.Validate()); err != nil {
		return Image{}, fmt.Errorf("image record %s: %w: %w", path, ErrDamaged, err)
	}
	return img, nil
}

// Target gives the digest that the name has in a registry: the index's if there is one, else the
// manifest's.
func (img Image) Target() image.Digest {
	if img.Index != "" {
		return img.Index
	}
	return img.Manifest
}

// Images lists all named images by name, then those that have no name left.
func (s *Store) Images() ([]Image, error) {
	all, err := s.imageRecords()
	if err != nil {
		return nil, err
	}
	named := make(map[image.Digest]bool)
	for _, img := range all {
		if img.Name != "" {
			named[img.Manifest] = true
		}
	}
	all = slices.DeleteFunc(all, func(img Image) bool { return img.Name == "" && named[img.Manifest] })
	slices.SortFunc(all, func(a, b Image) int {
		if (a.Name == "") != (b.Name == "") {
			return len(b.Name) - len(a.Name)
		}
		if byName := strings.Compare(a.Name, b.Name); byName != 0 {
			return byName
		}
		return strings.Compare(string(a.Manifest), string(b.Manifest))
	})
	return all, nil
}

// ReadableImages lists the records of images that can be read.
func (s *Store) ReadableImages() ([]Image, error) {
	entries, err := os.ReadDir(s.path(dirImages))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var list []Image
	for _, entry := range entries {
		if img, err := readImage(s.path(dirImages, entry.Name())); err == nil {
			list = append(list, img)
		}
	}
	return list, nil
}

// Records lists all records of images: of those that have names, also the ones without.
func (s *Store) Records() ([]Image, error) { return s.imageRecords() }

func (s *Store) imageRecords() ([]Image, error) {
	entries, err := os.ReadDir(s.path(dirImages))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	all := make([]Image, 0, len(entries))
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".json" || atomicfile.IsTemp(entry.Name()) {
			continue
		}
		img, err := readImage(s.path(dirImages, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the directory was read
		}
		if err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	return all, nil
}

// RemoveImage takes the name img.Name away, or an image's last hold if Name is empty. An entry of that
// name goes with it. What nothing refers to any more stays until Sweep. The lock must be exclusive.
func (s *Store) RemoveImage(lock *Lock, img Image) error {
	if err := lock.check(true); err != nil {
		return fmt.Errorf("remove image %q: %w", img.Name, err)
	}
	return s.withNames(func() error {
		if err := s.dropEntry(img.Name); err != nil {
			return err
		}
		err := os.Remove(s.imagePath(img))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("image %q: %w", img.Name, ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("remove image: %w", err)
		}
		// The name must be gone from the disk before the sweep takes what it needed.
		return atomicfile.SyncDir(s.path(dirImages))
	})
}

// RemoveUnnamed takes away what keeps the manifest without a name. The lock must be exclusive.
func (s *Store) RemoveUnnamed(lock *Lock, manifest image.Digest) error {
	err := s.RemoveImage(lock, Image{Manifest: manifest})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
