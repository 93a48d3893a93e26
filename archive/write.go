package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/tarnfs/tarn/image"
)

// Format is a form of archive that can be written.
type Format string

// DockerArchive is what "docker save" writes since version 25: an OCI layout with Docker's
// manifest.json beside it, so that both kinds of readers take it. OCIArchive and OCIDir are
// the layout alone, in a tar and in a directory.
const (
	DockerArchive Format = "docker-archive"
	OCIArchive    Format = "oci-archive"
	OCIDir        Format = "oci-dir"
)

// Formats lists the formats.
func Formats() []Format { return []Format{DockerArchive, OCIArchive, OCIDir} }

// ParseFormat reads the name of a format.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case DockerArchive, OCIArchive, OCIDir:
		return f, nil
	default:
		return "", fmt.Errorf("archive format %q: use %s, %s or %s", s, DockerArchive, OCIArchive, OCIDir)
	}
}

// Source is a blob to be written, with what it must be. Descriptor.Size bytes of it are read.
type Source struct {
	Descriptor image.Descriptor
	Open       func() (io.ReadCloser, error)
}

// Saved is an image to be written.
type Saved struct {
	Names     []image.Reference // with tags
	MediaType string            // of Manifest
	Manifest  []byte
	Config    []byte
	Layers    []Source // as the manifest lists them
}

// WriteTar writes images as a tar. The same images give the same bytes: there are no times in it, and
// the order is that of images and their layers. Each blob is written once, and verified while it is.
func WriteTar(ctx context.Context, w io.Writer, format Format, images []Saved) error {
	to := newTarTarget(w)
	if err := write(ctx, to, format, images); err != nil {
		return err
	}
	return to.close()
}

// WriteDir writes images as an OCI layout into an empty directory, and returns when the disk has its
// files.
func WriteDir(ctx context.Context, dir string, images []Saved) error {
	to, err := newDirTarget(dir)
	if err != nil {
		return err
	}
	defer to.close() //nolint:errcheck // the directory was written to through its files
	return write(ctx, to, OCIDir, images)
}

func write(ctx context.Context, to target, format Format, images []Saved) error {
	w := &writer{ctx: ctx, to: to, done: make(map[image.Digest]bool), buf: make([]byte, 1<<20)}
	for _, img := range images {
		if err := w.image(img); err != nil {
			return err
		}
	}
	if err := w.document(fileLayout, map[string]string{"imageLayoutVersion": layoutVersion}); err != nil {
		return err
	}
	if err := w.document(fileIndex, indexOf(format, images)); err != nil {
		return err
	}
	if format != DockerArchive {
		return nil
	}
	return w.document(fileManifest, dockerManifest(images))
}

// writer writes one archive.
type writer struct {
	ctx  context.Context //nolint:containedctx // lives within one call
	to   target
	done map[image.Digest]bool
	buf  []byte
}

func (w *writer) image(img Saved) error {
	blobs := append([]Source{bytesSource(img.Manifest), bytesSource(img.Config)}, img.Layers...)
	for _, blob := range blobs {
		if w.done[blob.Descriptor.Digest] {
			continue
		}
		w.done[blob.Descriptor.Digest] = true
		if err := w.blob(blob); err != nil {
			return fmt.Errorf("blob %s: %w", blob.Descriptor.Digest, err)
		}
	}
	return nil
}

func bytesSource(data []byte) Source {
	return Source{
		Descriptor: image.Descriptor{Digest: image.DigestBytes(data), Size: int64(len(data))},
		Open:       func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	}
}

func (w *writer) blob(blob Source) error {
	want := blob.Descriptor.Digest
	sum, err := want.NewHash()
	if err != nil {
		return err
	}
	r, err := blob.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	content := io.LimitReader(r, blob.Descriptor.Size)
	if err := w.file(blobName(want), blob.Descriptor.Size, io.TeeReader(content, sum)); err != nil {
		return err
	}
	if !want.Matches(sum) {
		return fmt.Errorf("%w: it is %s", ErrMismatch, want.Of(sum))
	}
	return nil
}

func (w *writer) document(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.file(name, int64(len(data)), bytes.NewReader(data))
}

func (w *writer) file(name string, size int64, r io.Reader) error {
	f, err := w.to.create(name, size)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(f, &contextReader{ctx: w.ctx, r: r}, w.buf)
	if err == nil && n != size {
		err = fmt.Errorf("%w: %d bytes, not %d", ErrMismatch, n, size)
	}
	return finish(f, err)
}

// contextReader stops reading when ctx ends.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives within one call
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

func indexOf(format Format, images []Saved) *image.Index {
	index := &image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: []image.Descriptor{}}
	for _, img := range images {
		d := image.Descriptor{MediaType: img.MediaType, Digest: image.DigestBytes(img.Manifest), Size: int64(len(img.Manifest))}
		if len(img.Names) == 0 {
			index.Manifests = append(index.Manifests, d)
		}
		for _, name := range img.Names {
			// Docker gives the tag here, podman the whole name; each reads what it writes.
			refName := name.String()
			if format == DockerArchive {
				refName = name.Tag()
			}
			d.Annotations = map[string]string{
				image.AnnotationContainerName: name.String(),
				image.AnnotationRefName:       refName,
			}
			index.Manifests = append(index.Manifests, d)
		}
	}
	return index
}

func dockerManifest(images []Saved) []dockerEntry {
	entries := make([]dockerEntry, 0, len(images))
	for _, img := range images {
		entry := dockerEntry{Config: blobName(image.DigestBytes(img.Config)), RepoTags: []string{}, Layers: []string{}}
		for _, name := range img.Names {
			entry.RepoTags = append(entry.RepoTags, name.String()) // as podman does: it takes "debian" for localhost/debian
		}
		for _, layer := range img.Layers {
			entry.Layers = append(entry.Layers, blobName(layer.Descriptor.Digest))
		}
		entries = append(entries, entry)
	}
	return entries
}
