package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry"
	"github.com/tarnfs/tarn/store"
)

// shelf is a repository, in a registry or what the store keeps of one. Manifests of any kind go from
// one to another. An error wraps registry.ErrNotFound if there is nothing of that name.
type shelf interface {
	// get gives a manifest or index, by tag or by digest.
	get(ctx context.Context, ref image.Reference) (*registry.Document, error)
	// put adds a manifest whose blobs are there already, under ref's tag or by its digest.
	put(ctx context.Context, ref image.Reference, doc *registry.Document) error
	// referrers lists the manifests that are about another one.
	referrers(ctx context.Context, subject image.Digest) ([]image.Descriptor, error)
	// open reads a blob from offset on; whoever takes it verifies it.
	open(ctx context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error)
	// take gets a blob from another shelf, unless it is there already, and verifies it.
	take(ctx context.Context, d image.Descriptor, from shelf) error
}

// remoteShelf is a repository in a registry.
type remoteShelf struct {
	repo   *registry.Repository
	ref    image.Reference
	report Report
}

func (s *remoteShelf) get(ctx context.Context, ref image.Reference) (*registry.Document, error) {
	return s.repo.Manifest(ctx, ref)
}

func (s *remoteShelf) put(ctx context.Context, ref image.Reference, doc *registry.Document) error {
	return s.repo.PutManifest(ctx, ref, doc.MediaType, doc.Raw)
}

func (s *remoteShelf) referrers(ctx context.Context, subject image.Digest) ([]image.Descriptor, error) {
	return s.repo.Referrers(ctx, subject)
}

func (s *remoteShelf) open(ctx context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	return s.repo.Blob(ctx, d, offset)
}

// take streams the blob from one registry to the other; the receiving one compares the digest.
func (s *remoteShelf) take(ctx context.Context, d image.Descriptor, from shelf) error {
	there, err := s.repo.Exists(ctx, d.Digest)
	if err != nil {
		return err
	}
	state := Exists
	if source, ok := from.(*remoteShelf); ok && !there && source.ref.Domain() == s.ref.Domain() {
		if there, err = s.repo.Mount(ctx, d.Digest, source.ref); err != nil {
			return err
		}
		state = Mounted
	}
	done := Transfer{Blob: d.Digest, State: state, Done: d.Size, Total: d.Size}
	if there {
		s.report.tell(done)
		return nil
	}
	content := registry.Content{
		Size:   d.Size,
		Open:   func(offset int64) (io.ReadCloser, error) { return from.open(ctx, d, offset) },
		Digest: func() (image.Descriptor, error) { return d, nil },
	}
	if _, err := s.repo.Upload(ctx, watched(content, d.Digest, s.report)); err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest.Short(), err)
	}
	done.State = Completed
	s.report.tell(done)
	return nil
}

// localShelf is what the store keeps of a repository besides images: signatures and the like.
type localShelf struct {
	engine     *Engine
	pins       *store.Pins
	repository string
}

// maxCompanionBlob bounds a blob of a signature or attestation that is kept.
const maxCompanionBlob = 256 << 20

func (s *localShelf) get(_ context.Context, ref image.Reference) (*registry.Document, error) {
	digest := ref.Digest()
	if digest == "" {
		entry, err := s.engine.Store.Entry(s.repository, ref.Tag())
		if err != nil {
			return nil, notThere(err)
		}
		digest = entry.Manifest
	}
	raw, err := s.engine.Store.ReadBlob(digest, image.MaxManifestSize)
	if err != nil {
		return nil, notThere(err)
	}
	mediaType, err := image.DocumentType(raw)
	if err != nil {
		return nil, err
	}
	return &registry.Document{MediaType: mediaType, Digest: digest, Raw: raw}, nil
}

func notThere(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: %w", registry.ErrNotFound, err)
	}
	return err
}

func (s *localShelf) put(ctx context.Context, ref image.Reference, doc *registry.Document) error {
	return s.locked(ctx, func(lock *store.Lock) error {
		digest, err := s.engine.Store.PutBlob(lock, doc.Raw)
		if err != nil {
			return err
		}
		tag := ref.Tag()
		if ref.Digest() != "" {
			tag = ""
		}
		return s.engine.Store.SetEntry(lock, store.Entry{Repository: s.repository, Tag: tag, Manifest: digest, Created: time.Now().UTC()})
	})
}

func (s *localShelf) locked(ctx context.Context, do func(*store.Lock) error) error {
	lock, err := s.engine.Store.Shared(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(lock), lock.Unlock())
}

