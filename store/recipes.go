package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sealed"
)

// Recipe says how a layer's compressed form can be made again from its tar: it was made, or made
// again, in this way once, and had this digest. So the blob need not be kept.
type Recipe struct {
	Blob       image.Digest `json:"blob"`
	Size       int64        `json:"size"` // of the blob, in bytes
	DiffID     image.Digest `json:"diffid"`
	Compressor string       `json:"compressor"` // program, version and settings
}

func (s *Store) recipePath(blob image.Digest) string {
	return s.path(dirRecipes, blob.Algorithm()+"-"+blob.Hex()+".json")
}

// PutRecipe records a recipe. It is swept with its layer.
func (s *Store) PutRecipe(lock *Lock, r Recipe) error {
	if err := errors.Join(lock.check(false), r.Blob.Validate(), r.DiffID.Validate()); err != nil {
		return fmt.Errorf("recipe: %w", err)
	}
	data, err := sealed.Encode(r)
	if err == nil {
		err = s.makeDir(dirRecipes)
	}
	if err == nil {
		err = atomicfile.Write(s.recipePath(r.Blob), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("recipe of %s: %w", r.Blob.Short(), err)
	}
	return nil
}

// Recipe finds out how to make a blob; the error wraps ErrNotFound if that is not known.
func (s *Store) Recipe(blob image.Digest) (Recipe, error) {
	if err := blob.Validate(); err != nil {
		return Recipe{}, fmt.Errorf("recipe: %w", err)
	}
	r, err := readRecipe(s.recipePath(blob))
	if errors.Is(err, fs.ErrNotExist) {
		return Recipe{}, fmt.Errorf("blob %s: %w", blob, ErrNotFound)
	}
	if err == nil && r.Blob != blob {
		err = fmt.Errorf("recipe of %s: %w: it is of %s", blob, ErrDamaged, r.Blob)
	}
	return r, err
}

// Recipes lists all that is known.
func (s *Store) Recipes() ([]Recipe, error) {
	entries, err := os.ReadDir(s.path(dirRecipes))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list recipes: %w", err)
	}
	var all []Recipe
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".json") || atomicfile.IsTemp(entry.Name()) {
			continue
		}
		r, err := readRecipe(s.path(dirRecipes, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the directory was read
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func readRecipe(path string) (Recipe, error) {
	var r Recipe
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	err = sealed.Decode(data, &r)
	if err := errors.Join(err, r.Blob.Validate(), r.DiffID.Validate()); err != nil {
		return r, fmt.Errorf("recipe %s: %w: %w", filepath.Base(path), ErrDamaged, err)
	}
	return r, nil
}

// sweepRecipes removes those of layers that are gone.
func (s *Store) sweepRecipes() error {
	paths, err := s.uselessRecipes(s.HasLayer)
	errs := []error{err}
	for _, path := range paths {
		errs = append(errs, os.Remove(path))
	}
	if err := atomicfile.Collect(s.path(dirRecipes)); !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// uselessRecipes gives the paths of those of layers that are not there, and of those that cannot be read.
func (s *Store) uselessRecipes(isThere func(diffID image.Digest) bool) ([]string, error) {
	entries, err := os.ReadDir(s.path(dirRecipes))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var paths []string
	for _, entry := range entries {
		if atomicfile.IsTemp(entry.Name()) {
			continue
		}
		path := s.path(dirRecipes, entry.Name())
		if r, err := readRecipe(path); err != nil || !isThere(r.DiffID) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// DropBlob removes a layer's compressed form whose recipe is known. The lock must be exclusive.
func (s *Store) DropBlob(lock *Lock, blob image.Digest) error {
	err := lock.check(true)
	if err == nil {
		_, err = s.Recipe(blob)
	}
	path, pathErr := s.blobPath(blob)
	if err = errors.Join(err, pathErr); err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("drop blob %s: %w", blob.Short(), err)
	}
	return nil
}
