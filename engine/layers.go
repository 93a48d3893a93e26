package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/layer"
)

// LayerRow is one layer of an image's stack.
type LayerRow struct {
	Step
	layer.Counts     // what it does to the layers below
	SharedBy     int // how many other images have the layer
}

// Layers gives an image's stack of layers, the top one first.
func (e *Engine) Layers(ctx context.Context, ref string) (rows []LayerRow, err error) {
	err = e.undisturbedImage(ctx, ref, func(img *Image) (err error) {
		if rows, err = e.layers(ctx, img); err != nil {
			err = fmt.Errorf("image %s: %w", ref, err)
		}
		return err
	})
	return rows, err
}

func (e *Engine) layers(ctx context.Context, img *Image) ([]LayerRow, error) {
	steps, err := e.steps(img.Config)
	if err != nil {
		return nil, err
	}
	users, err := e.layerUsers()
	if err != nil {
		return nil, err
	}
	var rows []LayerRow
	for _, step := range steps {
		if step.Layer != "" {
			rows = append(rows, LayerRow{Step: step, SharedBy: users[step.Layer] - 1})
		}
	}
	return rows, e.count(ctx, rows)
}

// count fills in what each layer does to those below it. Of a layer only the index is read.
func (e *Engine) count(ctx context.Context, rows []LayerRow) error {
	indexes := make([]*erofs.Image, 0, len(rows))
	for _, row := range rows {
		index, file, err := e.openIndex(row.Layer)
		if err != nil {
			return err
		}
		defer file.Close()
		indexes = append(indexes, index)
	}
	for i := range rows {
		if err := ctx.Err(); err != nil {
			return err
		}
		counts, err := layer.Stats(indexes[i], indexes[i+1:])
		if err != nil {
			return fmt.Errorf("layer %s: %w", rows[i].Layer.Short(), err)
		}
		rows[i].Counts = counts
	}
	return nil
}

// openIndex gives a layer's index and the file it is read from, to be closed when the index is no
// longer used.
func (e *Engine) openIndex(diffID image.Digest) (*erofs.Image, *os.File, error) {
	l, err := e.Store.Layer(diffID)
	if err != nil {
		return nil, nil, err
	}
	file, err := l.OpenIndex()
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	index, err := erofs.Open(file, info.Size())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("layer %s: %w", diffID.Short(), err), file.Close())
	}
	return index, file, nil
}

// layerUsers counts for each layer the images that have it; names of one image count once.
func (e *Engine) layerUsers() (map[image.Digest]int, error) {
	records, err := e.Store.Images()
	if err != nil {
		return nil, err
	}
	users := make(map[image.Digest]int)
	seen := make(map[image.Digest]bool)
	for _, record := range records {
		if seen[record.ID] {
			continue
		}
		seen[record.ID] = true
		config, err := e.Store.Config(record.ID)
		if err != nil {
			return nil, err
		}
		ids := slices.Clone(config.RootFS.DiffIDs)
		slices.Sort(ids)
		for _, diffID := range slices.Compact(ids) {
			users[diffID]++
		}
	}
	return users, nil
}
