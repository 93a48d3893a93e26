package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry/server"
	"github.com/tarnfs/tarn/store"
)

// PutManifest implements server.Writer. Whatever is pushed is held by its digest. What gets a tag, and
// is an image or an index with one for this machine, becomes a local image of that name as well: its
// layers are indexed, and verified against its config. An image whose config is wrong about them is
// held as it is, as any registry would, but it is not one that can be run here.
func (c *storeContent) PutManifest(ctx context.Context, repository string, m server.Manifest, doc *image.Document, tags []string) (err error) {
	name, err := repositoryName(repository)
	if err != nil {
		return err
	}
	push := &manifestPush{content: c, repository: name, manifest: m, doc: doc, tags: tags}
	defer func() { err = errors.Join(err, push.release()) }()
	if len(tags) > 0 {
		if err := push.stageImage(ctx); err != nil {
			return err
		}
	}
	lock, err := c.engine.Store.Shared(ctx)
	if err != nil {
		return err
	}
	return errors.Join(push.publish(lock), lock.Unlock())
}

// manifestPush is a manifest on its way into the store.
type manifestPush struct {
	content    *storeContent
	repository string // canonical
	manifest   server.Manifest
	doc        *image.Document
	tags       []string
	image      *draft      // what can be run here; nil if that is nothing
	pins       *store.Pins // of its layers, which are in the store before it is; nil without
}

func (p *manifestPush) release() error {
	if p.pins == nil {
		return nil
	}
	return p.pins.Release()
}

// publish makes all of it visible.
func (p *manifestPush) publish(lock *store.Lock) error {
	s := p.content.engine.Store
	for _, blob := range p.doc.Blobs() {
		if err := p.publishBlob(lock, blob); err != nil {
			return err
		}
	}
	if err := putBlobAs(s, lock, p.manifest.Digest, p.manifest.Raw); err != nil {
		return err
	}
	now := time.Now().UTC()
	held := store.Entry{Repository: p.repository, Manifest: p.manifest.Digest, Created: now}
	if err := s.SetEntry(lock, held); err != nil {
		return err
	}
	if p.image != nil {
		if _, err := p.content.engine.publishLocked(lock, p.image); err != nil {
			return err
		}
		return p.dropTars()
	}
	for _, tag := range p.tags {
		held.Tag = tag
		if err := s.SetEntry(lock, held); err != nil {
			return err
		}
	}
	return nil
}

// publishBlob makes sure that the store has the blob, or will have it as a layer.
func (p *manifestPush) publishBlob(lock *store.Lock, blob image.Descriptor) error {
	s := p.content.engine.Store
	if isLayer(s, blob.Digest) {
		return nil
	}
	published, err := p.content.pending.publish(lock, blob.Digest)
	if published || err != nil {
		return err
	}
	if s.HasBlob(blob.Digest) || !blob.Distributable() {
		return nil
	}
	if _, found := p.content.engine.recipeFor(blob.Digest); found {
		return nil
	}
	return fmt.Errorf("%w: %s", server.ErrMissing, blob.Digest)
}

