package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/rootfs"
	"github.com/tarnfs/tarn/store"
)

// CommitOptions says what image to make of a container.
type CommitOptions struct {
	Name    string   // with or without a tag; "" for an image without a name
	Author  string   // of the image and its last step
	Message string   // of the last step of its history
	Changes []string // Dockerfile instructions, applied to the container's config
	// Pause stops a running container's processes while its changes are read.
	Pause bool
}

// commitTries is how often a container that changes while it is read is read again.
const commitTries = 3

// Commit makes an image of a container: its image's layers, and one more of what it changed, if it
// changed anything. What is mounted in the container, and the init layer, is not part of it. The
// time it takes goes by what was changed. It gives the image's ID; the same changes with the same
// options and SOURCE_DATE_EPOCH give the same ID.
func (e *Engine) Commit(ctx context.Context, key string, opts CommitOptions) (image.Digest, error) {
	names, err := parseName(opts.Name)
	if err != nil {
		return "", err
	}
	c, err := e.container(ctx, key)
	if err != nil {
		return "", err
	}
	id, err := e.commit(ctx, c, names, &opts)
	if err != nil {
		return "", fmt.Errorf("commit %s: %w", c.Name, err)
	}
	return id, nil
}

func (e *Engine) commit(ctx context.Context, c *Container, names []image.Reference, opts *CommitOptions) (id image.Digest, err error) {
	parent, err := e.pinParent(ctx, c)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, parent.pins.Release()) }()
	config, err := commitConfig(c, parent.config, opts)
	if err != nil {
		return "", err
	}
	if err := e.Store.CollectLeftovers(); err != nil {
		return "", err
	}
	staged, err := e.stageChanges(ctx, c, opts.Pause)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, staged.abort()) }()
	layers, err := e.parentLayers(parent)
	if err != nil {
		return "", err
	}
	if staged.diffID == emptyLayer() {
		config.History[len(config.History)-1].EmptyLayer = true
		return e.publishNew(ctx, names, config, layers)
	}
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, staged.diffID)
	if err := checkLayers(len(config.RootFS.DiffIDs), c.Name); err != nil {
		return "", err
	}
	return e.publishNew(ctx, names, config, append(layers, tarDescriptor(staged.diffID, staged.size)), staged)
}

// parent is the image of a container, whose layers stay until the pins are released: the container may be removed
// before there is another image that needs them.
type parent struct {
	manifest *image.Manifest
	config   *image.Config
	pins     *store.Pins
}

func (e *Engine) pinParent(ctx context.Context, c *Container) (_ *parent, err error) {
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	p := new(parent)
	if p.config, err = e.config(c); err != nil {
		return nil, err
	}
	if p.manifest, err = e.Store.Manifest(c.Manifest); err != nil {
		return nil, err
	}
	if len(p.manifest.Layers) != len(p.config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("manifest %s: %w", c.Manifest, store.ErrDamaged)
	}
	if p.pins, err = e.Store.NewPins(); err != nil {
		return nil, err
	}
	for i, diffID := range p.config.RootFS.DiffIDs {
		if err := p.pins.Add(lock, diffID, p.manifest.Layers[i].Digest); err != nil {
			return nil, errors.Join(err, p.pins.Release())
		}
	}
	return p, nil
}

// checkLayers makes no image that cannot run. Of the layers that the kernel stacks, one is the init layer.
func checkLayers(count int, container string) error {
	if most := rootfs.MaxLowers - 1; count > most {
		return fmt.Errorf("%w: the image would have %d, and no more than %d can run (make one layer of them: tarn export %s | tarn import -)",
			rootfs.ErrTooManyLayers, count, most, container)
	}
	return nil
}

// emptyLayer is the diffID of a tar of nothing. As in Docker, no layer is made of it.
func emptyLayer() image.Digest { return image.DigestBytes(make([]byte, 1024)) }

