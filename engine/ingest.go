package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tarnfs/tarn/borrow"
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

// What a layer, or a whole archive, may grow to when it is decompressed: gzip and zstd could make
// petabytes of little.
const (
	maxLayerSize    = 1 << 40
	leastLayerLimit = 16 << 30
	mostExpansion   = 100
)

func (e *Engine) layerLimit(compressed int64) int64 {
	return min(e.leastLayerLimit+mostExpansion*min(compressed, maxLayerSize), maxLayerSize)
}

// stagedLayer is a layer that was read and verified, and is on the disk, though not visible yet.
type stagedLayer struct {
	stage  *store.LayerStage // nil if the store has the layer
	diffID image.Digest
	size   int64
	among  *arrival         // those that come at the same time; nil if it borrows nothing
	blob   *store.BlobStage // the compressed form as it came, kept for the manifest's sake; nil if there is none, or the store has it
}

// abort drops what was not published.
func (l *stagedLayer) abort() error {
	if l == nil {
		return nil
	}
	defer l.among.end()
	err := l.blob.Abort()
	if l.stage != nil {
		err = errors.Join(err, l.stage.Abort())
	}
	return err
}

func (l *stagedLayer) publish(lock *store.Lock) error {
	defer l.among.end()
	if l.blob != nil {
		if err := l.blob.Publish(lock); err != nil {
			return err
		}
	}
	if l.stage == nil {
		return nil
	}
	return l.stage.Publish(lock, l.diffID)
}

// stageTar takes in one layer's tar, compressed or not. Reading, hashing, writing and indexing go on
// at once, with a few megabytes between them; nothing is read twice.
func (e *Engine) stageTar(ctx context.Context, r io.Reader) (*stagedLayer, error) {
	tar, _, err := decompress(r)
	if err != nil {
		return nil, err
	}
	defer tar.Close()
	return e.stagePlain(ctx, tar, maxLayerSize)
}

// stageKnownTar is stageTar for one whose diffID the caller knows, and compares: of no more than limit
// bytes when it is uncompressed.
func (e *Engine) stageKnownTar(ctx context.Context, r io.Reader, limit int64) (*stagedLayer, error) {
	tar, _, err := decompressVerified(r)
	if err != nil {
		return nil, err
	}
	defer tar.Close()
	return e.stagePlain(ctx, tar, limit)
}

// stagePlain is stageTar for a tar that is not compressed, whatever it begins with.
func (e *Engine) stagePlain(ctx context.Context, tar io.Reader, limit int64) (*stagedLayer, error) {
	stage, err := e.Store.StageLayer()
	if err != nil {
		return nil, err
	}
	staged := &stagedLayer{stage: stage}
	if err := e.fill(ctx, staged, tar, limit); err != nil {
		return nil, errors.Join(err, staged.abort())
	}
	return staged, nil
}

func (e *Engine) fill(ctx context.Context, l *stagedLayer, tar io.Reader, limit int64) error {
	var (
		sum  = sha256.New()
		out  = &earlyWriter{file: l.stage.Tar, limit: limit}
		tree *layer.Tree
		sums store.Sums

		contents borrow.Contents
		observe  func(offset, length int64) (io.Writer, int64)
	)
	if e.dedup {
		observe = contents.Observe
	}
	err := fanout.Copy(ctx, tar,
		func(s *fanout.Stream) error { _, err := s.WriteTo(sum); return err },
		func(s *fanout.Stream) error { _, err := s.WriteTo(out); return err },
		func(s *fanout.Stream) error { _, err := s.WriteTo(&sums); return err },
		func(s *fanout.Stream) (err error) {
			tree, err = layer.ScanContents(s, layer.Limits{}, observe)
			return err
		},
	)
	if err != nil {
		return err
	}
	l.diffID, l.size = image.DigestSum(sum), out.written
	if err := out.flush(); err != nil {
		return err
	}
	if err := l.stage.WriteSums(&sums); err != nil {
		return err
	}
	if err := e.settle(ctx, l, tree, &contents); err != nil {
		return err
	}
	return l.stage.Sync()
}

