package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/errgroup"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry"
	"github.com/tarnfs/tarn/store"
)

// pulledAtOnce bounds the layers that are fetched at the same time, and with them memory and
// connections; it is Docker's number, too.
const pulledAtOnce = 3

// pullMemory is what the garbage collector tries to stay below during a pull, in bytes. What is live, the
// buffers of the layers that come at once and their decoders, is some 50 MB; the collector alone would let
// twice of that pile up.
const pullMemory = 64 << 20

// boundMemory sets the limit, unless there is a lower one, and gives what takes it back.
func boundMemory() (restore func()) {
	before := debug.SetMemoryLimit(-1)
	debug.SetMemoryLimit(min(before, pullMemory))
	return func() { debug.SetMemoryLimit(before) }
}

// PullOptions says what to pull, and how.
type PullOptions struct {
	Registry RegistryOptions
	Platform image.Platform // zero: this machine's
	// All fetches signatures, attestations and other referrers, too, and keeps them for a push.
	All bool
	// VerifyKey is a file with a public key, in PEM: the image must have a signature of it. "" checks none.
	VerifyKey string
	Report    Report
	Done      func() // called when nothing more is reported; may be nil
}

// Pulled says what a pull did.
type Pulled struct {
	Name   image.Reference // as it was understood
	Digest image.Digest    // of what the name stands for in the registry
	ID     image.Digest    // of the image
	// UpToDate says that nothing was fetched, as the image was here already.
	UpToDate   bool
	Companions int // signatures and the like that came, too
}

// Pull fetches the image ref from its registry, verifies it, and gives it its name here. What is here
// already is not fetched; what an earlier, interrupted pull left of a layer is gone on with.
func (e *Engine) Pull(ctx context.Context, name string, opts PullOptions) (*Pulled, error) {
	if opts.Done != nil {
		defer opts.Done()
	}
	ref, err := remoteReference(name)
	if err != nil {
		return nil, err
	}
	client, err := registry.New(opts.Registry)
	if err != nil {
		return nil, err
	}
	repo, err := client.Repository(ref, registry.Pull)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	platform := opts.Platform
	if platform.OS == "" {
		platform = image.HostPlatform()
	}
	var key *publicKey
	if opts.VerifyKey != "" {
		if key, err = readPublicKey(opts.VerifyKey); err != nil {
			return nil, err
		}
	}
	if key == nil && !opts.All {
		if pulled, err := e.unchanged(ctx, repo, ref, platform); pulled != nil || err != nil {
			return pulled, err
		}
	}
	remote, err := lookUp(ctx, repo, ref, platform)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", ref.Familiar(), err)
	}
	if key != nil {
		shelf := &remoteShelf{repo: repo, ref: ref}
		if err := key.verify(ctx, shelf, ref, remote.target(), remote.document.Digest); err != nil {
			return nil, err
		}
	}
	return e.fetch(ctx, repo, remote, opts)
}

// unchanged asks with one request whether the image that has the name here is what the registry has.
func (e *Engine) unchanged(ctx context.Context, repo *registry.Repository, ref image.Reference, platform image.Platform) (*Pulled, error) {
	record, err := e.Store.Image(keptName(ref))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !e.suits(record, platform) {
		return nil, nil
	}
	digest := ref.Digest()
	if digest == "" {
		if digest, err = repo.Resolve(ctx, ref); err != nil {
			return nil, fmt.Errorf("pull %s: %w", ref.Familiar(), err)
		}
	}
	if digest != record.Target() {
		return nil, nil
	}
	return &Pulled{Name: ref, Digest: digest, ID: record.ID, UpToDate: true}, nil
}

// suits tells whether an image is the one that would be chosen for the platform.
func (e *Engine) suits(record store.Image, platform image.Platform) bool {
	if record.Index == "" {
		return true // there was nothing to choose from
	}
	raw, err := e.Store.ReadBlob(record.Index, image.MaxManifestSize)
	if err != nil {
		return false
	}
	index, err := image.ParseIndex(raw)
	if err != nil {
		return false
	}
	choice, err := index.Choose(platform)
	return err == nil && choice.Digest == record.Manifest
}

