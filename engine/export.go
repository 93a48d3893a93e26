package engine

import (
	"context"
	"fmt"
	"io"

	"github.com/tarnfs/tarn/layer"
)

// Export writes a tar of a container's whole root file system, running or not, to w: what Mount
// shows. What is mounted in the container is not in it.
func (e *Engine) Export(ctx context.Context, key string, w io.Writer) error {
	c, err := e.container(key)
	if err != nil {
		return err
	}
	err = e.readContents(ctx, c, contentsOptions{}, func(x *contents) error {
		return layer.PackTree(ctx, w, x.Merged, layer.PackOptions{})
	})
	if err != nil {
		return fmt.Errorf("export %s: %w", c.Name, err)
	}
	return nil
}
