package engine

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry"
)

// CopyOptions says how to copy from registry to registry.
type CopyOptions struct {
	Registry RegistryOptions
	Platform *image.Platform // only this one of an index; nil copies the index with all of them
	All      bool            // signatures, attestations and other referrers, too
	Report   Report
}

// Copied says what was copied.
type Copied struct {
	Name       image.Reference // where it is now
	Digest     image.Digest
	Companions int // signatures and the like
}

// Copy copies what one name stands for in its registry to another name, there or elsewhere. Nothing
// is kept here; the digests stay what they are.
func Copy(ctx context.Context, from, to string, opts CopyOptions) (*Copied, error) {
	source, err := remoteReference(from)
	if err != nil {
		return nil, err
	}
	target, err := remoteReference(to)
	if err != nil {
		return nil, err
	}
	client, err := registry.New(opts.Registry)
	if err != nil {
		return nil, err
	}
	sourceRepo, err := client.Repository(source, registry.Pull)
	if err != nil {
		return nil, err
	}
	defer sourceRepo.Close()
	targetRepo, err := client.Repository(target, registry.Push, source)
	if err != nil {
		return nil, err
	}
	defer targetRepo.Close()
	t := transfer{
		from: &remoteShelf{repo: sourceRepo, ref: source, report: opts.Report}, fromRef: source,
		to: &remoteShelf{repo: targetRepo, ref: target, report: opts.Report}, toRef: target,
	}
	copied, err := t.copy(ctx, source, opts)
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", source.Familiar(), err)
	}
	return copied, nil
}

func (t transfer) copy(ctx context.Context, source image.Reference, opts CopyOptions) (*Copied, error) {
	if opts.Platform != nil {
		one, err := t.onlyPlatform(ctx, source, *opts.Platform)
		if err != nil {
			return nil, err
		}
		source = one
	}
	if want := t.toRef.Digest(); want != "" && source.Digest() != want {
		return nil, fmt.Errorf("%w: %s: copy to a tag, or to the digest that is copied", ErrOption, t.toRef.Familiar())
	}
	doc, err := t.manifest(ctx, source, t.toRef)
	if err != nil {
		return nil, err
	}
	copied := &Copied{Name: t.toRef, Digest: doc.Digest}
	if !opts.All {
		return copied, nil
	}
	subjects, err := listed(doc.Raw)
	if err != nil {
		return nil, err
	}
	for _, subject := range append([]image.Digest{doc.Digest}, subjects...) {
		n, err := t.companions(ctx, subject, 0)
		if copied.Companions += n; err != nil {
			return nil, err
		}
	}
	return copied, nil
}

// onlyPlatform gives the manifest for a platform by its digest.
func (t transfer) onlyPlatform(ctx context.Context, source image.Reference, platform image.Platform) (image.Reference, error) {
	for range maxNestedIndexes {
		doc, err := t.from.get(ctx, source)
		if err != nil {
			return source, err
		}
		kind, err := image.DocumentType(doc.Raw)
		if err != nil || !image.IsIndex(kind) {
			return source, err
		}
		index, err := image.ParseIndex(doc.Raw)
		if err != nil {
			return source, err
		}
		choice, err := index.Choose(platform)
		if err != nil {
			return source, err
		}
		source = source.WithDigest(choice.Digest)
	}
	return source, fmt.Errorf("%w: nested more than %d deep", image.ErrDocument, maxNestedIndexes)
}

// blobs copies what is not there yet, some at once.
func (t transfer) blobs(ctx context.Context, blobs []image.Descriptor) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(pulledAtOnce)
	seen := make(map[image.Digest]bool)
	for _, d := range blobs {
		if seen[d.Digest] || !d.Distributable() {
			continue
		}
		seen[d.Digest] = true
		group.Go(func() error { return t.to.take(ctx, d, t.from) })
	}
	return group.Wait()
}