// commitConfig is the image's config with what the container was started with, and the changes; not
// what is the container's alone: its name on the network, and the name of its image.
func commitConfig(c *Container, parent *image.Config, opts *CommitOptions) (*image.Config, error) {
	created, err := timestamp()
	if err != nil {
		return nil, err
	}
	run := c.Settings.Config.Clone()
	run.Hostname, run.Domainname, run.MacAddress, run.Image = "", "", "", ""
	// An entry without a value only says that the container has none.
	run.Env = slices.DeleteFunc(run.Env, func(entry string) bool { return !strings.Contains(entry, "=") })
	if err := run.ApplyChanges(opts.Changes); err != nil {
		return nil, err
	}
	command := cmp.Or(strings.Join(c.Settings.Config.Cmd, " "), strings.Join(c.Settings.Config.Entrypoint, " "))
	return &image.Config{
		Created: &created, Author: opts.Author,
		Architecture: parent.Architecture, Variant: parent.Variant,
		OS: parent.OS, OSVersion: parent.OSVersion, OSFeatures: parent.OSFeatures,
		Config: run,
		RootFS: image.RootFS{Type: parent.RootFS.Type, DiffIDs: slices.Clone(parent.RootFS.DiffIDs)},
		History: append(slices.Clone(parent.History), image.History{
			Created: &created, CreatedBy: command, Author: opts.Author, Comment: opts.Message,
		}),
	}, nil
}

// stageChanges packs, hashes, writes and indexes what the container changed, in one pass.
func (e *Engine) stageChanges(ctx context.Context, c *Container, pause bool) (*stagedLayer, error) {
	epoch, err := sourceDateEpoch()
	if err != nil {
		return nil, err
	}
	for tries := 1; ; tries++ {
		staged, err := e.tryStageChanges(ctx, c, pause, epoch)
		if tries == commitTries || !errors.Is(err, layer.ErrChanged) {
			return staged, err
		}
	}
}

func (e *Engine) tryStageChanges(ctx context.Context, c *Container, pause bool, epoch *time.Time) (*stagedLayer, error) {
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		// The container runs on when all is packed; that it is on the disk takes longer.
		w.CloseWithError(e.readContents(ctx, c, contentsOptions{pause: pause}, func(x *contents) error {
			return layer.Pack(ctx, w, x.PackSource, layer.PackOptions{SourceDateEpoch: epoch, Exclude: x.mounted, Owner: x.owner})
		}))
	}()
	staged, err := e.stagePlain(ctx, r, maxLayerSize)
	_ = r.CloseWithError(err) // has a Pack that is not finished give up
	<-packed
	return staged, err
}

// parentLayers describes the layers of the container's image as its manifest does, so that a
// registry which has them is not sent others; but as plain tars those of which only that is here.
func (e *Engine) parentLayers(p *parent) ([]image.Descriptor, error) {
	layers := make([]image.Descriptor, 0, len(p.manifest.Layers)+1)
	for i, diffID := range p.config.RootFS.DiffIDs {
		if e.Store.HasBlob(p.manifest.Layers[i].Digest) {
			layers = append(layers, ociLayer(p.manifest.Layers[i]))
			continue
		}
		l, err := e.Store.Layer(diffID)
		if err != nil {
			return nil, err
		}
		size, err := l.Size()
		if err != nil {
			return nil, err
		}
		layers = append(layers, tarDescriptor(diffID, size))
	}
	return layers, nil
}

// ociLayer gives a layer of Docker's manifests the media type it has in OCI's.
func ociLayer(d image.Descriptor) image.Descriptor {
	switch d.MediaType {
	case image.MediaTypeDockerLayer:
		d.MediaType = image.MediaTypeLayer
	case image.MediaTypeDockerGzip:
		d.MediaType = image.MediaTypeLayerGzip
	case image.MediaTypeDockerZstd:
		d.MediaType = image.MediaTypeLayerZstd
	}
	return d
}
