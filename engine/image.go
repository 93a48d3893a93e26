package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// ErrNoImage is wrapped by errors about an image that is not in the store.
var ErrNoImage = errors.New("no such image")

// Image is an image in the store.
type Image struct {
	store.Image
	Config *image.Config
}

// Image finds an image by name, by name and digest, by ID, or by the beginning of an ID.
func (e *Engine) Image(ref string) (*Image, error) {
	for {
		record, err := e.findImage(ref)
		if errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("%w: %s (see 'tarn images', or get it with 'tarn pull')", ErrNoImage, ref)
		}
		if err != nil {
			return nil, err
		}
		config, err := e.Store.Config(record.ID)
		if err == nil {
			return &Image{Image: record, Config: config}, nil
		}
		if again, findErr := e.findImage(ref); !errors.Is(err, store.ErrNotFound) || findErr == nil && again == record {
			return nil, fmt.Errorf("image %s: %w", ref, err)
		}
		// It was removed, or replaced, since it was found.
	}
}

// undisturbed has read look at things in the store that need each other: none of them is removed meanwhile.
func (e *Engine) undisturbed(ctx context.Context, read func() error) error {
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return err
	}
	return errors.Join(read(), lock.Unlock())
}

// undisturbedImage is undisturbed for what an image needs. The default image may have to be made, which takes the same lock:
// before.
func (e *Engine) undisturbedImage(ctx context.Context, ref string, read func(img *Image) error) error {
	if err := e.haveImage(ctx, ref); err != nil {
		return err
	}
	return e.undisturbed(ctx, func() error {
		img, err := e.Image(ref)
		if err != nil {
			return err
		}
		return read(img)
	})
}

func (e *Engine) findImage(ref string) (store.Image, error) {
	if parsed, err := image.ParseReference(ref); err == nil {
		record, err := e.findByName(parsed)
		if err == nil || !errors.Is(err, store.ErrNotFound) {
			return record, err
		}
	} else if !isIDPrefix(ref) {
		return store.Image{}, err
	}
	return e.findByID(ref)
}

func (e *Engine) findByName(ref image.Reference) (store.Image, error) {
	if ref.Digest() == "" {
		return e.Store.Image(ref.WithDefaultTag().String())
	}
	// Pulled by this digest: of an index, the platform that was asked for then.
	if record, err := e.Store.Image(ref.WithDigest(ref.Digest()).String()); err == nil || !errors.Is(err, store.ErrNotFound) {
		return record, err
	}
	images, err := e.Store.Images()
	if err != nil {
		return store.Image{}, err
	}
	for _, record := range images {
		named, err := image.ParseReference(record.Name)
		if err == nil && (record.Manifest == ref.Digest() || record.Index == ref.Digest()) && named.Repository() == ref.Repository() &&
			(ref.Tag() == "" || ref.Tag() == named.Tag()) {
			return record, nil
		}
	}
	return store.Image{}, store.ErrNotFound
}

// isIDPrefix reports whether ref may be an ID, or the beginning of one.
func isIDPrefix(ref string) bool {
	encoded := strings.TrimPrefix(ref, image.SHA256+":")
	return encoded != "" && len(encoded) <= 64 && strings.Trim(encoded, "0123456789abcdef") == ""
}

// findByID finds the one image whose ID (or manifest digest, written in full) begins with ref.
func (e *Engine) findByID(ref string) (store.Image, error) {
	if !isIDPrefix(ref) {
		return store.Image{}, store.ErrNotFound
	}
	images, err := e.Store.Images()
	if err != nil {
		return store.Image{}, err
	}
	encoded := strings.TrimPrefix(ref, image.SHA256+":")
	var found store.Image
	for _, record := range images {
		if record.Manifest.Hex() == encoded {
			return record, nil
		}
		if !strings.HasPrefix(record.ID.Hex(), encoded) {
			continue
		}
		if found.ID != "" && found.ID != record.ID {
			return store.Image{}, fmt.Errorf("image ID %s: %w (give more of it)", ref, store.ErrAmbiguous)
		}
		if found.ID == "" {
			found = record
		}
	}
	if found.ID == "" {
		return store.Image{}, store.ErrNotFound
	}
	return found, nil
}

// namesOf lists the canonical names of the image with this ID.
func (e *Engine) namesOf(id image.Digest) ([]string, error) {
	images, err := e.Store.Images()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, record := range images {
		if record.ID == id && record.Name != "" {
			names = append(names, record.Name)
		}
	}
	return names, nil
}

// familiar gives a canonical name as Docker shows it.
func familiar(name string) string {
	ref, err := image.ParseReference(name)
	if err != nil {
		return name
	}
	return ref.Familiar()
}
