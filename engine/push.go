package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry"
	"github.com/tarnfs/tarn/store"
)

// pushedAtOnce bounds the layers that are uploaded at the same time, as Docker does.
const pushedAtOnce = 5

// maxMountSources bounds the repositories that a token is asked for to mount layers from.
const maxMountSources = 4

// PushOptions says how to push.
type PushOptions struct {
	Registry RegistryOptions
	// Compression is "gzip" (the default), "zstd" or "none": of layers made here, which are kept as plain
	// tars. Layers of images from elsewhere are pushed as they came, digests unchanged.
	Compression string
	Level       int // of the compression; 0 is the default
	// Recompress applies Compression to all layers; the manifest's digest changes.
	Recompress bool
	// All sends signatures, attestations and other referrers that were pulled with the image, too. They
	// are of use only if its digest stays the same.
	All    bool
	Report Report
}

// Pushed says what was pushed.
type Pushed struct {
	Name     image.Reference
	Digest   image.Digest // of the manifest
	Size     int64        // of the manifest, in bytes
	Manifest []byte
	// Companions is the number of signatures and the like that were sent, too.
	Companions int
}

// Push uploads an image to the registry in the name to, or in its own name if to is "". What the
// registry has already is not sent.
func (e *Engine) Push(ctx context.Context, name, to string, opts PushOptions) (_ *Pushed, err error) {
	pins, err := e.Store.NewPins()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pins.Release()) }()
	p, err := e.newPush(ctx, name, to, pins, opts)
	if err != nil {
		return nil, err
	}
	defer p.repo.Close()
	defer func() { err = errors.Join(err, p.records.Wait()) }()
	manifest, mediaType, err := p.layersAndConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", p.ref.Familiar(), err)
	}
	if err := p.repo.PutManifest(ctx, p.ref, mediaType, manifest); err != nil {
		return nil, err
	}
	pushed := &Pushed{Name: p.ref, Digest: image.DigestBytes(manifest), Size: int64(len(manifest)), Manifest: manifest}
	if opts.All {
		if pushed.Companions, err = p.companions(ctx, pins, pushed.Digest); err != nil {
			return nil, fmt.Errorf("push what is about %s: %w", p.ref.Familiar(), err)
		}
	}
	return pushed, nil
}

// companions sends what was pulled with the image from its repository: signatures and the like.
func (p *push) companions(ctx context.Context, pins *store.Pins, digest image.Digest) (int, error) {
	t := transfer{
		from: &localShelf{engine: p.engine, pins: pins, repository: p.source.Repository()}, fromRef: p.source,
		to: &remoteShelf{repo: p.repo, ref: p.ref, report: p.report}, toRef: p.ref,
	}
	return t.companions(ctx, digest, 0)
}

// push is an image on its way to a registry.
type push struct {
	engine     *Engine
	repo       *registry.Repository
	ref        image.Reference
	report     Report
	compressor compressor
	recompress bool
	raw        []byte // the manifest as it is here
	manifest   *image.Manifest
	config     []byte
	diffIDs    []image.Digest
	made       bool
	source     image.Reference                    // the image's own name; zero if it has none
	mounts     map[image.Digest][]image.Reference // repositories of the registry that may have a blob
	records    errgroup.Group                     // writes down what was compressed, while the rest is sent
}

func (e *Engine) newPush(ctx context.Context, name, to string, pins *store.Pins, opts PushOptions) (_ *push, err error) {
	p := &push{engine: e, report: opts.Report, recompress: opts.Recompress}
	if p.compressor, err = newCompressor(opts.Compression, opts.Level); err != nil {
		return nil, err
	}
	if err := p.load(ctx, name, pins); err != nil {
		return nil, err
	}
	if to == "" {
		to = name
	}
	if p.ref, err = remoteReference(to); err != nil {
		return nil, fmt.Errorf("%w (give the name to push to after the image)", err)
	}
	if p.ref.Digest() != "" {
		return nil, fmt.Errorf("%w: %s: push to a tag, the digest follows from what is pushed", ErrOption, to)
	}
	sources, err := p.findMounts()
	if err != nil {
		return nil, err
	}
	client, err := registry.New(opts.Registry)
	if err != nil {
		return nil, err
	}
	p.repo, err = client.Repository(p.ref, registry.Push, sources...)
	return p, err
}

