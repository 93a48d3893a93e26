package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sealed"
)

// maxUnflip bounds the time that unflip takes, which grows with the square of the length.
const maxUnflip = 16 << 10

// unflip mends a record in which one bit is wrong. A CRC-32C tells all errors of up to five bits
// from each other in records of up to 655 bytes, and all of two bits in longer ones (Koopman, "32-bit
// cyclic redundancy codes for internet applications", 2002), so that what has the checksum again
// is what was written.
func unflip(data []byte) ([]byte, bool) {
	if len(data) > maxUnflip {
		return nil, false
	}
	mended := bytes.Clone(data)
	for i := range mended {
		for bit := range 8 {
			mended[i] ^= 1 << bit
			if sealed.Check(mended) == nil && json.Valid(mended) {
				return mended, true
			}
			mended[i] ^= 1 << bit
		}
	}
	return nil, false
}

// ErrNoSource says that what is damaged is not to be had anywhere else.
var ErrNoSource = errors.New("no source")

// MendRecord mends the record that a fault is about: a bit that has flipped is found with the help of the
// seal, and of one that was cut off what is left may say enough. named says which manifest a name stands
// for elsewhere, by the key that the record's file is called after; it may be nil. The lock may be shared.
func (s *Store) MendRecord(lock *Lock, f Fault, named func(key string) (Image, bool)) error {
	if err := lock.check(false); err != nil {
		return fmt.Errorf("mend record: %w", err)
	}
	path := s.path(f.Path)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return s.withNames(func() error {
		if mended, ok := unflip(data); ok {
			return atomicfile.Write(path, mended, 0o600)
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		switch f.Kind {
		case KindImage:
			return s.rewriteImage(path, data, info.ModTime(), named)
		case KindEntry:
			return s.rewriteEntry(path, data, info.ModTime())
		case KindRecipe: // the blob is made, or fetched, again
			return errors.Join(os.Remove(path), atomicfile.SyncDir(filepath.Dir(path)))
		default:
			return ErrNoSource
		}
	})
}

// member gives what a damaged record still says in full.
func member(data []byte, name string) string {
	found := regexp.MustCompile(`"` + name + `":("(?:[^"\\]|\\.)*"|true)[,}]`).FindSubmatch(data)
	if found == nil {
		return ""
	}
	var text string
	if json.Unmarshal(found[1], &text) != nil {
		return string(found[1])
	}
	return text
}

// memberTime gives a time that a damaged record still says, or else another.
func memberTime(data []byte, otherwise time.Time) time.Time {
	if t, err := time.Parse(time.RFC3339Nano, member(data, "created")); err == nil {
		return t
	}
	return otherwise.UTC()
}

// rewriteImage believes what is left of a record only where something else says the same: the name by the
// file's, the manifest by being one.
func (s *Store) rewriteImage(path string, data []byte, modified time.Time, named func(string) (Image, bool)) error {
	img := Image{
		Name: member(data, "name"), Manifest: image.Digest(member(data, "manifest")),
		Index: image.Digest(member(data, "index")), Made: member(data, "made") == "true", Created: memberTime(data, modified),
	}
	if img.Index != "" && !s.HasBlob(img.Index) {
		img.Index = ""
	}
	m, err := s.Manifest(img.Manifest)
	if err == nil && s.imagePath(img) == path {
		img.ID = m.Config.Digest
		return s.writeImage(img)
	}
	if named != nil {
		if img, ok := named(strings.TrimSuffix(filepath.Base(path), ".json")); ok && s.imagePath(img) == path {
			img.Created = cmp.Or(img.Created, modified.UTC())
			return s.writeImage(img)
		}
	}
	return fmt.Errorf("%w: what the name was, or what it stood for, is not known any more", ErrNoSource)
}

func (s *Store) rewriteEntry(path string, data []byte, modified time.Time) error {
	e := Entry{Repository: member(data, "repository"), Tag: member(data, "tag"), Manifest: image.Digest(member(data, "manifest")), Created: memberTime(data, modified)}
	if s.entryPath(e) != path || !s.HasBlob(e.Manifest) {
		return fmt.Errorf("%w: what the name was, or what it stood for, is not known any more", ErrNoSource)
	}
	record, err := sealed.Encode(e)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, record, 0o600)
}

// ImageKey gives the key that the record of an image of that name is called after.
func ImageKey(name string) string { return image.DigestBytes([]byte(name)).Hex() }

// MendName points a container's name at it again.
func (s *Store) MendName(c *Container) error {
	return s.withNames(func() error {
		link := s.path(dirNames, c.Name)
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Symlink(c.ID, link)
	})
}
