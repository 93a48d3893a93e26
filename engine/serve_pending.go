package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry/server"
	"github.com/tarnfs/tarn/store"
)

// Bounds on blobs that no manifest refers to yet.
const (
	maxPending    = 2000
	maxPendingAge = 24 * time.Hour // since somebody asked for it
)

// pendingBlobs are blobs that were pushed whole and verified, and are not in the store yet: a blob
// belongs there when a manifest refers to it. The zero value is empty, and ready.
type pendingBlobs struct {
	mutex sync.Mutex
	blobs map[image.Digest]*pendingBlob
}

type pendingBlob struct {
	stage *store.BlobStage
	asked time.Time
}

// add takes the blob over.
func (p *pendingBlobs) add(stage *store.BlobStage) error {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	now := time.Now()
	if p.blobs == nil {
		p.blobs = make(map[image.Digest]*pendingBlob)
	}
	if twin := p.blobs[stage.Digest]; twin != nil {
		twin.asked = now
		return stage.Abort()
	}
	var errs []error
	for d, blob := range p.blobs {
		if now.Sub(blob.asked) > maxPendingAge {
			errs = append(errs, p.drop(d))
		}
	}
	if len(p.blobs) >= maxPending {
		errs = append(errs, stage.Abort())
		return errors.Join(append(errs, fmt.Errorf("%w: %d blobs wait for their manifest", server.ErrBusy, maxPending))...)
	}
	p.blobs[stage.Digest] = &pendingBlob{stage: stage, asked: now}
	return errors.Join(errs...)
}

// open opens a blob; nil if it is not here.
func (p *pendingBlobs) open(d image.Digest) (*os.File, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	blob := p.blobs[d]
	if blob == nil {
		return nil, nil
	}
	blob.asked = time.Now()
	return blob.stage.Open()
}

// publish puts the blob into the store, and reports whether it was here.
func (p *pendingBlobs) publish(lock *store.Lock, d image.Digest) (bool, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	blob := p.blobs[d]
	if blob == nil {
		return false, nil
	}
	if err := blob.stage.Publish(lock); err != nil {
		return true, err
	}
	delete(p.blobs, d)
	return true, nil
}

// discard drops the blob, and reports whether it was here.
func (p *pendingBlobs) discard(d image.Digest) (bool, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.blobs[d] == nil {
		return false, nil
	}
	return true, p.drop(d)
}

func (p *pendingBlobs) drop(d image.Digest) error {
	blob := p.blobs[d]
	delete(p.blobs, d)
	return blob.stage.Abort()
}

// close drops them all.
func (p *pendingBlobs) close() error {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	var errs []error
	for d := range p.blobs {
		errs = append(errs, p.drop(d))
	}
	return errors.Join(errs...)
}

// NewBlob implements server.Writer.
func (c *storeContent) NewBlob(_ context.Context, algorithm string) (server.BlobWriter, error) {
	w, err := c.engine.Store.NewBlob(algorithm)
	if err != nil {
		return nil, err
	}
	return &pushedBlob{BlobWriter: w, pending: &c.pending}, nil
}

// pushedBlob is a blob that a client sends.
type pushedBlob struct {
	*store.BlobWriter
	pending *pendingBlobs
}

// Commit implements server.BlobWriter.
func (b *pushedBlob) Commit(_ context.Context, d image.Digest) error {
	stage, err := b.Finish(d)
	if errors.Is(err, store.ErrDigest) {
		return fmt.Errorf("%w: %w", server.ErrDigest, err)
	}
	if err != nil {
		return err
	}
	return b.pending.add(stage)
}
