package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
)

// ImageRow is one line of "tarn images": a name of an image, or an image without one.
type ImageRow struct {
	Name     image.Reference // zero if the image has no name
	ID       image.Digest
	Manifest image.Digest
	Created  time.Time
	Size     int64 // bytes of the layers' tars; shared layers count for each image
	Labels   map[string]string
}

// Dangling reports whether the image has no name.
func (r ImageRow) Dangling() bool { return r.Name.IsZero() }

// ImageFilter selects images; the zero filter selects all.
type ImageFilter struct {
	References []string // names or patterns of path.Match; any of them
	Dangling   *bool    // only those without a name, or only those with one
	Labels     []string // "key" or "key=value"; all of them
}

// Images lists the images, the newest first.
func (e *Engine) Images(_ context.Context, filter ImageFilter) ([]ImageRow, error) {
	for _, pattern := range filter.References {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("filter reference=%s: %w", pattern, err)
		}
	}
	records, err := e.Store.Images()
	if err != nil {
		return nil, err
	}
	var rows []ImageRow
	for _, record := range records {
		row := ImageRow{ID: record.ID, Manifest: record.Manifest}
		if record.Name != "" {
			if row.Name, err = image.ParseReference(record.Name); err != nil {
				return nil, err
			}
		}
		config, err := e.Store.Config(record.ID)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", cmp.Or(record.Name, record.ID.Short()), err)
		}
		row.Created, row.Labels = config.CreatedAt(), config.Config.Labels
		if row.Size, err = e.size(config); err != nil {
			return nil, fmt.Errorf("image %s: %w", cmp.Or(record.Name, record.ID.Short()), err)
		}
		if filter.selects(row) {
			rows = append(rows, row)
		}
	}
	slices.SortStableFunc(rows, func(a, b ImageRow) int { return b.Created.Compare(a.Created) })
	return rows, nil
}

// size adds up the layers' tars.
func (e *Engine) size(config *image.Config) (int64, error) {
	var total int64
	for _, diffID := range config.RootFS.DiffIDs {
		l, err := e.Store.Layer(diffID)
		if err != nil {
			return 0, err
		}
		size, err := l.Size()
		if err != nil {
			return 0, err
		}
		total += size
	}
	return total, nil
}

func (f ImageFilter) selects(row ImageRow) bool {
	if f.Dangling != nil && row.Dangling() != *f.Dangling {
		return false
	}
	for _, label := range f.Labels {
		key, want, hasValue := strings.Cut(label, "=")
		value, found := row.Labels[key]
		if !found || hasValue && value != want {
			return false
		}
	}
	return len(f.References) == 0 || slices.ContainsFunc(f.References, func(pattern string) bool {
		return matchReference(pattern, row.Name)
	})
}

// matchReference compares as Docker's reference filter does: a pattern may be of the familiar name,
// with or without its tag, or of the canonical one.
func matchReference(pattern string, name image.Reference) bool {
	if name.IsZero() {
		return false
	}
	for _, form := range []string{name.Familiar(), name.FamiliarName(), name.String(), name.Repository()} {
		if matched, err := path.Match(pattern, form); err == nil && matched {
			return true
		}
	}
	return false
}

// Tag gives the image ref one more name.
func (e *Engine) Tag(ctx context.Context, ref, name string) error {
	names, err := parseName(name)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: the new name is empty", image.ErrReference)
	}
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return err
	}
	img, err := e.Image(ref)
	if err == nil {
		img.Name = names[0].String()
		img.Created = time.Now().UTC()
		err = e.Store.SetImage(lock, img.Image)
	}
	return errors.Join(err, lock.Unlock())
}
