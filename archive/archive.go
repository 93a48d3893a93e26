// Package archive reads and writes images as files: OCI image layouts (OCI image-spec,
// image-layout.md) in a directory or a tar, and the tar of "docker save", old and new.
//
// What is read is hostile: documents are bounded and verified against their digests here; layers
// are handed out as they lie there, to be verified by whoever reads them.
package archive

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tarnfs/tarn/image"
)

// Errors that callers tell apart.
var (
	ErrFormat   = errors.New("not an image archive")
	ErrMissing  = errors.New("missing from the archive")
	ErrMismatch = errors.New("content does not match its digest")
)

// Archive is an archive opened for reading.
type Archive struct {
	files files
}

// Image is an image in an archive.
type Image struct {
	// Names as the archive gives them: references, in Docker's familiar form or any other, or a
	// bare tag (see Tags).
	Names []string
	// Tags are bare tags, which an OCI layout may use because its place names the repository.
	Tags []string
	// Manifest is the image's manifest, byte for byte, or nil: docker-archives have none.
	Manifest []byte
	// Config is the image's configuration, byte for byte.
	Config []byte
	// Layers, the lowest first.
	Layers []Layer
}

// Layer is a layer in an archive, perhaps compressed.
type Layer struct {
	// DiffID is what the config says that the uncompressed tar's digest is.
	DiffID image.Digest
	// Descriptor says what the manifest says of the blob; Digest is empty without a manifest.
	Descriptor image.Descriptor
	open       func() (io.ReadCloser, int64, error)
}

// Open opens the bytes of the layer as they are in the archive, and gives their number.
func (l Layer) Open() (io.ReadCloser, int64, error) { return l.open() }

// OpenDir opens an OCI layout in a directory.
func OpenDir(path string) (*Archive, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &Archive{files: dirFiles{root: root}}, nil
}

// OpenTar opens a tar of size bytes, not compressed. Nothing is unpacked: the archive reads from
// tar whenever something is read from it. Closing the archive does not close tar.
func OpenTar(tar io.ReaderAt, size int64) (*Archive, error) {
	files, err := indexTar(tar, size)
	if err != nil {
		return nil, err
	}
	return &Archive{files: files}, nil
}

// Close closes the archive.
func (a *Archive) Close() error { return a.files.close() }

// Images lists the images in the archive: of each name the one that suits platform best. Where the
// archive is an OCI layout and a docker-archive in one, as "docker save" writes it, the
// layout counts, since it has the manifests.
func (a *Archive) Images(platform image.Platform) ([]Image, error) {
	hasLayout, err := a.has(fileLayout)
	if err != nil {
		return nil, err
	}
	hasDocker, err := a.has(fileDockerManifest)
	if err != nil {
		return nil, err
	}
	switch {
	case hasLayout:
		images, err := a.ociImages(platform)
		if err != nil || !hasDocker {
			return images, err
		}
		return a.addDockerNames(images)
	case hasDocker:
		return a.dockerImages()
	default:
		return nil, fmt.Errorf("%w: neither %s nor %s is in it (a tar of a root file system? use 'tarn import')",
			ErrFormat, fileLayout, fileDockerManifest)
	}
}

func (a *Archive) has(name string) (bool, error) {
	f, _, err := a.files.open(name)
	if errors.Is(err, ErrMissing) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// read gives the whole of a small file.
func (a *Archive) read(name string, limit int64) ([]byte, error) {
	f, size, err := a.files.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	if size > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes, the limit is %d", name, ErrFormat, size, limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", name, ErrFormat, limit)
	}
	return data, nil
}

// verify checks data against the digest it goes by.
func verify(data []byte, want image.Digest) error {
	sum, err := want.NewHash()
	if err != nil {
		return err
	}
	sum.Write(data)
	if !want.Matches(sum) {
		return fmt.Errorf("%w: got %s, want %s", ErrMismatch, want.Of(sum), want)
	}
	return nil
}
