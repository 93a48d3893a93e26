package engine

import (
	"context"
	"errors"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// Usage is what one kind of thing takes on the disk.
type Usage struct {
	Type        string
	Total       int
	Active      int   // those in use
	Size        int64 // bytes
	Reclaimable int64 // of them, bytes that could be had back without losing what has a name
}

// DiskUsage says what the store holds, and what could go: what no image and no container refers to,
// and compressed forms that can be made again.
func (e *Engine) DiskUsage(ctx context.Context) ([]Usage, error) {
	layers, err := e.layerUsage()
	if err != nil {
		return nil, err
	}
	forms, err := e.formUsage(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := e.containerUsage(ctx)
	if err != nil {
		return nil, err
	}
	count, size, err := e.Store.PartialSize()
	if err != nil {
		return nil, err
	}
	return []Usage{layers, forms, containers, {Type: "Interrupted pulls", Total: count, Size: size, Reclaimable: size}}, nil
}

// layerUsage counts the tars. A layer is in use if an image or a container needs it.
func (e *Engine) layerUsage() (Usage, error) {
	u := Usage{Type: "Layers"}
	layers, err := e.Store.Layers()
	if err != nil {
		return u, err
	}
	users, err := e.layerUsers()
	if err != nil {
		return u, err
	}
	for _, l := range layers {
		size, err := l.Size()
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return u, err
		}
		u.Total++
		u.Size += size
		if users[l.DiffID] > 0 {
			u.Active++
		} else {
			u.Reclaimable += size
		}
	}
	return u, nil
}

// formUsage counts the compressed forms that take room. One whose recipe is known need not.
func (e *Engine) formUsage(ctx context.Context) (Usage, error) {
	u := Usage{Type: "Compressed forms"}
	forms, err := e.Forms(ctx)
	if err != nil {
		return u, err
	}
	for _, f := range forms {
		u.Total++
		if !f.Kept {
			continue
		}
		u.Active++
		u.Size += f.Size
		if f.Recipe != "" {
			u.Reclaimable += f.Size
		}
	}
	return u, nil
}

func (e *Engine) containerUsage(ctx context.Context) (Usage, error) {
	u := Usage{Type: "Containers"}
	containers, err := e.Containers(ctx, ContainerFilter{All: true})
	if err != nil {
		return u, err
	}
	for _, c := range containers {
		size, err := treeSize(ctx, c.UpperDir())
		if err != nil {
			continue // it has just been removed
		}
		u.Total++
		u.Size += size
		if c.State.Status == StatusRunning {
			u.Active++
		} else {
			u.Reclaimable += size
		}
	}
	return u, nil
}

// KeptForms sums up the compressed forms of an image: how many bytes are kept, and how many layers' can
// be made again instead.
func (e *Engine) KeptForms(row ImageRow) (kept int64, remade int, err error) {
	forms, err := e.formsOf(row.record)
	if err != nil {
		return 0, 0, err
	}
	seen := make(map[image.Digest]bool)
	for _, f := range forms {
		if seen[f.Blob] {
			continue
		}
		seen[f.Blob] = true
		if f.Kept {
			kept += f.Size
		} else if f.Recipe != "" {
			remade++
		}
	}
	return kept, remade, nil
}
