package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/fanout"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/store"
)

// ErrDiffID says that a layer's tar is not what the image's config says.
var ErrDiffID = errors.New("layer does not match the image's config")

// ErrTooBig says that a layer is beyond the declared limit.
var ErrTooBig = errors.New("layer too big")

// maxLayerSize bounds what a compressed layer may grow to: 1 TiB.
const maxLayerSize = 1 << 40

// stagedLayer is a layer that was read, verified and written to the disk, and is not visible yet.
type stagedLayer struct {
	stage  *store.LayerStage
	diffID image.Digest
	size   int64
	blob   *store.BlobStage // the compressed form as it came, kept for the manifest's sake
}

// abort drops what was not published.
func (l *stagedLayer) abort() error {
	if l == nil {
		return nil
	}
	return errors.Join(l.stage.Abort(), l.blob.Abort())
}

func (l *stagedLayer) publish(lock *store.Lock) error {
	if l.blob != nil {
		if err := l.blob.Publish(lock); err != nil {
			return err
		}
	}
	return l.stage.Publish(lock, l.diffID)
}

// stageTar takes in one layer's tar, compressed or not. Reading, hashing, writing and indexing go on
// at once, with a few megabytes between them; nothing is read twice.
func (e *Engine) stageTar(ctx context.Context, r io.Reader) (*stagedLayer, error) {
	return e.stageTarLimit(ctx, r, maxLayerSize)
}

// stageTarLimit takes no more than limit bytes of uncompressed tar.
func (e *Engine) stageTarLimit(ctx context.Context, r io.Reader, limit int64) (*stagedLayer, error) {
	stage, err := e.Store.StageLayer()
	if err != nil {
		return nil, err
	}
	staged := &stagedLayer{stage: stage}
	if err := staged.fill(ctx, r, limit); err != nil {
		return nil, errors.Join(err, staged.abort())
	}
	return staged, nil
}

func (l *stagedLayer) fill(ctx context.Context, r io.Reader, limit int64) error {
	tar, _, err := decompress(r)
	if err != nil {
		return err
	}
	defer tar.Close() //nolint:errcheck // a decompressor
	var (
		sum  = sha256.New()
		out  = &earlyWriter{file: l.stage.Tar, limit: limit}
		tree *layer.Tree
	)
	err = fanout.Copy(ctx, tar,
		func(s *fanout.Stream) error { _, err := s.WriteTo(sum); return err },
		func(s *fanout.Stream) error { _, err := s.WriteTo(out); return err },
		func(s *fanout.Stream) (err error) { tree, err = layer.Scan(s, layer.Limits{}); return err },
	)
	if err != nil {
		return err
	}
	whole, err := holes.Plain(l.stage.Tar)
	if err != nil {
		return err
	}
	if _, err := tree.WriteIndex(l.stage.Index, whole); err != nil {
		return err
	}
	l.diffID, l.size = image.DigestSum(sum), out.written
	return l.stage.Sync()
}

// earlyWriter writes a file and has the kernel begin to put it on the disk meanwhile, so that the
// fsync at the end finds little left to do.
type earlyWriter struct {
	file             *os.File
	written, started int64
	limit            int64
}

const writebackStep = 8 << 20

func (w *earlyWriter) Write(p []byte) (int, error) {
	if w.written+int64(len(p)) > w.limit {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrTooBig, w.limit)
	}
	n, err := w.file.WriteAt(p, w.written)
	w.written += int64(n)
	if err != nil || w.written-w.started < writebackStep {
		return n, err
	}
	err = sys.StartWriteback(w.file, w.started, w.written-w.started)
	w.started = w.written
	return n, err
}

// stageBlob takes in a layer as a manifest has it, and checks it against manifest and config: the
// blob against want (where there is no manifest, want.Digest is empty), the tar in it against diffID.
// A blob that is compressed is staged as it is too, since the manifest names it by its digest.
func (e *Engine) stageBlob(ctx context.Context, r io.Reader, want image.Descriptor, diffID image.Digest) (*stagedLayer, error) {
	var (
		staged *stagedLayer
		err    error
	)
	if want.Digest == "" || want.Digest == diffID {
		staged, err = e.stageTar(ctx, r)
	} else {
		staged, err = e.stageCompressed(ctx, r, want)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case staged.diffID != diffID:
		err = fmt.Errorf("%w: the tar is %s, the config says %s", ErrDiffID, staged.diffID, diffID)
	case want.Digest == diffID && want.Size != staged.size:
		err = fmt.Errorf("blob %s: %w: %d bytes, want %d", diffID, store.ErrDigest, staged.size, want.Size)
	}
	if err != nil {
		return nil, errors.Join(err, staged.abort())
	}
	return staged, nil
}

func (e *Engine) stageCompressed(ctx context.Context, r io.Reader, want image.Descriptor) (*stagedLayer, error) {
	var (
		blob   *store.BlobStage
		staged *stagedLayer
	)
	err := fanout.Copy(ctx, r,
		func(s *fanout.Stream) (err error) {
			blob, err = e.Store.StageBlob(s, want.Digest, want.Size)
			return err
		},
		func(s *fanout.Stream) (err error) {
			staged, err = e.stageTar(ctx, s)
			return err
		},
	)
	if err != nil {
		return nil, errors.Join(err, staged.abort(), blob.Abort())
	}
	staged.blob = blob
	return staged, nil
}
