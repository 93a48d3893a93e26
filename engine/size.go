package engine

import (
	"context"
	"fmt"

	"github.com/tarnfs/tarn/internal/diskusage"
)

// ContainerSize gives how many bytes a container's own files take, and with those of its image's
// layers. A running container may change them meanwhile.
func (e *Engine) ContainerSize(ctx context.Context, c *Container) (own, virtual int64, err error) {
	config, err := e.config(c)
	if err != nil {
		return 0, 0, err
	}
	image, err := e.size(config)
	if err == nil {
		own, err = diskusage.Contents(ctx, c.UpperDir())
	}
	if err != nil {
		return 0, 0, fmt.Errorf("container %s: %w", c.Name, err)
	}
	return own, own + image, nil
}
