package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry/server"
	"github.com/tarnfs/tarn/store"
)

// storeContent serves the store as a registry. A repository's name is read as every command reads
// one: "debian" and "docker.io/library/debian" are the same.
//
// Repositories hold the images that have a name in them, and the store's entries. What was pushed and
// no manifest refers to yet waits in the uploads' stages, which end with the process.
type storeContent struct {
	engine  *Engine
	pending pendingBlobs
	staging chan struct{} // holds a value for each layer that is being decompressed
	log     func(line string)
}

var _ server.Content = (*storeContent)(nil)

// repositoryName reads the name of a repository in a request.
func repositoryName(repository string) (string, error) {
	ref, err := image.ParseReference(repository)
	if err != nil {
		return "", fmt.Errorf("%w: %w", server.ErrName, err)
	}
	return ref.Repository(), nil
}

// servedName gives the shortest name by which a repository is served; "" if there is none, as for
// the registry's port that an image's name may have.
func servedName(ref image.Reference) string {
	if name := ref.FamiliarName(); image.ValidRepository(name) {
		return name
	}
	return ""
}

// Repositories implements server.Reader.
func (c *storeContent) Repositories(context.Context) ([]string, error) {
	names := make(map[string]bool)
	images, err := c.engine.Store.Images()
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		if ref, err := image.ParseReference(img.Name); err == nil {
			names[servedName(ref)] = true
		}
	}
	entries, err := c.engine.Store.Entries()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if ref, err := image.ParseReference(e.Repository); err == nil {
			names[servedName(ref)] = true
		}
	}
	delete(names, "")
	return slices.Sorted(maps.Keys(names)), nil
}

// Tags implements server.Reader.
func (c *storeContent) Tags(_ context.Context, repository string) ([]string, error) {
	name, err := repositoryName(repository)
	if err != nil {
		return nil, err
	}
	tags := make(map[string]bool) // "" for what has none
	images, err := c.engine.imagesIn(name)
	if err != nil {
		return nil, err
	}
	for ref := range images {
		tags[ref.Tag()] = true
	}
	entries, err := c.engine.entriesIn(name)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		tags[e.Tag] = true
	}
	if len(tags) == 0 {
		return nil, fmt.Errorf("%w: %s", server.ErrRepository, repository)
	}
	delete(tags, "")
	return slices.Sorted(maps.Keys(tags)), nil
}

// imagesIn gives the images that have a name in a repository, by that name.
func (e *Engine) imagesIn(repository string) (map[image.Reference]store.Image, error) {
	images, err := e.Store.Images()
	if err != nil {
		return nil, err
	}
	in := make(map[image.Reference]store.Image)
	for _, img := range images {
		if ref, err := image.ParseReference(img.Name); err == nil && ref.Repository() == repository {
			in[ref] = img
		}
	}
	return in, nil
}

func (e *Engine) entriesIn(repository string) ([]store.Entry, error) {
	entries, err := e.Store.Entries()
	return slices.DeleteFunc(entries, func(e store.Entry) bool { return e.Repository != repository }), err
}

// Manifest implements server.Reader.
func (c *storeContent) Manifest(_ context.Context, repository string, ref server.Reference) (server.Manifest, error) {
	name, err := repositoryName(repository)
	if err != nil {
		return server.Manifest{}, err
	}
	d := ref.Digest
	if d == "" {
		d, err = c.resolve(name, ref.Tag)
	} else {
		err = c.holds(name, d)
	}
	if err != nil {
		return server.Manifest{}, err
	}
	raw, err := c.engine.Store.ReadBlob(d, image.MaxManifestSize)
	if err != nil {
		return server.Manifest{}, notFoundAs(server.ErrManifest, err)
	}
	mediaType, err := image.DocumentType(raw)
	return server.Manifest{Digest: d, MediaType: mediaType, Raw: raw}, err
}

// notFoundAs says what was not found in the registry's words.
func notFoundAs(as, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return as
	}
	return err
}

// resolve gives what a tag stands for.
func (c *storeContent) resolve(repository, tag string) (image.Digest, error) {
	img, err := c.engine.Store.Image(repository + ":" + tag)
	if err == nil {
		return img.Target(), nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return "", err
	}
	entry, err := c.engine.Store.Entry(repository, tag)
	return entry.Manifest, notFoundAs(server.ErrManifest, err)
}

// holds reports as an error that the repository does not hold the manifest.
func (c *storeContent) holds(repository string, d image.Digest) error {
	_, err := c.engine.Store.EntryByDigest(repository, d)
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return err
	}
	images, err := c.engine.imagesIn(repository)
	if err != nil {
		return err
	}
	for _, img := range images {
		if img.Manifest == d || img.Index == d {
			return nil
		}
	}
	return server.ErrManifest
}

// Referrers implements server.Reader.
func (c *storeContent) Referrers(_ context.Context, repository string, subject, after image.Digest) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		digests, err := c.manifestsIn(repository)
		if err != nil {
			yield(image.Descriptor{}, err)
			return
		}
		for _, d := range digests {
			if d <= after {
				continue
			}
			descriptor, refers, err := c.referrer(d, subject)
			if err == nil && !refers {
				continue
			}
			if !yield(descriptor, err) || err != nil {
				return
			}
		}
	}
}

// manifestsIn lists the digests of all that a repository holds, sorted.
func (c *storeContent) manifestsIn(repository string) ([]image.Digest, error) {
	name, err := repositoryName(repository)
	if err != nil {
		return nil, err
	}
	digests := make(map[image.Digest]bool)
	entries, err := c.engine.entriesIn(name)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		digests[e.Manifest] = true
	}
	images, err := c.engine.imagesIn(name)
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		digests[img.Manifest] = true
		digests[cmp.Or(img.Index, img.Manifest)] = true
	}
	return slices.Sorted(maps.Keys(digests)), nil
}

func (c *storeContent) referrer(d, subject image.Digest) (image.Descriptor, bool, error) {
	raw, err := c.engine.Store.ReadBlob(d, image.MaxManifestSize)
	if errors.Is(err, store.ErrNotFound) {
		return image.Descriptor{}, false, nil // deleted meanwhile
	}
	if err != nil {
		return image.Descriptor{}, false, err
	}
	doc, err := image.ParseDocument(raw)
	if err != nil || doc.Subject == nil || doc.Subject.Digest != subject {
		return image.Descriptor{}, false, err
	}
	return server.Referrer(d, len(raw), doc), true, nil
}

// Blob implements server.Reader. A blob is one that waits for its manifest, or is kept, or is made
// again, or it is a layer's tar, which is its own blob where it was not compressed.
func (c *storeContent) Blob(ctx context.Context, d image.Digest) (io.ReadSeekCloser, error) {
	blob, err := c.pending.open(d)
	if err != nil {
		return nil, err
	}
	if blob != nil {
		return blob, nil
	}
	s := c.engine.Store
	kept, err := s.OpenBlob(d)
	if err == nil {
		return kept, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if recipe, found := c.engine.recipeFor(d); found {
		return c.remade(ctx, recipe), nil
	}
	if !isLayer(s, d) {
		return nil, fmt.Errorf("%w: %s", server.ErrBlob, d)
	}
	layer, err := s.Layer(d)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", notFoundAs(server.ErrBlob, err), d)
	}
	tar, err := layer.OpenTar()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", notFoundAs(server.ErrBlob, err), d)
	}
	return tar, nil
}