// keptName is the name under which a pulled image is kept: with its tag, or, where a digest was
// asked for, with that alone.
func keptName(ref image.Reference) string {
	if d := ref.Digest(); d != "" {
		return ref.WithDigest(d).String()
	}
	return ref.WithDefaultTag().String()
}

// fetch gets the layers that are not here, and publishes the image.
func (e *Engine) fetch(ctx context.Context, repo *registry.Repository, remote *remoteImage, opts PullOptions) (_ *Pulled, err error) {
	if err := e.Store.CollectLeftovers(); err != nil {
		return nil, err
	}
	pins, err := e.Store.NewPins()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pins.Release()) }()
	draft := &draft{
		config: remote.rawConfig, manifest: remote.document.Raw, layers: remote.config.RootFS.DiffIDs,
		exactName: keptName(remote.ref),
	}
	if remote.index != nil {
		draft.index = remote.index.Raw
	}
	defer func() { err = errors.Join(err, draft.abort()) }()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.stageDocuments(draft) })
	group.Go(func() error { return e.fetchLayers(groupCtx, repo, remote, pins, opts.Report) })
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("pull %s: %w", remote.ref.Familiar(), err)
	}
	companions := 0
	if opts.All {
		if companions, err = e.fetchCompanions(ctx, repo, remote, pins); err != nil {
			return nil, fmt.Errorf("pull what is about %s: %w", remote.ref.Familiar(), err)
		}
	}
	img, err := e.publish(ctx, draft)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", remote.ref.Familiar(), err)
	}
	return &Pulled{Name: remote.ref, Digest: remote.target(), ID: img.ID, Companions: companions}, nil
}

// fetchCompanions keeps signatures and the like, as entries of the repository that they came from.
func (e *Engine) fetchCompanions(ctx context.Context, repo *registry.Repository, remote *remoteImage, pins *store.Pins) (int, error) {
	t := transfer{
		from: &remoteShelf{repo: repo, ref: remote.ref}, fromRef: remote.ref,
		to: &localShelf{engine: e, pins: pins, repository: remote.ref.Repository()}, toRef: remote.ref,
	}
	n, err := t.companions(ctx, remote.document.Digest, 0)
	if err != nil || remote.index == nil {
		return n, err
	}
	more, err := t.companions(ctx, remote.index.Digest, 0)
	return n + more, err
}

func (e *Engine) fetchLayers(ctx context.Context, repo *registry.Repository, remote *remoteImage, pins *store.Pins, report Report) error {
	defer boundMemory()()
	layers := distinctLayers(remote.manifest, remote.config)
	for _, l := range layers {
		report.tell(Transfer{Blob: l.want.Digest, State: Waiting, Total: l.want.Size})
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(pulledAtOnce)
	proofs := e.newPairProofs()
	for _, l := range layers {
		group.Go(func() error {
			f := &layerFetch{engine: e, repo: repo, pins: pins, proofs: proofs, report: report, want: l.want, diffID: l.diffID}
			return f.run(ctx)
		})
	}
	return group.Wait()
}

// layerOf is a layer as the manifest and the config have it.
type layerOf struct {
	want   image.Descriptor
	diffID image.Digest
}

// distinctLayers leaves out repetitions: an image may have the same layer twice.
func distinctLayers(manifest *image.Manifest, config *image.Config) []layerOf {
	seen := make(map[layerPair]bool)
	var layers []layerOf
	for i, want := range manifest.Layers {
		pair := layerPair{want.Digest, config.RootFS.DiffIDs[i]}
		if !seen[pair] {
			seen[pair] = true
			layers = append(layers, layerOf{want, pair.diffID})
		}
	}
	return layers
}

// PullPolicy says when "run" asks the registry for its image.
type PullPolicy string

// Pull policies, by Docker's names.
const (
	PullMissing PullPolicy = "missing"
	PullAlways  PullPolicy = "always"
	PullNever   PullPolicy = "never"
)

// ParsePullPolicy reads what --pull takes; "" is "missing".
func ParsePullPolicy(s string) (PullPolicy, error) {
	switch p := PullPolicy(cmp.Or(s, string(PullMissing))); p {
	case PullMissing, PullAlways, PullNever:
		return p, nil
	default:
		return "", fmt.Errorf("%w: pull policy %q: want missing, always or never", ErrOption, s)
	}
}