// dropTars drops what was pushed and is kept as a layer now.
func (p *manifestPush) dropTars() error {
	var errs []error
	for _, blob := range p.doc.Blobs() {
		if isLayer(p.content.engine.Store, blob.Digest) {
			_, err := p.content.pending.discard(blob.Digest)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func isLayer(s *store.Store, d image.Digest) bool {
	return d.Algorithm() == image.SHA256 && s.HasLayer(d)
}

// putBlobAs publishes a small blob whose digest was verified.
func putBlobAs(s *store.Store, lock *store.Lock, d image.Digest, data []byte) error {
	if s.HasBlob(d) {
		return nil
	}
	w, err := s.NewBlob(d.Algorithm())
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return errors.Join(err, w.Abort())
	}
	stage, err := w.Finish(d)
	if err != nil {
		return err
	}
	return errors.Join(stage.Publish(lock), stage.Abort())
}

// stageImage prepares what can be run here, if there is anything. Only trouble of this machine is an
// error.
func (p *manifestPush) stageImage(ctx context.Context) error {
	raw, err := p.choose(ctx)
	if raw == nil || err != nil {
		return err
	}
	p.image = &draft{manifest: raw}
	if image.IsIndex(p.doc.MediaType) {
		p.image.index = p.manifest.Raw
	}
	for _, tag := range p.tags {
		ref, err := image.ParseReference(p.repository + ":" + tag)
		if err != nil {
			return fmt.Errorf("%w: %w", server.ErrName, err)
		}
		p.image.names = append(p.image.names, ref)
	}
	err = p.takeLayers(ctx)
	if err == nil {
		return nil
	}
	err = errors.Join(err, p.release())
	p.image = nil
	// If this fails, too, the next sweep does it.
	_ = p.content.engine.sweepUnused(context.WithoutCancel(ctx))
	if ctx.Err() != nil || isTrouble(err) {
		return err
	}
	if !errors.Is(err, image.ErrNotImage) {
		p.content.log(fmt.Sprintf("%s %s can be pulled, but not run here: %v", p.repository, p.manifest.Digest, err))
	}
	return nil
}

// isTrouble tells what this machine failed at from what is wrong with an image.
func isTrouble(err error) bool {
	_, failed := errors.AsType[syscall.Errno](err)
	return failed
}

// choose gives the manifest of the image itself: of an index, the one for this machine. It is nil if
// there is none, or it is not here.
func (p *manifestPush) choose(ctx context.Context) ([]byte, error) {
	if p.manifest.Digest.Algorithm() != image.SHA256 {
		return nil, nil // the store's images go by sha256
	}
	raw := p.manifest.Raw
	for range maxNestedIndexes {
		kind, err := image.DocumentType(raw)
		if err != nil || !image.IsIndex(kind) {
			return raw, err
		}
		index, err := image.ParseIndex(raw)
		if err != nil {
			return nil, err
		}
		choice, err := index.Choose(image.HostPlatform())
		if errors.Is(err, image.ErrNoPlatform) || err == nil && choice.Digest.Algorithm() != image.SHA256 {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		m, err := p.content.Manifest(ctx, p.repository, server.Reference{Digest: choice.Digest})
		if errors.Is(err, server.ErrManifest) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		raw = m.Raw
	}
	return nil, nil
}

// takeLayers verifies the image, and takes in those of its layers that the store lacks. Pins keep them until the image has
// its name.
func (p *manifestPush) takeLayers(ctx context.Context) error {
	manifest, err := image.ParseManifest(p.image.manifest)
	if err != nil {
		return err
	}
	if p.image.config, err = p.content.readBlob(ctx, manifest.Config.Digest, image.MaxConfigSize); err != nil {
		return err
	}
	config, err := image.ParseConfig(p.image.config)
	if err != nil {
		return err
	}
	if have := image.DigestBytes(p.image.config); have != manifest.Config.Digest {
		return fmt.Errorf("%w: the config is %s, the manifest says %s", image.ErrDocument, have, manifest.Config.Digest)
	}
	p.image.layers = config.RootFS.DiffIDs
	if have, want := len(manifest.Layers), len(p.image.layers); have != want {
		return fmt.Errorf("%w: %d layers, its config has %d", image.ErrDocument, have, want)
	}
	layers := distinctLayers(manifest, config)
	if p.pins, err = p.content.engine.pin(ctx, layers); err != nil {
		return err
	}
	proofs := p.content.engine.newPairProofs()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(pulledAtOnce)
	for _, l := range layers {
		if p.content.engine.Store.HasLayer(l.diffID) {
			if known, err := proofs.has(layerPair{l.want.Digest, l.diffID}); err != nil {
				return errors.Join(err, group.Wait())
			} else if known {
				continue
			}
		}
		group.Go(func() error { return p.takeLayer(ctx, l) })
	}
	return group.Wait()
}

// takeLayer takes in the layer, verified. If the store has it, it is still verified that it is what
// the blob holds: so far that is only what the image says.
func (p *manifestPush) takeLayer(ctx context.Context, l layerOf) error {
	select {
	case p.content.staging <- struct{}{}:
		defer func() { <-p.content.staging }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	blob, err := p.content.Blob(ctx, l.want.Digest)
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.want.Digest.Short(), err)
	}
	defer blob.Close() //nolint:errcheck // read only
	// The blob's own digest was verified when it came.
	staged, err := p.content.engine.stageBlob(ctx, blob, image.Descriptor{Size: l.want.Size}, l.diffID)
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.want.Digest.Short(), err)
	}
	return p.content.engine.publishLayer(ctx, staged)
}

// readBlob reads a document that was pushed, verified by the one who took it in.
func (c *storeContent) readBlob(ctx context.Context, d image.Digest, limit int64) ([]byte, error) {
	blob, err := c.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer blob.Close() //nolint:errcheck // read only
	raw, err := io.ReadAll(io.LimitReader(blob, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%w: %s has more than %d bytes", image.ErrDocument, d, limit)
	}
	return raw, err
}
