package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/diskusage"
	"github.com/tarnfs/tarn/store"
)

// Usage is what one kind of thing takes on the disk.
type Usage struct {
	Type        string
	Total       int
	Active      int   // those in use
	Size        int64 // bytes on the disk
	Reclaimable int64 // of them, bytes that could be had back without losing what is in use
}

// DiskUsage says what the store takes on the disk, and what of it could go: images that no container uses,
// and what nothing refers to; compressed forms that can be made again; containers that do not run,
// and volumes that no container has. All together is what du(1) says of the store.
func (e *Engine) DiskUsage(ctx context.Context) ([]Usage, error) {
	d := &usage{engine: e, ctx: ctx}
	for _, part := range []func() error{d.images, d.forms, d.containers, d.volumes, d.partials, d.others} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	return d.rows, nil
}

// usage is DiskUsage on its way.
type usage struct {
	engine *Engine
	ctx    context.Context //nolint:containedctx // lives exactly as long as the one call
	rows   []Usage
	blobs  int64 // bytes of blobs that are in a row of their own
	names  int64 // bytes of containers' names, which are in the containers' row
}

func (d *usage) path(elem ...string) string {
	return filepath.Join(append([]string{d.engine.Store.Root()}, elem...)...)
}

func (d *usage) of(elem ...string) (int64, error) { return diskusage.Of(d.ctx, d.path(elem...)) }

// images counts the layers, and what is left of removed ones for others' sake.
func (d *usage) images() error {
	shares, err := d.engine.shares(d.ctx)
	if err != nil {
		return err
	}
	row := Usage{Type: "Images", Total: len(shares.images)}
	for _, img := range shares.images {
		if img.Containers > 0 {
			row.Active++
		}
	}
	for users, bytes := range shares.layers.all() {
		row.Size += bytes
		if !slices.ContainsFunc(users, func(i int) bool { return shares.images[i].Containers > 0 }) {
			row.Reclaimable += bytes
		}
	}
	d.rows = append(d.rows, row)
	return nil
}

// forms counts the compressed forms that take room. One whose recipe is known need not.
func (d *usage) forms() error {
	row := Usage{Type: "Compressed forms"}
	forms, err := d.engine.Forms(d.ctx)
	if err != nil {
		return err
	}
	for _, f := range forms {
		row.Total++
		if !f.Kept {
			continue
		}
		bytes, err := d.of("blobs", f.Blob.Algorithm(), f.Blob.Hex())
		if err != nil {
			return err
		}
		row.Active++
		row.Size += bytes
		if f.Recipe != "" {
			row.Reclaimable += bytes
		}
	}
	d.blobs = row.Size
	d.rows = append(d.rows, row)
	return nil
}

// ContainerDisk gives the bytes that a container takes on the disk, its record, its name and all.
func (e *Engine) ContainerDisk(ctx context.Context, c *Container) (int64, error) {
	bytes, err := diskusage.Of(ctx, c.Dir())
	if err != nil {
		return 0, err
	}
	name, err := e.nameDisk(ctx, c)
	return bytes + name, err
}

// nameDisk gives what a container's name takes: a symbolic link of 64 bytes, which is too long for an inode.
func (e *Engine) nameDisk(ctx context.Context, c *Container) (int64, error) {
	return diskusage.Of(ctx, filepath.Join(e.Store.Root(), "names", c.Name))
}

func (d *usage) containers() error {
	row := Usage{Type: "Containers"}
	containers, err := d.engine.Containers(d.ctx, ContainerFilter{All: true})
	if err != nil {
		return err
	}
	for _, c := range containers {
		bytes, err := d.engine.ContainerDisk(d.ctx, c)
		if err != nil {
			return err
		}
		name, err := d.engine.nameDisk(d.ctx, c)
		if err != nil {
			return err
		}
		d.names += name
		row.Total++
		row.Size += bytes
		if c.State.Status == StatusRunning {
			row.Active++
		} else {
			row.Reclaimable += bytes
		}
	}
	d.rows = append(d.rows, row)
	return nil
}

// VolumeUsage is what a volume takes.
type VolumeUsage struct {
	Name  string
	Links int   // containers that have it
	Size  int64 // bytes on the disk
}

// VolumeUsage lists the volumes by name.
func (e *Engine) VolumeUsage(ctx context.Context) ([]VolumeUsage, error) {
	names, err := e.Store.Volumes()
	if err != nil {
		return nil, err
	}
	containers, err := e.Containers(ctx, ContainerFilter{All: true})
	if err != nil {
		return nil, err
	}
	links := make(map[string]int)
	for _, c := range containers {
		for _, m := range c.Settings.Mounts {
			if m.Type == mountVolume {
				links[m.Name]++
			}
		}
	}
	var list []VolumeUsage
	for _, name := range names {
		bytes, err := diskusage.Of(ctx, filepath.Join(e.Store.Root(), "volumes", name))
		if err != nil {
			return nil, err
		}
		list = append(list, VolumeUsage{Name: name, Links: links[name], Size: bytes})
	}
	return list, nil
}

func (d *usage) volumes() error {
	row := Usage{Type: "Local Volumes"}
	volumes, err := d.engine.VolumeUsage(d.ctx)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		row.Total++
		row.Size += v.Size
		if v.Links > 0 {
			row.Active++
		} else {
			row.Reclaimable += v.Size
		}
	}
	d.rows = append(d.rows, row)
	return nil
}

func (d *usage) partials() error {
	count, _, err := d.engine.Store.PartialSize()
	if err != nil {
		return err
	}
	bytes, err := d.of("partial")
	row := Usage{Type: "Interrupted pulls", Total: count, Size: bytes}
	if count > 0 { // else it is the directory alone
		row.Reclaimable = bytes
	}
	d.rows = append(d.rows, row)
	return err
}

// others counts what is left: records, manifests and configs, init layers, what is being made, and
// directories themselves.
func (d *usage) others() error {
	row := Usage{Type: "Records and others"}
	entries, err := os.ReadDir(d.path())
	if err != nil {
		return err
	}
	names := []string{"."}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	for _, name := range names {
		measure := diskusage.Of
		switch name {
		case ".", "layers", "remnants", "containers", "volumes":
			measure = diskusage.Self // what is in it has been counted
		case "partial":
			continue
		}
		bytes, err := measure(d.ctx, d.path(name))
		if err != nil {
			return err
		}
		row.Size += bytes
		switch name {
		case "blobs":
			row.Size -= d.blobs
		case "names":
			row.Size -= d.names
		}
	}
	d.rows = append(d.rows, row)
	return nil
}

// KeptForms sums up the compressed forms of an image: how many bytes are kept, and how many layers' can
// be made again instead.
func (e *Engine) KeptForms(row ImageRow) (kept int64, remade int, err error) {
	forms, err := e.formsOf(row.record)
	if errors.Is(err, store.ErrNotFound) {
		return 0, 0, nil // removed since it was listed
	}
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

// blobUsage gives what a blob takes on the disk; nothing if it is not there.
func (e *Engine) blobUsage(ctx context.Context, d image.Digest) (int64, error) {
	return diskusage.Of(ctx, filepath.Join(e.Store.Root(), "blobs", d.Algorithm(), d.Hex()))
}
