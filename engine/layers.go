package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/tarnfs/tarn/image"
)

// LayerRow is one layer of an image's stack.
type LayerRow struct {
	DiffID    image.Digest
	CreatedBy string // "" if the image's history does not say
	Size      int64  // bytes of the tar
	SharedBy  int    // how many other images have the layer
}

// Layers gives an image's stack of layers, the top one first.
func (e *Engine) Layers(_ context.Context, ref string) ([]LayerRow, error) {
	img, err := e.Image(ref)
	if err != nil {
		return nil, err
	}
	steps, err := e.steps(img.Config)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	users, err := e.layerUsers()
	if err != nil {
		return nil, err
	}
	var rows []LayerRow
	for _, step := range steps {
		if step.Layer == "" {
			continue
		}
		rows = append(rows, LayerRow{
			DiffID: step.Layer, CreatedBy: step.CreatedBy, Size: step.Size, SharedBy: users[step.Layer] - 1,
		})
	}
	return rows, nil
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