// hashTar is stageKnownTar that writes nothing.
func (e *Engine) hashTar(ctx context.Context, r io.Reader, limit int64) (*stagedLayer, error) {
	tar, _, err := decompressVerified(r)
	if err != nil {
		return nil, err
	}
	defer tar.Close()
	var (
		sum  = sha256.New()
		size int64
	)
	err = fanout.Copy(ctx, tar, func(s *fanout.Stream) (err error) {
		size, err = copyUpTo(sum, s, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &stagedLayer{diffID: image.DigestSum(sum), size: size}, nil
}

// copyUpTo copies all of r, which must not be more than limit.
func copyUpTo(w io.Writer, r io.Reader, limit int64) (int64, error) {
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = tooBig(limit)
	}
	return n, err
}

func tooBig(limit int64) error { return fmt.Errorf("%w: more than %d bytes", ErrTooBig, limit) }

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
		return 0, tooBig(w.limit)
	}
	n, err := w.file.WriteAt(p, w.written)
	w.written += int64(n)
	if err == nil && w.written-w.started >= writebackStep {
		err = w.flush()
	}
	return n, err
}

// flush begins with what there is, and does not wait for it.
func (w *earlyWriter) flush() error {
	err := sys.StartWriteback(w.file, w.started, w.written-w.started)
	w.started = w.written
	return err
}

// stageBlob takes in a layer as a manifest has it, and checks it against manifest and config: the
// blob against want (where there is no manifest, want.Digest is empty), the tar in it against diffID.
// A blob that is compressed is staged as it is too, since the manifest names it by its digest.
//
// What the store has is not written again, but read and checked like the rest: a config that lies
// about its blobs must not get a layer of another image for them.
func (e *Engine) stageBlob(ctx context.Context, r io.Reader, want image.Descriptor, diffID image.Digest) (*stagedLayer, error) {
	take := e.stageKnownTar
	if e.Store.HasLayer(diffID) {
		take = e.hashTar
	}
	takeTar := func(r io.Reader) (*stagedLayer, error) { return take(ctx, r, e.layerLimit(want.Size)) }
	var (
		staged *stagedLayer
		err    error
	)
	if want.Digest == "" || want.Digest == diffID {
		staged, err = takeTar(r)
	} else {
		staged, err = e.stageCompressed(ctx, r, want, diffID, takeTar)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case staged.diffID != diffID:
		err = fmt.Errorf("%w: the tar is %s, the config says %s", ErrDiffID, staged.diffID, diffID)
	case want.Digest == diffID && want.Size != staged.size:
		err = fmt.Errorf("blob %s: %w: size %d, want %d", diffID, store.ErrDigest, staged.size, want.Size)
	}
	if err != nil {
		return nil, errors.Join(err, staged.abort())
	}
	return staged, nil
}

// stageCompressed gives the blob to the store and the tar in it to takeTar.
func (e *Engine) stageCompressed(ctx context.Context, r io.Reader, want image.Descriptor, diffID image.Digest,
	takeTar func(io.Reader) (*stagedLayer, error),
) (*stagedLayer, error) {
	var (
		blob   *store.BlobStage
		staged *stagedLayer
	)
	takeBlob := func(s *fanout.Stream) (err error) {
		blob, err = e.Store.StageBlob(s, want.Digest, want.Size)
		return err
	}
	if e.hasBlob(want.Digest, diffID) {
		takeBlob = func(s *fanout.Stream) error { return checkBlob(s, want) }
	}
	err := fanout.Copy(ctx, r, takeBlob, func(s *fanout.Stream) (err error) {
		staged, err = takeTar(s)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, staged.abort(), blob.Abort())
	}
	staged.blob = blob
	return staged, nil
}

// checkBlob is Store.StageBlob without writing.
func checkBlob(s *fanout.Stream, want image.Descriptor) error {
	sum, err := want.Digest.NewHash()
	if err != nil {
		return err
	}
	size, err := s.WriteTo(sum)
	switch {
	case err != nil:
		return err
	case size != want.Size:
		return fmt.Errorf("blob %s: %w: size %d, want %d", want.Digest, store.ErrDigest, size, want.Size)
	case !want.Digest.Matches(sum):
		return fmt.Errorf("blob: %w: got %s, want %s", store.ErrDigest, want.Digest.Of(sum), want.Digest)
	}
	return nil
}
