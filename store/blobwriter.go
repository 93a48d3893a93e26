package store

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
)

// BlobWriter writes a blob aside whose digest is told at the end. It belongs to its maker until
// Finish or Abort; if the process dies, it is collected.
type BlobWriter struct {
	store     *Store
	file      *os.File
	algorithm string
	sum       hash.Hash
	size      int64
}

// NewBlob begins a blob. It is hashed on the way with algorithm, which is that of the digest that
// will be asked for, or the likely one: with another, Finish reads the blob again.
func (s *Store) NewBlob(algorithm string) (*BlobWriter, error) {
	sum, err := image.NewHash(algorithm)
	if err != nil {
		return nil, err
	}
	f, err := atomicfile.CreateTemp(s.path(dirTmp), 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin a blob: %w", err)
	}
	return &BlobWriter{store: s, file: f, algorithm: algorithm, sum: sum}, nil
}

// Write adds p to the blob. After an error, what is on the disk is not known: only Abort is left.
func (w *BlobWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.size += int64(n)
	w.sum.Write(p[:n])
	return n, err
}

// Size gives the number of bytes written.
func (w *BlobWriter) Size() int64 { return w.size }

// Finish verifies that the blob has the digest want, and waits until the disk has it. The writer is
// the stage's then; if Finish fails, all that was written is gone.
func (w *BlobWriter) Finish(want image.Digest) (*BlobStage, error) {
	if err := w.verify(want); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	if err := w.file.Sync(); err != nil {
		return nil, errors.Join(fmt.Errorf("blob %s: %w", want.Short(), err), w.Abort())
	}
	b := &BlobStage{Digest: want, Size: w.size, store: w.store, file: w.file}
	w.file = nil
	return b, nil
}

func (w *BlobWriter) verify(want image.Digest) error {
	if err := want.Validate(); err != nil {
		return fmt.Errorf("blob: %w", err)
	}
	if want.Algorithm() != w.algorithm {
		sum, err := want.NewHash()
		if err != nil {
			return err
		}
		if _, err := io.Copy(sum, io.NewSectionReader(w.file, 0, w.size)); err != nil {
			return fmt.Errorf("blob %s: %w", want.Short(), err)
		}
		w.sum = sum
	}
	if !want.Matches(w.sum) {
		return fmt.Errorf("blob: %w: got %s, want %s", ErrDigest, want.Of(w.sum), want)
	}
	return nil
}

// Abort removes what was written. After Finish, or a second time, it does nothing.
func (w *BlobWriter) Abort() error {
	if w == nil || w.file == nil {
		return nil
	}
	f := w.file
	w.file = nil
	return errors.Join(os.Remove(f.Name()), f.Close())
}