func (s *localShelf) referrers(_ context.Context, subject image.Digest) ([]image.Descriptor, error) {
	entries, err := s.engine.Store.Entries()
	if err != nil {
		return nil, err
	}
	var found []image.Descriptor
	for _, entry := range entries {
		if entry.Repository != s.repository || entry.Tag != "" {
			continue
		}
		raw, err := s.engine.Store.ReadBlob(entry.Manifest, image.MaxManifestSize)
		if err != nil {
			return nil, err
		}
		doc, err := image.ParseDocument(raw)
		if err == nil && doc.Subject != nil && doc.Subject.Digest == subject {
			found = append(found, image.Descriptor{
				MediaType: doc.MediaType, Digest: entry.Manifest, Size: int64(len(raw)),
				ArtifactType: doc.ArtifactType, Annotations: doc.Annotations,
			})
		}
	}
	return found, nil
}

func (s *localShelf) open(_ context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	f, err := s.engine.Store.OpenBlob(d.Digest)
	if err != nil {
		return nil, notThere(err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (s *localShelf) take(ctx context.Context, d image.Descriptor, from shelf) error {
	if d.Size > maxCompanionBlob {
		return fmt.Errorf("blob %s: %w: %d bytes", d.Digest.Short(), ErrTooBig, d.Size)
	}
	there := false
	err := s.locked(ctx, func(lock *store.Lock) error {
		there = s.engine.Store.HasBlob(d.Digest)
		return s.pins.Add(lock, "", d.Digest)
	})
	if there || err != nil {
		return err
	}
	blob, err := from.open(ctx, d, 0)
	if err != nil {
		return err
	}
	defer blob.Close()
	staged, err := s.engine.Store.StageBlob(blob, d.Digest, d.Size)
	if err != nil {
		return err
	}
	return errors.Join(s.locked(ctx, staged.Publish), staged.Abort())
}

// transfer copies manifests, and what they refer to, between two shelves.
type transfer struct {
	from, to shelf
	fromRef  image.Reference
	toRef    image.Reference
}

// manifest copies the manifest or index fromRef to toRef; of an index, all manifests that are there.
func (t transfer) manifest(ctx context.Context, fromRef, toRef image.Reference) (*registry.Document, error) {
	return t.manifestDepth(ctx, fromRef, toRef, 0)
}

func (t transfer) manifestDepth(ctx context.Context, fromRef, toRef image.Reference, depth int) (*registry.Document, error) {
	doc, err := t.from.get(ctx, fromRef)
	if err != nil {
		return nil, err
	}
	parsed, err := image.ParseDocument(doc.Raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fromRef.Familiar(), err)
	}
	doc.MediaType = parsed.MediaType
	if depth > maxNestedIndexes {
		return nil, fmt.Errorf("%s: %w: nested more than %d deep", fromRef.Familiar(), image.ErrDocument, maxNestedIndexes)
	}
	for _, listed := range parsed.Manifests {
		if _, err := t.manifestDepth(ctx, t.fromRef.WithDigest(listed.Digest), t.toRef.WithDigest(listed.Digest), depth+1); err != nil {
			return nil, err
		}
	}
	if err := t.blobs(ctx, parsed.Blobs()); err != nil {
		return nil, fmt.Errorf("%s: %w", fromRef.Familiar(), err)
	}
	return doc, t.to.put(ctx, toRef, doc)
}

// companionTags gives the suffixes of the tags that cosign makes of a manifest's digest.
func companionTags() []string { return []string{".sig", ".att", ".sbom"} }

// companions copies what is about a manifest: what cosign keeps under tags made of the digest, and
// referrers, with what is about those in turn.
func (t transfer) companions(ctx context.Context, subject image.Digest, depth int) (copied int, err error) {
	for _, suffix := range companionTags() {
		tag := subject.Algorithm() + "-" + subject.Hex() + suffix
		_, err := t.manifest(ctx, t.fromRef.WithTag(tag), t.toRef.WithTag(tag))
		switch {
		case err == nil:
			copied++
		case !errors.Is(err, registry.ErrNotFound):
			return copied, err
		}
	}
	if depth == maxNestedIndexes {
		return copied, nil
	}
	referrers, err := t.from.referrers(ctx, subject)
	if err != nil {
		return copied, err
	}
	for _, d := range referrers {
		if _, err := t.manifest(ctx, t.fromRef.WithDigest(d.Digest), t.toRef.WithDigest(d.Digest)); err != nil {
			return copied, err
		}
		n, err := t.companions(ctx, d.Digest, depth+1)
		if copied += 1 + n; err != nil {
			return copied, err
		}
	}
	return copied, nil
}

// listed gives the digests of what an index lists; none of a manifest.
func listed(raw []byte) ([]image.Digest, error) {
	var index struct {
		Manifests []image.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, err
	}
	var digests []image.Digest
	for _, d := range index.Manifests {
		digests = append(digests, d.Digest)
	}
	return digests, nil
}
