package engine

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry"
)

// RegistryOptions says how registries are reached.
type RegistryOptions = registry.Options

// Transfer is a blob on its way, as it is shown to the user.
type Transfer struct {
	Blob  image.Digest
	State TransferState
	Done  int64 // bytes of Total
	Total int64
	// Resumed is how many of the bytes were there before.
	Resumed int64
	// From is the repository that a mounted blob came from.
	From string
}

// TransferState is where a transfer stands.
type TransferState int

// States, in the order they come in.
const (
	Waiting    TransferState = iota // for its turn, or for another process that fetches it
	Running                         // Done grows
	Finishing                       // all has come, the disk is waited for
	Completed                       // it is where it should be
	Exists                          // it was there before
	Mounted                         // the registry had it in another repository
	Compressed                      // a step of a push: Done bytes of the tar are compressed
)

// Report is told about transfers, by many goroutines. It must not block. nil is no report.
type Report func(Transfer)

func (r Report) tell(t Transfer) {
	if r != nil {
		r(t)
	}
}

// watchedReader reports what is read through it.
type watchedReader struct {
	io.Reader
	report   Report
	transfer Transfer
	err      error // of the source, other than its end
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.transfer.Done += int64(n)
		w.report.tell(w.transfer)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// remoteReference reads a name as registries take it.
func remoteReference(name string) (image.Reference, error) {
	ref, err := image.ParseReference(name)
	if err != nil {
		return image.Reference{}, err
	}
	return ref.WithDefaultTag(), nil
}

// remoteImage is an image in a registry, its documents verified.
type remoteImage struct {
	ref       image.Reference
	index     *registry.Document // nil if ref is a manifest
	document  *registry.Document
	manifest  *image.Manifest
	rawConfig []byte
	config    *image.Config
}

// target is the digest that ref stands for in the registry.
func (r *remoteImage) target() image.Digest {
	if r.index != nil {
		return r.index.Digest
	}
	return r.document.Digest
}

const maxNestedIndexes = 4

// lookUp reads ref's manifest, of an index the one for the platform, and its config.
func lookUp(ctx context.Context, repo *registry.Repository, ref image.Reference, platform image.Platform) (*remoteImage, error) {
	r := &remoteImage{ref: ref}
	doc, err := repo.Manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	for depth := 0; ; depth++ {
		kind, err := image.DocumentType(doc.Raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref.Familiar(), err)
		}
		if !image.IsIndex(kind) {
			break
		}
		if r.index == nil {
			r.index = doc
		}
		if depth == maxNestedIndexes {
			return nil, fmt.Errorf("%s: %w: indexes nested more than %d deep", ref.Familiar(), image.ErrDocument, maxNestedIndexes)
		}
		if doc, err = chosen(ctx, repo, ref, doc, platform); err != nil {
			return nil, err
		}
	}
	r.document = doc
	if r.manifest, err = image.ParseManifest(doc.Raw); err != nil {
		return nil, fmt.Errorf("%s: %w", ref.Familiar(), err)
	}
	return r, r.readConfig(ctx, repo)
}

func chosen(ctx context.Context, repo *registry.Repository, ref image.Reference, index *registry.Document, platform image.Platform) (*registry.Document, error) {
	parsed, err := image.ParseIndex(index.Raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref.Familiar(), err)
	}
	choice, err := parsed.Choose(platform)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref.Familiar(), err)
	}
	return repo.Manifest(ctx, ref.WithDigest(choice.Digest))
}

func (r *remoteImage) readConfig(ctx context.Context, repo *registry.Repository) error {
	var err error
	if r.rawConfig, err = repo.ReadBlob(ctx, r.manifest.Config, image.MaxConfigSize); err != nil {
		return fmt.Errorf("config of %s: %w", r.ref.Familiar(), err)
	}
	if r.config, err = image.ParseConfig(r.rawConfig); err != nil {
		return fmt.Errorf("config of %s: %w", r.ref.Familiar(), err)
	}
	if have, want := len(r.manifest.Layers), len(r.config.RootFS.DiffIDs); have != want {
		return fmt.Errorf("%s: %w: %d layers, its config has %d", r.ref.Familiar(), image.ErrDocument, have, want)
	}
	return nil
}
