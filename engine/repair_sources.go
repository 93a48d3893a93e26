package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/tarnfs/tarn/archive"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry"
	"github.com/tarnfs/tarn/store"
)

// archived is an archive that things may be had from.
type archived struct {
	name   string
	opened *openedArchive
	images []archive.Image
}

func (r *repair) openArchives(ctx context.Context) error {
	for _, path := range r.opts.From {
		opened, err := r.engine.openArchive(ctx, LoadOptions{Input: path})
		if err != nil {
			return fmt.Errorf("repair from %s: %w", path, err)
		}
		r.archives = append(r.archives, archived{name: path, opened: opened})
		images, err := opened.archive.Images(image.Platform{})
		if err != nil {
			return fmt.Errorf("repair from %s: %w", path, err)
		}
		r.archives[len(r.archives)-1].images = images
	}
	return nil
}

func (r *repair) close() {
	for _, a := range r.archives {
		a.opened.close()
	}
}

// source is somewhere that bytes are to be had; whoever takes them verifies them.
type source struct {
	name string
	open func(ctx context.Context) (io.ReadCloser, error)
	// at opens a stretch of it, where that can be had without what is before it; else nil.
	at func(ctx context.Context, offset, length int64) (io.ReadCloser, error)
}

// tarSources yields where a layer's tar is to be had, the nearest first.
func (r *repair) tarSources(diffID image.Digest) iter.Seq[source] {
	return func(yield func(source) bool) {
		for _, p := range r.pairs {
			if p.diffID == diffID && p.blob.Digest != diffID && r.engine.Store.HasBlob(p.blob.Digest) {
				open := func(context.Context) (io.ReadCloser, error) { return r.engine.Store.OpenBlob(p.blob.Digest) }
				if !yield(source{name: "its compressed form", open: decompressed(open)}) {
					return
				}
			}
		}
		for l, name := range r.archivedLayers() {
			if l.DiffID == diffID && !yield(source{name: name, open: decompressed(openLayer(l))}) {
				return
			}
		}
		for _, p := range r.pairs {
			if p.diffID == diffID && r.mayAsk(p.image) && !yield(r.remoteTar(p)) {
				return
			}
		}
	}
}

func openLayer(l archive.Layer) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		r, _, err := l.Open()
		return r, err
	}
}

func (r *repair) archivedLayers() iter.Seq2[archive.Layer, string] {
	return func(yield func(archive.Layer, string) bool) {
		for _, a := range r.archives {
			for _, img := range a.images {
				for _, l := range img.Layers {
					if !yield(l, a.name) {
						return
					}
				}
			}
		}
	}
}

// decompressed gives what is in a compressed source.
func decompressed(open func(context.Context) (io.ReadCloser, error)) func(context.Context) (io.ReadCloser, error) {
	return func(ctx context.Context) (io.ReadCloser, error) {
		raw, err := open(ctx)
		if err != nil {
			return nil, err
		}
		tar, _, err := decompress(raw)
		if err != nil {
			return nil, errors.Join(err, raw.Close())
		}
		return &joinedCloser{Reader: tar, closers: []io.Closer{tar, raw}}, nil
	}
}

type joinedCloser struct {
	io.Reader
	closers []io.Closer
}

func (c *joinedCloser) Close() error {
	var errs []error
	for _, closer := range c.closers {
		errs = append(errs, closer.Close())
	}
	return errors.Join(errs...)
}

// mayAsk: what was made here, and never was in a registry, is in none.
func (r *repair) mayAsk(img store.Image) bool { return !r.opts.Offline && img.Name != "" && !img.Made }

func (r *repair) repository(img store.Image) (*registry.Repository, image.Reference, error) {
	ref, err := image.ParseReference(img.Name)
	if err != nil {
		return nil, ref, err
	}
	repo, err := repository(ref, r.opts.Registry, registry.Pull)
	return repo, ref, err
}

// remoteTar is a layer in a registry. Of one that is not compressed stretches can be had.
func (r *repair) remoteTar(p pairing) source {
	at := func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
		repo, _, err := r.repository(p.image)
		if err != nil {
			return nil, err
		}
		blob, err := repo.BlobRange(ctx, p.blob, offset, length)
		if err != nil {
			repo.Close()
			return nil, err
		}
		return &joinedCloser{Reader: blob, closers: []io.Closer{blob, closerFunc(repo.Close)}}, nil
	}
	open := func(ctx context.Context) (io.ReadCloser, error) { return at(ctx, 0, p.blob.Size) }
	s := source{name: familiar(p.image.Name), open: decompressed(open)}
	if p.blob.Digest == p.diffID {
		s.at = at
	}
	return s
}

type closerFunc func()

func (f closerFunc) Close() error {
	f()
	return nil
}

// mendBlob gets a blob again.
func (r *repair) mendBlob(ctx context.Context, d image.Digest) error {
	return firstSource(ctx, r.blobSources(d), func(s source) error { return r.takeBlob(ctx, d, s) })
}

// firstSource takes what is missing from the first source that has it. The error says of each why not.
func firstSource(ctx context.Context, sources iter.Seq[source], take func(source) error) error {
	err := store.ErrNoSource
	for s := range sources {
		sourceErr := take(s)
		if sourceErr == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err = fmt.Errorf("%w; from %s: %w", err, s.name, sourceErr)
	}
	return err
}

