package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/tarnfs/tarn/image"
)

// Memory is a Content in memory. The zero Memory is empty, and ready.
type Memory struct {
	mutex        sync.Mutex
	blobs        map[image.Digest][]byte
	repositories map[string]*memoryRepository
}

type memoryRepository struct {
	manifests map[image.Digest]memoryManifest
	tags      map[string]image.Digest
}

type memoryManifest struct {
	Manifest
	doc *image.Document
}

var _ Content = (*Memory)(nil)

// Repositories implements Reader.
func (m *Memory) Repositories(context.Context) ([]string, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return slices.Sorted(maps.Keys(m.repositories)), nil
}

// Tags implements Reader.
func (m *Memory) Tags(_ context.Context, repository string) ([]string, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	repo := m.repositories[repository]
	if repo == nil {
		return nil, ErrRepository
	}
	return slices.Sorted(maps.Keys(repo.tags)), nil
}

// Manifest implements Reader.
func (m *Memory) Manifest(_ context.Context, repository string, ref Reference) (Manifest, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	repo := m.repositories[repository]
	if repo == nil {
		return Manifest{}, ErrManifest
	}
	d := ref.Digest
	if d == "" {
		d = repo.tags[ref.Tag]
	}
	found, ok := repo.manifests[d]
	if !ok {
		return Manifest{}, ErrManifest
	}
	return found.Manifest, nil
}

// Referrers implements Reader.
func (m *Memory) Referrers(_ context.Context, repository string, subject, after image.Digest) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		m.mutex.Lock()
		var list []image.Descriptor
		if repo := m.repositories[repository]; repo != nil {
			for _, d := range slices.Sorted(maps.Keys(repo.manifests)) {
				found := repo.manifests[d]
				if found.doc.Subject != nil && found.doc.Subject.Digest == subject && d > after {
					list = append(list, Referrer(d, len(found.Raw), found.doc))
				}
			}
		}
		m.mutex.Unlock()
		for _, d := range list {
			if !yield(d, nil) {
				return
			}
		}
	}
}

// Blob implements Reader.
func (m *Memory) Blob(_ context.Context, d image.Digest) (io.ReadSeekCloser, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	data, ok := m.blobs[d]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrBlob, d)
	}
	return readSeekNopCloser{bytes.NewReader(data)}, nil
}

type readSeekNopCloser struct{ io.ReadSeeker }

func (readSeekNopCloser) Close() error { return nil }

// NewBlob implements Writer.
func (m *Memory) NewBlob(context.Context, string) (BlobWriter, error) {
	return &memoryWriter{memory: m}, nil
}

type memoryWriter struct {
	memory *Memory
	buf    bytes.Buffer
}

func (w *memoryWriter) Write(p []byte) (int, error) { return w.buf.Write(p) }
func (w *memoryWriter) Size() int64                 { return int64(w.buf.Len()) }
func (w *memoryWriter) Abort() error                { return nil }

func (w *memoryWriter) Commit(_ context.Context, d image.Digest) error {
	sum, err := d.NewHash()
	if err != nil {
		return err
	}
	sum.Write(w.buf.Bytes())
	if !d.Matches(sum) {
		return fmt.Errorf("%w: got %s, want %s", ErrDigest, d.Of(sum), d)
	}
	w.memory.mutex.Lock()
	defer w.memory.mutex.Unlock()
	if w.memory.blobs == nil {
		w.memory.blobs = make(map[image.Digest][]byte)
	}
	w.memory.blobs[d] = w.buf.Bytes()
	return nil
}

// PutManifest implements Writer.
func (m *Memory) PutManifest(_ context.Context, repository string, manifest Manifest, doc *image.Document, tags []string) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	for _, blob := range doc.Blobs() {
		if _, ok := m.blobs[blob.Digest]; !ok && blob.Distributable() {
			return fmt.Errorf("%w: %s", ErrMissing, blob.Digest)
		}
	}
	if m.repositories == nil {
		m.repositories = make(map[string]*memoryRepository)
	}
	repo := m.repositories[repository]
	if repo == nil {
		repo = &memoryRepository{manifests: make(map[image.Digest]memoryManifest), tags: make(map[string]image.Digest)}
		m.repositories[repository] = repo
	}
	repo.manifests[manifest.Digest] = memoryManifest{Manifest: manifest, doc: doc}
	for _, tag := range tags {
		repo.tags[tag] = manifest.Digest
	}
	return nil
}

// DeleteManifest implements Writer.
func (m *Memory) DeleteManifest(_ context.Context, repository string, ref Reference) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	repo := m.repositories[repository]
	if repo == nil {
		return ErrManifest
	}
	if ref.Digest == "" {
		if _, ok := repo.tags[ref.Tag]; !ok {
			return ErrManifest
		}
		delete(repo.tags, ref.Tag)
		return nil
	}
	if _, ok := repo.manifests[ref.Digest]; !ok {
		return ErrManifest
	}
	delete(repo.manifests, ref.Digest)
	maps.DeleteFunc(repo.tags, func(_ string, d image.Digest) bool { return d == ref.Digest })
	if len(repo.manifests) == 0 {
		delete(m.repositories, repository)
	}
	return nil
}

// DeleteBlob implements Writer.
func (m *Memory) DeleteBlob(_ context.Context, d image.Digest) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if _, ok := m.blobs[d]; !ok {
		return ErrBlob
	}
	for _, repo := range m.repositories {
		for _, manifest := range repo.manifests {
			if slices.ContainsFunc(manifest.doc.Blobs(), func(blob image.Descriptor) bool { return blob.Digest == d }) {
				return ErrInUse
			}
		}
	}
	delete(m.blobs, d)
	return nil
}