// load reads the image's documents, and keeps what it needs from being swept meanwhile.
func (p *push) load(ctx context.Context, name string, pins *store.Pins) (err error) {
	lock, err := p.engine.Store.Shared(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	img, err := p.engine.Image(name)
	if err != nil {
		return err
	}
	p.made, p.diffIDs = img.Made, img.Config.RootFS.DiffIDs
	if img.Name != "" {
		if p.source, err = image.ParseReference(img.Name); err != nil {
			return err
		}
	}
	if p.raw, err = p.engine.Store.ReadBlob(img.Manifest, image.MaxManifestSize); err != nil {
		return err
	}
	if p.config, err = p.engine.Store.ReadBlob(img.ID, image.MaxConfigSize); err != nil {
		return err
	}
	if p.manifest, err = image.ParseManifest(p.raw); err != nil {
		return err
	}
	for i, l := range p.manifest.Layers {
		if err := pins.Add(lock, p.diffIDs[i], l.Digest); err != nil {
			return err
		}
	}
	return nil
}

// findMounts looks for repositories in the same registry whose images, here, have the same blobs.
func (p *push) findMounts() ([]image.Reference, error) {
	records, err := p.engine.Store.Images()
	if err != nil {
		return nil, err
	}
	wanted := make(map[image.Digest]bool)
	for _, l := range p.manifest.Layers {
		wanted[l.Digest] = true
	}
	p.mounts = make(map[image.Digest][]image.Reference)
	var sources []image.Reference
	for _, record := range records {
		ref, err := image.ParseReference(record.Name)
		if err != nil || ref.Domain() != p.ref.Domain() || ref.Path() == p.ref.Path() {
			continue
		}
		manifest, err := p.engine.Store.Manifest(record.Manifest)
		if err != nil {
			continue // not this image's concern
		}
		used := false
		for _, l := range manifest.Layers {
			if wanted[l.Digest] && len(sources) < maxMountSources {
				p.mounts[l.Digest] = append(p.mounts[l.Digest], ref)
				used = true
			}
		}
		if used && !slices.ContainsFunc(sources, func(s image.Reference) bool { return s.Path() == ref.Path() }) {
			sources = append(sources, ref)
		}
	}
	return sources, nil
}

// layersAndConfig uploads what the manifest refers to, and gives the manifest.
func (p *push) layersAndConfig(ctx context.Context) (raw []byte, mediaType string, err error) {
	layers := slices.Clone(p.manifest.Layers)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(pushedAtOnce)
	first := make(map[image.Digest]int)
	for i, l := range layers {
		if _, again := first[l.Digest]; again {
			continue
		}
		first[l.Digest] = i
		p.report.tell(Transfer{Blob: l.Digest, State: Waiting, Total: l.Size})
		group.Go(func() (err error) {
			layers[i], err = p.layer(groupCtx, l, p.diffIDs[i])
			return err
		})
	}
	config := p.manifest.Config
	group.Go(func() error {
		if _, err := p.upload(groupCtx, config, bytesContent(config, p.config)); err != nil {
			return fmt.Errorf("config: %w", err)
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return nil, "", err
	}
	for i, l := range p.manifest.Layers {
		layers[i] = layers[first[l.Digest]]
	}
	if slices.EqualFunc(layers, p.manifest.Layers, func(a, b image.Descriptor) bool { return a.Digest == b.Digest }) {
		return p.raw, p.manifest.MediaType, nil
	}
	changed := *p.manifest
	// Docker's manifests have no zstd, and OCI's have all there is.
	changed.MediaType, changed.Config.MediaType, changed.Layers = image.MediaTypeManifest, image.MediaTypeConfig, layers
	raw, err = json.Marshal(&changed)
	return raw, changed.MediaType, err
}

// layer makes sure that the registry has a layer, and gives the descriptor it has there.
func (p *push) layer(ctx context.Context, l image.Descriptor, diffID image.Digest) (image.Descriptor, error) {
	plain := l.Digest == diffID
	if p.compressor.format != compressNone && (p.recompress || p.made && plain) {
		return p.compressedLayer(ctx, l, diffID)
	}
	if p.recompress && !plain {
		tar, err := p.engine.Store.Layer(diffID)
		if err != nil {
			return l, err
		}
		size, err := tar.Size()
		if err != nil {
			return l, err
		}
		l = tarDescriptor(diffID, size)
	}
	return p.upload(ctx, l, func() (registry.Content, io.Closer, error) { return p.engine.layerContent(ctx, l, diffID) })
}