func (r *repair) takeBlob(ctx context.Context, d image.Digest, s source) error {
	in, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer in.Close()
	staged, err := r.engine.Store.StageBlob(in, d, -1)
	if err != nil {
		return err
	}
	lock, err := r.engine.Store.Shared(ctx)
	if err != nil {
		return errors.Join(err, staged.Abort())
	}
	return errors.Join(staged.Publish(lock), lock.Unlock(), staged.Abort())
}

// blobSources yields where a blob is to be had: the layer that it is, archives, registries, and the layer that
// it is the compressed form of.
func (r *repair) blobSources(d image.Digest) iter.Seq[source] {
	return func(yield func(source) bool) {
		if l, err := r.engine.Store.Layer(d); err == nil {
			if !yield(source{name: "the layer", open: func(context.Context) (io.ReadCloser, error) { return l.OpenTar() }}) {
				return
			}
		}
		if !r.archivedBlobs(d, yield) || !r.remoteBlobs(d, yield) {
			return
		}
		for _, p := range r.pairs {
			if p.blob.Digest == d && p.diffID != d {
				yield(source{name: "the layer, compressed again", open: r.compressedAgain(p)})
				return
			}
		}
	}
}

func (r *repair) archivedBlobs(d image.Digest, yield func(source) bool) bool {
	for document, name := range r.archivedDocuments() {
		open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(document)), nil }
		if image.DigestBytes(document) == d && !yield(source{name: name, open: open}) {
			return false
		}
	}
	for l, name := range r.archivedLayers() {
		if l.Descriptor.Digest == d && !yield(source{name: name, open: openLayer(l)}) {
			return false
		}
	}
	return true
}

// archivedDocuments yields manifests and configs, and the names of their archives.
func (r *repair) archivedDocuments() iter.Seq2[[]byte, string] {
	return func(yield func([]byte, string) bool) {
		for _, a := range r.archives {
			for _, img := range a.images {
				if !yield(img.Manifest, a.name) || !yield(img.Config, a.name) {
					return
				}
			}
		}
	}
}

func (r *repair) remoteBlobs(d image.Digest, yield func(source) bool) bool {
	for _, p := range r.pairs {
		if p.blob.Digest != d || !r.mayAsk(p.image) {
			continue
		}
		s := r.remoteTar(p)
		plain := pairing{blob: p.blob, diffID: p.blob.Digest, image: p.image}
		s.open = func(ctx context.Context) (io.ReadCloser, error) { return r.remoteTar(plain).at(ctx, 0, p.blob.Size) }
		if !yield(s) {
			return false
		}
	}
	records, err := r.engine.Store.ReadableImages()
	if err != nil {
		return true
	}
	for _, img := range records {
		if d != img.Manifest && d != img.Index && d != img.ID || !r.mayAsk(img) {
			continue
		}
		if !yield(source{name: familiar(img.Name), open: func(ctx context.Context) (io.ReadCloser, error) { return r.remoteDocument(ctx, img, d) }}) {
			return false
		}
	}
	return true
}

// remoteDocument gets a manifest or a config from a registry.
func (r *repair) remoteDocument(ctx context.Context, img store.Image, d image.Digest) (io.ReadCloser, error) {
	repo, ref, err := r.repository(img)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	if d != img.ID {
		doc, err := repo.Manifest(ctx, ref.WithDigest(d))
		if err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(doc.Raw)), nil
	}
	doc, err := repo.Manifest(ctx, ref.WithDigest(img.Manifest))
	if err != nil {
		return nil, err
	}
	manifest, err := image.ParseManifest(doc.Raw)
	if err != nil {
		return nil, err
	}
	raw, err := repo.ReadBlob(ctx, manifest.Config, image.MaxConfigSize)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

// compressedAgain looks for a program that makes the compressed form of the tar: by its recipe, and if that
// is lost, by trying all that are known.
func (r *repair) compressedAgain(p pairing) func(ctx context.Context) (io.ReadCloser, error) {
	return func(ctx context.Context) (io.ReadCloser, error) {
		var known []compressor
		if recipe, err := r.engine.Store.Recipe(p.blob.Digest); err == nil {
			if c, err := parseCompressor(recipe.Compressor); err == nil {
				known = append(known, c)
			}
		}
		known = append(append(known, knownCompressors(compressGzip)...), knownCompressors(compressZstd)...)
		for _, c := range known {
			made, err := r.engine.compressLayer(ctx, p.diffID, c)
			if err != nil {
				return nil, err
			}
			digest, size, err := made.spool.digest()
			if err == nil && digest == p.blob.Digest {
				return made.reader(size), nil
			}
			if err = errors.Join(err, made.Close()); err != nil {
				return nil, err
			}
		}
		return nil, errors.New("no known program makes it")
	}
}

// namedInArchive finds the image of an archive whose name has the key given.
func (r *repair) namedInArchive(key string) (store.Image, bool) {
	for _, a := range r.archives {
		for i := range a.images {
			img := &a.images[i]
			names, err := archiveNames(img, repositoryOf(a.name))
			if err != nil || img.Manifest == nil {
				continue
			}
			found := store.Image{Manifest: image.DigestBytes(img.Manifest), ID: img.ID(), Created: img.Parsed.CreatedAt()}
			for _, name := range names {
				if full := name.WithDefaultTag().String(); store.ImageKey(full) == key {
					found.Name = full
					return found, true
				}
			}
			if store.ImageKey("@"+string(found.Manifest)) == key {
				return found, true
			}
		}
	}
	return store.Image{}, false
}
