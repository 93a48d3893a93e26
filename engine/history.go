package engine

import (
	"context"
	"fmt"

	"github.com/tarnfs/tarn/image"
)

// Step is one step of how an image was made.
type Step struct {
	image.History
	Layer image.Digest // diffID; "" if the step made none
	Size  int64        // bytes of the layer's tar
	Image image.Digest // the image's ID at the last step, "" before
}

// History gives an image's steps, the latest first. Layers that the image's history does not speak
// of stand at the beginning, as steps that say nothing.
func (e *Engine) History(ctx context.Context, ref string) (steps []Step, err error) {
	err = e.undisturbedImage(ctx, ref, func(img *Image) (err error) {
		if steps, err = e.steps(img.Config); err != nil {
			return fmt.Errorf("image %s: %w", ref, err)
		}
		if len(steps) > 0 {
			steps[0].Image = img.ID
		}
		return nil
	})
	return steps, err
}

func (e *Engine) steps(config *image.Config) ([]Step, error) {
	history := config.History
	layers := config.RootFS.DiffIDs
	withLayer := 0
	for _, h := range history {
		if !h.EmptyLayer {
			withLayer++
		}
	}
	if withLayer > len(layers) {
		return nil, fmt.Errorf("%w: its history has %d steps with a layer, and there are %d layers", image.ErrDocument, withLayer, len(layers))
	}
	var steps []Step
	add := func(h image.History, layers []image.Digest) error {
		step := Step{History: h}
		if !h.EmptyLayer {
			l, err := e.Store.Layer(layers[0])
			if err != nil {
				return err
			}
			step.Layer = l.DiffID
			if step.Size, err = l.Size(); err != nil {
				return err
			}
		}
		steps = append([]Step{step}, steps...)
		return nil
	}
	for ; len(layers) > withLayer; layers = layers[1:] {
		if err := add(image.History{Created: config.Created}, layers); err != nil {
			return nil, err
		}
	}
	for _, h := range history {
		if err := add(h, layers); err != nil {
			return nil, err
		}
		if !h.EmptyLayer {
			layers = layers[1:]
		}
	}
	return steps, nil
}
