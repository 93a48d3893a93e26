// Package archive reads and writes images as files: OCI image layouts (OCI image-spec,
// image-layout.md) in a directory or a tar, the tar of "docker save", old and new, and the
// directory of containers/image's "dir:" transport ("podman save --format docker-dir").
//
// What is read is hostile: documents are bounded and verified against their digests here; layers
// are handed out as they lie there, to be verified by whoever reads them.
package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/tarnfs/tarn/image"
)

// Errors that callers tell apart.
var (
	ErrFormat   = errors.New("not an image archive")
	ErrMissing  = errors.New("missing from the archive")
	ErrMismatch = errors.New("content does not match its digest")
	ErrLimit    = errors.New("limit exceeded")
)

// maxDocuments bounds all documents of an archive together, since they are kept in memory.
const maxDocuments = 64 << 20

// Archive is an archive opened for reading. It is not for concurrent use, except that any number of
// layers may be read at once.
type Archive struct {
	files     files
	documents int64 // bytes of documents read so far
}

// Image is an image in an archive.
type Image struct {
	// Names as the archive gives them: references in Docker's familiar form or any other, not
	// checked.
	Names []string
	// Tags are bare tags, which an OCI layout may use because its place names the repository.
	Tags []string
	// Manifest is the image's manifest, byte for byte, or nil: docker-archives have none.
	Manifest []byte
	// Config is the image's configuration, byte for byte, and Parsed what it says.
	Config []byte
	Parsed *image.Config
	// Layers, the lowest first.
	Layers []Layer
}

// ID gives the image's ID, the digest of its config.
func (i *Image) ID() image.Digest { return image.DigestBytes(i.Config) }

// Layer is a layer in an archive, perhaps compressed.
type Layer struct {
	// DiffID is what the config says that the uncompressed tar's digest is.
	DiffID image.Digest
	// Descriptor says what the manifest says of the blob; Digest is empty without a manifest.
	Descriptor image.Descriptor
	// Name is the name of the layer's file in the archive, quoted, for messages.
	Name string
	open func() (io.ReadCloser, int64, error)
}

// Open opens the bytes of the layer as they are in the archive, and gives their number.
func (l Layer) Open() (io.ReadCloser, int64, error) { return l.open() }

// OpenDir opens an archive in a directory: an OCI layout, a directory of the "dir:" transport, or
// what a docker-archive was unpacked to.
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

// Images lists the images in the archive. Where a name stands for images of several platforms the
// one for want is chosen; the zero Platform stands for this machine's, or whichever there is if there
// is but one. Where the archive is an OCI layout and a docker-archive in one, as "docker save" writes
// it, the layout counts, since it has the manifests.
func (a *Archive) Images(want image.Platform) ([]Image, error) {
	images, err := a.images(want)
	if err != nil || want.OS == "" {
		return images, err
	}
	for _, img := range images {
		if have := img.Parsed.Platform(); !want.Runs(have) {
			return nil, fmt.Errorf("image %s: %w: it is for %s, not %s", img.ID().Short(), image.ErrNoPlatform, have, want)
		}
	}
	return images, nil
}

func (a *Archive) images(want image.Platform) ([]Image, error) {
	hasLayout, err := a.has(fileLayout)
	if err != nil {
		return nil, err
	}
	manifest, err := a.read(fileManifest, image.MaxManifestSize)
	switch {
	case errors.Is(err, ErrMissing) && hasLayout:
		return a.ociImages(want)
	case errors.Is(err, ErrMissing):
		return nil, a.unknownFormat()
	case err != nil:
		return nil, err
	case hasLayout:
		images, err := a.ociImages(want)
		if err != nil {
			return nil, err
		}
		return images, addDockerNames(images, manifest)
	case isObject(manifest):
		return a.transportImage(manifest)
	default:
		return a.dockerImages(manifest)
	}
}

func (a *Archive) unknownFormat() error {
	if old, err := a.has(fileRepositories); err == nil && old {
		return fmt.Errorf("%w that is supported: written by Docker before 1.10 (load it there and save it with a newer one)", ErrFormat)
	}
	return fmt.Errorf("%w: neither %s nor %s is in it (a root file system is for 'tarn import')", ErrFormat, fileLayout, fileManifest)
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

// read gives the whole of a document.
func (a *Archive) read(name string, limit int64) ([]byte, error) {
	f, size, err := a.files.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes, at most %d are read", quote(name), ErrLimit, size, limit)
	}
	if a.documents += size; a.documents > maxDocuments {
		return nil, fmt.Errorf("%s: %w: more than %d bytes of manifests and configs", quote(name), ErrLimit, maxDocuments)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", quote(name), err)
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
		return fmt.Errorf("%w: it is %s, not %s", ErrMismatch, want.Of(sum), want)
	}
	return nil
}

// quote makes a name from an archive fit for a message.
func quote(name string) string {
	const most = 120
	if len(name) > most {
		name = name[:most] + "…"
	}
	return strconv.Quote(name)
}
