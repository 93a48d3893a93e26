package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

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

// ParseFormat reads the name of a format.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case DockerArchive, OCIArchive, OCIDir:
		return f, nil
	default:
		return "", fmt.Errorf("archive format %q: use %s, %s or %s", s, DockerArchive, OCIArchive, OCIDir)
	}
}

// Source is content to be written, with what it must be.
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

// Write writes images as a tar. The same images give the same bytes: there are no times in it, and
// the order is that of images and their layers. Content is verified while it is written.
func Write(ctx context.Context, w io.Writer, format Format, images []Saved) error {
	tw := tar.NewWriter(w)
	if err := write(ctx, &tarTarget{tar: tw, made: map[string]bool{}}, format, images); err != nil {
		return err
	}
	return tw.Close()
}

// WriteDir writes images as an OCI layout into dir, which must be empty or absent.
func WriteDir(ctx context.Context, dir string, images []Saved) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // a directory
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return errors.Join(err, fmt.Errorf("directory %s: not empty", dir))
	}
	return write(ctx, dirTarget{root: root}, OCIDir, images)
}

// target is where an archive is written to: a tar or a directory.
type target interface {
	put(name string, size int64, r io.Reader) error
}

func write(ctx context.Context, to target, format Format, images []Saved) error {
	if err := writeBlobs(ctx, to, images); err != nil {
		return err
	}
	layout := []byte(`{"imageLayoutVersion":"` + layoutVersion + `"}`)
	if err := to.put(fileLayout, int64(len(layout)), strings.NewReader(string(layout))); err != nil {
		return err
	}
	index, err := json.Marshal(indexOf(format, images))
	if err != nil {
		return err
	}
	if err := to.put(fileIndex, int64(len(index)), strings.NewReader(string(index))); err != nil {
		return err
	}
	if format != DockerArchive {
		return nil
	}
	manifest, err := json.Marshal(dockerManifest(images))
	if err != nil {
		return err
	}
	return to.put(fileDockerManifest, int64(len(manifest)), strings.NewReader(string(manifest)))
}

// writeBlobs writes each blob once, however many images share it.
func writeBlobs(ctx context.Context, to target, images []Saved) error {
	done := make(map[image.Digest]bool)
	for _, img := range images {
		for _, blob := range slices.Concat(img.Layers, []Source{bytesSource(img.Config), bytesSource(img.Manifest)}) {
			if done[blob.Descriptor.Digest] {
				continue
			}
			done[blob.Descriptor.Digest] = true
			if err := writeBlob(ctx, to, blob); err != nil {
				return fmt.Errorf("blob %s: %w", blob.Descriptor.Digest.Short(), err)
			}
		}
	}
	return nil
}

func bytesSource(data []byte) Source {
	return Source{
		Descriptor: image.Descriptor{Digest: image.DigestBytes(data), Size: int64(len(data))},
		Open:       func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(data))), nil },
	}
}

func writeBlob(ctx context.Context, to target, blob Source) error {
	r, err := blob.Open()
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // read only
	want := blob.Descriptor.Digest
	sum, err := want.NewHash()
	if err != nil {
		return err
	}
	if err := to.put(blobName(want), blob.Descriptor.Size, io.TeeReader(&contextReader{ctx: ctx, r: r}, sum)); err != nil {
		return err
	}
	if !want.Matches(sum) {
		return fmt.Errorf("%w: got %s, want %s", ErrMismatch, want.Of(sum), want)
	}
	return nil
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
			entry.RepoTags = append(entry.RepoTags, name.Familiar())
		}
		for _, layer := range img.Layers {
			entry.Layers = append(entry.Layers, blobName(layer.Descriptor.Digest))
		}
		entries = append(entries, entry)
	}
	return entries
}

type tarTarget struct {
	tar  *tar.Writer
	made map[string]bool
}

func (t *tarTarget) put(name string, size int64, r io.Reader) error {
	if err := t.parents(name); err != nil {
		return err
	}
	if err := t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	n, err := io.CopyBuffer(t.tar, r, make([]byte, 1<<20))
	if err == nil && n != size {
		err = fmt.Errorf("%w: %d bytes, want %d", ErrMismatch, n, size)
	}
	return err
}

func (t *tarTarget) parents(name string) error {
	for i, c := range name {
		dir := name[:i] + "/"
		if c != '/' || t.made[dir] {
			continue
		}
		t.made[dir] = true
		if err := t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	return nil
}

type dirTarget struct {
	root *os.Root
}

func (d dirTarget) put(name string, size int64, r io.Reader) error {
	if err := d.root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(f, r, make([]byte, 1<<20))
	if err == nil && n != size {
		err = fmt.Errorf("%w: %d bytes, want %d", ErrMismatch, n, size)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
