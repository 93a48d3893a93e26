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

// Entry is a manifest that a repository holds, of any kind: what there is of a repository besides
// the images that have a name in it. It keeps the manifest and all that this refers to. An entry with
// a tag counts only as long as there is no image of that name.
type Entry struct {
	// Repository is canonical ("docker.io/library/debian").
	Repository string `json:"repository"`
	// Tag is what the manifest goes by; "" if it is held by its digest.
	Tag string `json:"tag,omitempty"`
	// Manifest is the digest of the manifest or index, a blob.
	Manifest image.Digest `json:"manifest"`
	// Created is when the entry was made. UTC.
	Created time.Time `json:"created"`
}

// name is how an image of the same name is called.
func (e Entry) name() string {
	if e.Tag == "" {
		return ""
	}
	return e.Repository + ":" + e.Tag
}

func (s *Store) entryPath(e Entry) string {
	key := e.name()
	if key == "" {
		key = e.Repository + "@" + string(e.Manifest)
	}
	return s.path(dirEntries, image.DigestBytes([]byte(key)).Hex()+".json")
}

// SetEntry makes the entry, or replaces the one of the same tag. An image of that name gives way: it is
// kept without one. All that the manifest refers to, as far as it is in the store, must have been
// published, or found to be there, under this same lock, which may be shared.
func (s *Store) SetEntry(lock *Lock, e Entry) error {
	if err := errors.Join(lock.check(false), e.Manifest.Validate()); err != nil {
		return fmt.Errorf("entry of %s: %w", e.Repository, err)
	}
	return s.withNames(func() error {
		if err := s.makeDir(dirEntries); err != nil {
			return err
		}
		data, err := sealed.Encode(e)
		if err != nil {
			return err
		}
		if err := atomicfile.Write(s.entryPath(e), data, 0o600); err != nil {
			return err
		}
		if e.Tag == "" {
			return nil
		}
		return s.takeName(e.name())
	})
}

// takeName takes a name from the image that has it, if any, and keeps that without one.
func (s *Store) takeName(name string) error {
	img, err := s.Image(name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	img.Name = ""
	if err := s.writeImage(img); err != nil {
		return err
	}
	if err := os.Remove(s.imagePath(Image{Name: name})); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.path(dirImages))
}

// dropEntry removes the entry that goes by an image's name.
func (s *Store) dropEntry(name string) error {
	path := s.path(dirEntries, image.DigestBytes([]byte(name)).Hex()+".json")
	e, err := readEntry(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && e.Tag == "" {
		return nil
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.path(dirEntries))
}

// Entry finds what the repository holds under tag; the error wraps ErrNotFound if that is nothing.
func (s *Store) Entry(repository, tag string) (Entry, error) {
	return s.findEntry(Entry{Repository: repository, Tag: tag})
}

// EntryByDigest finds a manifest that the repository holds by its digest.
func (s *Store) EntryByDigest(repository string, manifest image.Digest) (Entry, error) {
	return s.findEntry(Entry{Repository: repository, Manifest: manifest})
}

func (s *Store) findEntry(want Entry) (Entry, error) {
	e, err := readEntry(s.entryPath(want))
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, fmt.Errorf("entry of %s: %w", want.Repository, ErrNotFound)
	}
	if err != nil {
		return Entry{}, err
	}
	if e.Repository != want.Repository || e.Tag != want.Tag {
		return Entry{}, fmt.Errorf("entry of %s: %w: its record is of %s", want.Repository, ErrDamaged, e.Repository)
	}
	if current, err := s.isCurrent(e); err != nil || !current {
		return Entry{}, errors.Join(err, fmt.Errorf("entry of %s: %w", want.Repository, ErrNotFound))
	}
	return e, nil
}

// isCurrent: an entry behind an image of its name was left by a command that died.
func (s *Store) isCurrent(e Entry) (bool, error) {
	if e.Tag == "" {
		return true, nil
	}
	_, err := s.Image(e.name())
	if errors.Is(err, ErrNotFound) {
		return true, nil
	}
	return false, err
}

func readEntry(path string) (Entry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Entry{}, err
	}
	var e Entry
	if err := sealed.Decode(data, &e); err != nil {
		return Entry{}, fmt.Errorf("entry %s: %w: %w", path, ErrDamaged, err)
	}
	if err := e.Manifest.Validate(); err != nil {
		return Entry{}, fmt.Errorf("entry %s: %w: %w", path, ErrDamaged, err)
	}
	return e, nil
}

// Entries lists all entries by repository, tag and digest.
func (s *Store) Entries() ([]Entry, error) {
	var current []Entry
	err := s.eachEntry(func(e Entry, isCurrent bool) error {
		if isCurrent {
			current = append(current, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(current, func(a, b Entry) int {
		return strings.Compare(a.Repository+" "+a.Tag+" "+string(a.Manifest), b.Repository+" "+b.Tag+" "+string(b.Manifest))
	})
	return current, nil
}

func (s *Store) eachEntry(do func(e Entry, isCurrent bool) error) error {
	files, err := os.ReadDir(s.path(dirEntries))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list entries: %w", err)
	}
	for _, file := range files {
		if filepath.Ext(file.Name()) != ".json" || atomicfile.IsTemp(file.Name()) {
			continue
		}
		e, err := readEntry(s.path(dirEntries, file.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the directory was read
		}
		if err != nil {
			return err
		}
		isCurrent, err := s.isCurrent(e)
		if err == nil {
			err = do(e, isCurrent)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// RemoveEntry removes the entry. What nothing refers to any more stays until Sweep. The lock must
// be exclusive.
func (s *Store) RemoveEntry(lock *Lock, e Entry) error {
	if err := lock.check(true); err != nil {
		return fmt.Errorf("remove entry of %s: %w", e.Repository, err)
	}
	return s.withNames(func() error {
		err := os.Remove(s.entryPath(e))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("entry of %s: %w", e.Repository, ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("remove entry: %w", err)
		}
		return atomicfile.SyncDir(s.path(dirEntries))
	})
}
