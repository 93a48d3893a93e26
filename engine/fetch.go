package engine

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/fanout"
	"github.com/tarnfs/tarn/registry"
	"github.com/tarnfs/tarn/store"
)

// layerFetch brings one layer from a registry into the store.
type layerFetch struct {
	engine *Engine
	repo   *registry.Repository
	pins   *store.Pins
	proofs *pairProofs
	report Report
	want   image.Descriptor
	diffID image.Digest
}

func (f *layerFetch) tell(state TransferState) {
	t := Transfer{Blob: f.want.Digest, State: state, Total: f.want.Size}
	if state != Waiting {
		t.Done = t.Total
	}
	f.report.tell(t)
}

// run makes sure that the layer is in the store, with the compressed form that the manifest names.
func (f *layerFetch) run(ctx context.Context) (err error) {
	if there, err := f.local(ctx); there || err != nil {
		return err
	}
	partial, err := f.engine.Store.Partial(ctx, f.want.Digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, partial.Close()) }()
	// Another process may have fetched it while this one waited.
	if there, err := f.local(ctx); there || err != nil {
		return err
	}
	return f.fetch(ctx, partial)
}

// local keeps the layer from being swept if it is there, or from when it will be, and tells whether it is.
// If all there is is the blob, or a layer that is not known to be what the blob holds, for the manifest may pair them
// wrongly, the blob is read here instead of being fetched.
func (f *layerFetch) local(ctx context.Context) (there bool, err error) {
	there, blob, err := f.pin(ctx)
	if err == nil && !there && blob {
		there, err = f.takeBlob(ctx)
	}
	if there && err == nil {
		f.tell(Exists)
	}
	return there, err
}

// pin pins what is to be there. there: all is, blob: the blob is.
func (f *layerFetch) pin(ctx context.Context) (there, blob bool, err error) {
	lock, err := f.engine.Store.Shared(ctx)
	if err != nil {
		return false, false, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := f.pins.Add(lock, f.diffID, f.want.Digest); err != nil {
		return false, false, err
	}
	blob = f.engine.Store.HasBlob(f.want.Digest)
	if !f.engine.Store.HasLayer(f.diffID) {
		return false, blob, nil
	}
	if f.isTar() || f.engine.reproducible(f.want.Digest, f.diffID) {
		return true, blob, nil
	}
	there = blob
	if there {
		there, err = f.proofs.has(layerPair{f.want.Digest, f.diffID})
	}
	return there, blob, err
}

// takeBlob reads the blob that the store has. One that is damaged is of no use; it is fetched again.
func (f *layerFetch) takeBlob(ctx context.Context) (taken bool, err error) {
	blob, err := f.engine.Store.OpenBlob(f.want.Digest)
	if err != nil {
		return false, err
	}
	defer blob.Close()
	staged, err := f.engine.stageBlob(ctx, blob, f.want, f.diffID)
	switch {
	case errors.Is(err, ErrDiffID), ctx.Err() != nil:
		return false, err
	case err != nil:
		return false, nil
	}
	lock, err := f.engine.Store.Shared(ctx)
	if err != nil {
		return false, errors.Join(err, staged.abort())
	}
	err = errors.Join(staged.publish(lock), lock.Unlock(), staged.abort())
	return err == nil, err
}

// fetch goes on with what is there. If that turns out to be damaged, as it may be after a power cut, it
// begins anew, once.
func (f *layerFetch) fetch(ctx context.Context, partial *store.Partial) error {
	if partial.Size > f.want.Size {
		if err := partial.Reset(); err != nil {
			return err
		}
	}
	resumed := partial.Size > 0
	err := f.stage(ctx, partial)
	if err == nil || ctx.Err() != nil || !resumed || errors.Is(err, errSource) {
		return err
	}
	if err := partial.Reset(); err != nil {
		return err
	}
	return f.stage(ctx, partial)
}

// errSource marks errors of the way to the registry, after which what has come is worth keeping.
var errSource = errors.New("fetch")

func (f *layerFetch) stage(ctx context.Context, partial *store.Partial) error {
	staged, err := f.stream(ctx, partial)
	if err == nil {
		err = f.publish(ctx, partial, staged)
	}
	err = errors.Join(err, staged.abort())
	if err != nil && ctx.Err() == nil && !errors.Is(err, errSource) {
		// What came is wrong: nothing of it stays. (The lock on the file does.)
		err = errors.Join(err, partial.Reset())
	}
	return err
}

// stream reads the blob to its end, once: to the disk as it is, to its digest, and through the
// decompressor to where stageTar puts it.
func (f *layerFetch) stream(ctx context.Context, partial *store.Partial) (*stagedLayer, error) {
	blob, err := f.repo.Blob(ctx, f.want, partial.Size)
	if err != nil {
		return nil, err
	}
	defer blob.Close() //nolint:errcheck // only read
	sum, err := f.want.Digest.NewHash()
	if err != nil {
		return nil, err
	}
	source := &watchedReader{Reader: blob, report: f.report, transfer: Transfer{
		Blob: f.want.Digest, State: Running, Done: partial.Size, Total: f.want.Size, Resumed: partial.Size,
	}}
	f.report.tell(source.transfer)
	var (
		staged   *stagedLayer
		tarErr   error
		keep     = &earlyWriter{file: partial.File(), written: partial.Size, started: partial.Size, limit: f.want.Size}
		received = io.MultiReader(partial.Prefix(), source)
	)
	err = fanout.Copy(ctx, received,
		func(s *fanout.Stream) error { _, err := s.WriteTo(sum); return err },
		func(s *fanout.Stream) error {
			if _, err := s.Skip(partial.Size); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if _, err := s.WriteTo(keep); err != nil || f.isTar() {
				return err
			}
			return partial.Sync() // while the rest of it is still decompressed and indexed
		},
		func(s *fanout.Stream) error {
			// An error here does not end the download: the digest of the whole says whether the blob is
			// not what was asked for, or is and cannot be read.
			staged, tarErr = f.engine.stageKnownTar(ctx, s, f.engine.layerLimit(f.want.Size))
			return nil
		},
	)
	if source.err != nil {
		err = fmt.Errorf("%w: %w", errSource, source.err)
	}
	if err == nil && !f.want.Digest.Matches(sum) {
		err = fmt.Errorf("blob: %w: got %s, want %s", store.ErrDigest, f.want.Digest.Of(sum), f.want.Digest)
	}
	if err == nil && tarErr != nil {
		err = fmt.Errorf("layer %s: %w", f.want.Digest.Short(), tarErr)
	}
	if err == nil && staged.diffID != f.diffID {
		err = fmt.Errorf("%w: the tar in %s is %s, the config says %s", ErrDiffID, f.want.Digest, staged.diffID, f.diffID)
	}
	return staged, err
}

// isTar: the layer is not compressed, and its blob is what the store keeps of it anyway.
func (f *layerFetch) isTar() bool { return f.want.Digest == f.diffID }

// publish makes the layer visible, and the blob if the manifest needs it: a layer that is not
// compressed is its own blob.
func (f *layerFetch) publish(ctx context.Context, partial *store.Partial, staged *stagedLayer) (err error) {
	f.tell(Finishing)
	lock, err := f.engine.Store.Shared(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	var parts errgroup.Group // one transaction of the file system's journal
	parts.Go(func() error { return staged.publish(lock) })
	parts.Go(func() error {
		if f.isTar() {
			return partial.Discard()
		}
		return partial.Publish(lock)
	})
	if err = parts.Wait(); err == nil {
		f.tell(Completed)
	}
	return err
}
