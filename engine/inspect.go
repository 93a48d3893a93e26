package engine

import (
	"context"
	"errors"
	"fmt"
)

// Kinds of objects that Inspect describes.
const (
	KindAny       = ""
	KindContainer = "container"
	KindImage     = "image"
	KindVolume    = "volume"
	KindNetwork   = "network"
)

// ErrNoObject is wrapped by errors about a name that neither a container nor an image has.
var ErrNoObject = errors.New("no such container or image")

// Inspect describes a container (a *ContainerReport), or where none has that name an image (an
// *ImageReport); kind chooses one of these, or a volume (a *VolumeReport), or a network (a *NetworkReport).
func (e *Engine) Inspect(ctx context.Context, name, kind string) (any, error) {
	switch kind {
	case KindContainer:
		return e.InspectContainer(ctx, name)
	case KindImage:
		return e.InspectImage(ctx, name)
	case KindVolume:
		v, err := e.volume(name)
		if err != nil {
			return nil, err
		}
		return v.Report(), nil
	case KindNetwork:
		return e.InspectNetwork(ctx, name)
	case KindAny:
	default:
		return nil, fmt.Errorf("%w: type %q: use container, image, network or volume", ErrOption, kind)
	}
	container, err := e.InspectContainer(ctx, name)
	if !errors.Is(err, ErrNoContainer) {
		return container, err
	}
	img, err := e.InspectImage(ctx, name)
	if errors.Is(err, ErrNoImage) {
		return nil, noObject(name)
	}
	return img, err
}

func noObject(name string) error {
	return fmt.Errorf("%w: %s (see 'tarn ps -a' and 'tarn images')", ErrNoObject, name)
}
