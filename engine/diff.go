package engine

import (
	"context"
	"fmt"

	"github.com/tarnfs/tarn/layer"
)

// Change is a path of a container that is not as in its image: added ("A"), changed ("C") or
// deleted ("D").
type Change struct {
	Type string
	Path string
}

// Diff lists what a container changed, running or not, by path. As in Docker, directories above a
// change are changed too, and of a deleted directory only itself is listed. What is mounted in the
// container is not looked at.
func (e *Engine) Diff(ctx context.Context, key string) ([]Change, error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return nil, err
	}
	var list []Change
	err = e.readContents(ctx, c, contentsOptions{withInit: true}, func(x *contents) error {
		changes, err := layer.Changes(ctx, x.PackSource, layer.ChangesOptions{Exclude: x.mounted, Owner: x.owner})
		for _, change := range changes {
			list = append(list, Change{Type: change.Kind.String(), Path: change.Path})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("diff %s: %w", c.Name, err)
	}
	return list, nil
}
