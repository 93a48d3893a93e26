package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
)

func (s *Store) blobPath(d image.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("blob: %w", err)
	}
	return s.path(dirBlobs, d.Algorithm(), d.Hex()), nil
}

// BlobStage is a blob that was written aside and verified.
type BlobStage struct {
	Digest image.Digest
	Size   int64
	store  *Store
	file   *os.File
}

// StageBlob writes what r gives aside and verifies it: the digest must be want, and the length
// size unless that is negative. At most size bytes and one more are read. Always Abort at the end.
func (s *Store) StageBlob(r io.Reader, want image.Digest, size int64) (*BlobStage, error) {
	if err := want.Validate(); err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	w, err := s.NewBlob(want.Algorithm())
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", want.Short(), err)
	}
	if size >= 0 {
		r = io.LimitReader(r, size+1)
	}
	_, err = io.Copy(w, r)
	switch {
	case err != nil:
		err = fmt.Errorf("blob %s: %w", want.Short(), err)
	case size >= 0 && w.Size() != size:
		err = fmt.Errorf("blob %s: %w: size %d, want %d", want, ErrDigest, w.Size(), size)
	default:
		return w.Finish(want)
	}
	return nil, errors.Join(err, w.Abort())
}

// Open opens what was staged, for reading.
func (b *BlobStage) Open() (*os.File, error) {
	if b.file == nil {
		return nil, fmt.Errorf("blob %s: %w", b.Digest, ErrNotFound)
	}
	return os.Open(b.file.Name())
}

// Publish puts the blob in its place. The same blob being there already is success.
func (b *BlobStage) Publish(lock *Lock) error {
	path, err := b.store.blobPath(b.Digest)
	if err != nil {
		return err
	}
	if err := lock.check(false); err != nil {
		return fmt.Errorf("publish blob %s: %w", b.Digest.Short(), err)
	}
	if err := b.store.makeDir(dirBlobs, b.Digest.Algorithm()); err != nil {
		return fmt.Errorf("publish blob %s: %w", b.Digest.Short(), err)
	}
	if err := os.Rename(b.file.Name(), path); err != nil {
		return fmt.Errorf("publish blob %s: %w", b.Digest.Short(), err)
	}
	f := b.file
	b.file = nil
	return errors.Join(atomicfile.SyncDir(filepath.Dir(path)), f.Close())
}

// Abort removes the staged blob unless it was published. A second time it does nothing.
func (b *BlobStage) Abort() error {
	if b == nil || b.file == nil {
		return nil
	}
	f := b.file
	b.file = nil
	return errors.Join(os.Remove(f.Name()), f.Close())
}

// PutBlob publishes a small blob under the sha256 of its bytes.
func (s *Store) PutBlob(lock *Lock, data []byte) (image.Digest, error) {
	d := image.DigestBytes(data)
	if s.HasBlob(d) {
		return d, lock.check(false)
	}
	stage, err := s.StageBlob(bytes.NewReader(data), d, int64(len(data)))
	if err != nil {
		return "", err
	}
	return d, errors.Join(stage.Publish(lock), stage.Abort())
}

// HasBlob reports whether the blob is there. Without the store lock it may be gone the next moment.
func (s *Store) HasBlob(d image.Digest) bool {
	path, err := s.blobPath(d)
	if err != nil {
		return false
	}
	_, err = os.Stat(path)
	return err == nil
}

// BlobSize gives the length of a blob in bytes; the error wraps ErrNotFound if it is not there.
func (s *Store) BlobSize(d image.Digest) (int64, error) {
	path, err := s.blobPath(d)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", d, err)
	}
	return info.Size(), nil
}

// OpenBlob opens a blob for reading; the error wraps ErrNotFound if it is not there.
func (s *Store) OpenBlob(d image.Digest) (*os.File, error) {
	path, err := s.blobPath(d)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return f, nil
}

// ReadBlob gives the content of a blob of at most limit bytes, verified against its digest. A longer
// one is not the document it is taken for: the error wraps image.ErrDocument.
func (s *Store) ReadBlob(d image.Digest, limit int64) ([]byte, error) {
	f, err := s.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var buf bytes.Buffer
	if info, err := f.Stat(); err == nil {
		buf.Grow(int(min(info.Size(), limit)) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(io.LimitReader(f, limit+1)); err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	if int64(buf.Len()) > limit {
		return nil, fmt.Errorf("blob %s: %w: longer than %d bytes", d, image.ErrDocument, limit)
	}
	sum, err := d.NewHash()
	if err != nil {
		return nil, err
	}
	sum.Write(buf.Bytes())
	if !d.Matches(sum) {
		return nil, fmt.Errorf("blob %s: %w: got %s", d, ErrDigest, d.Of(sum))
	}
	return buf.Bytes(), nil
}

// Manifest reads and parses the image manifest with digest d.
func (s *Store) Manifest(d image.Digest) (*image.Manifest, error) {
	raw, err := s.ReadBlob(d, image.MaxManifestSize)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return image.ParseManifest(raw)
}

// Document reads and parses the manifest or index, of whatever kind, with digest d.
func (s *Store) Document(d image.Digest) (*image.Document, error) {
	raw, err := s.ReadBlob(d, image.MaxManifestSize)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return image.ParseDocument(raw)
}

// Config reads and parses the image config with digest d, which is the image's ID.
func (s *Store) Config(d image.Digest) (*image.Config, error) {
	raw, err := s.ReadBlob(d, image.MaxConfigSize)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	return image.ParseConfig(raw)
}

// blobs lists all blobs.
func (s *Store) blobs() ([]image.Digest, error) {
	algorithms, err := os.ReadDir(s.path(dirBlobs))
	if err != nil {
		return nil, fmt.Errorf("list blobs: %w", err)
	}
	var list []image.Digest
	for _, algorithm := range algorithms {
		entries, err := os.ReadDir(s.path(dirBlobs, algorithm.Name()))
		if err != nil {
			return nil, fmt.Errorf("list blobs: %w", err)
		}
		for _, entry := range entries {
			if d, err := image.ParseDigest(algorithm.Name() + ":" + entry.Name()); err == nil {
				list = append(list, d)
			}
		}
	}
	return list, nil
}
