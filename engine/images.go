package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// ImageRow is one line of "tarn images": a name of an image, or an image without one.
type ImageRow struct {
	Name     image.Reference // zero if the image has no name
	ID       image.Digest
	Manifest image.Digest
	Digest   image.Digest // of what the name stands for in a registry: the manifest, or the index it was chosen from
	record   store.Image
	Created  time.Time
	Size     int64 // bytes of the layers' tars; shared layers count for each image
	Labels   map[string]string
	config   *image.Config
}

// Dangling reports whether the image has no name.
func (r ImageRow) Dangling() bool { return r.Name.IsZero() }

// ImageFilter selects images. The zero filter leaves out those that only others are made of.
type ImageFilter struct {
	All        bool     // those without a name that another image continues, too
	References []string // names or patterns of path.Match; any of them
	Dangling   *bool    // only those without a name, or only those with one
	Labels     []string // "key" or "key=value"; all of them
	Before     string   // an image: only those that are older
	Since      string   // an image: only those that are younger
}

// ParseImageFilter reads "key=value" options, with Docker's keys.
func ParseImageFilter(options []string, all bool) (ImageFilter, error) {
	f := ImageFilter{All: all}
	return f, eachFilter(options, f.add)
}

func (f *ImageFilter) add(key, value string) error {
	switch key {
	case "reference":
		f.References = append(f.References, value)
	case "dangling":
		dangling, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%w: use true or false", ErrOption)
		}
		f.Dangling = &dangling
	case "label":
		f.Labels = append(f.Labels, value)
	case "before":
		f.Before = value
	case "since":
		f.Since = value
	default:
		return fmt.Errorf("%w: use reference, dangling, label, before or since", ErrOption)
	}
	return nil
}

// Images lists the images, the newest first.
func (e *Engine) Images(ctx context.Context, filter ImageFilter) ([]ImageRow, error) {
	for _, pattern := range filter.References {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("filter reference=%s: %w", pattern, err)
		}
	}
	times, err := newPeriod(filter.Since, filter.Before, func(ref string) (time.Time, error) {
		img, err := e.Image(ref)
		if err != nil {
			return time.Time{}, err
		}
		return img.Config.CreatedAt(), nil
	})
	if err != nil {
		return nil, err
	}
	var rows []ImageRow
	err = e.undisturbed(ctx, func() (err error) {
		rows, err = e.imageRows()
		return err
	})
	if err != nil {
		return nil, err
	}
	var selected []ImageRow
	for _, row := range rows {
		if times.has(row.Created) && filter.selects(row) && (filter.All || !row.isStepOfAny(rows)) {
			selected = append(selected, row)
		}
	}
	slices.SortStableFunc(selected, func(a, b ImageRow) int { return b.Created.Compare(a.Created) })
	return selected, nil
}

func (e *Engine) imageRows() ([]ImageRow, error) {
	records, err := e.Store.Images()
	if err != nil {
		return nil, err
	}
	rows := make([]ImageRow, 0, len(records))
	for _, record := range records {
		row := ImageRow{ID: record.ID, Manifest: record.Manifest, Digest: record.Target(), record: record}
		if record.Name != "" {
			if row.Name, err = image.ParseReference(record.Name); err != nil {
				return nil, err
			}
		}
		if row.config, err = e.Store.Config(record.ID); err != nil {
			return nil, fmt.Errorf("image %s: %w", cmp.Or(record.Name, record.ID.Short()), err)
		}
		row.Created, row.Labels = row.config.CreatedAt(), row.config.Config.Labels
		if row.Size, err = e.size(row.config); err != nil {
			return nil, fmt.Errorf("image %s: %w", cmp.Or(record.Name, record.ID.Short()), err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// isStepOfAny tells whether the image has no name and was only a step on the way to another one.
func (r ImageRow) isStepOfAny(rows []ImageRow) bool {
	return r.Dangling() && slices.ContainsFunc(rows, func(other ImageRow) bool { return continues(other.config, r.config) })
}

// continues tells whether an image was made from an earlier one: it has its layers and its history,
// and more of that.
func continues(config, earlier *image.Config) bool {
	layers, history := len(earlier.RootFS.DiffIDs), len(earlier.History)
	return len(config.RootFS.DiffIDs) >= layers && len(config.History) > history &&
		slices.Equal(config.RootFS.DiffIDs[:layers], earlier.RootFS.DiffIDs) &&
		slices.EqualFunc(config.History[:history], earlier.History, func(a, b image.History) bool {
			return a.CreatedBy == b.CreatedBy && a.EmptyLayer == b.EmptyLayer && a.Comment == b.Comment &&
				(a.Created == nil) == (b.Created == nil) && (a.Created == nil || a.Created.Equal(*b.Created))
		})
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
	if !hasLabels(row.Labels, f.Labels) {
		return false
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
	if err := e.haveImage(ctx, ref); err != nil {
		return err
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
