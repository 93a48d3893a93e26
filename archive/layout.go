package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tarnfs/tarn/image"
)

// maxIndexDepth bounds indexes within indexes.
const maxIndexDepth = 4

// layoutImages lists the images of an OCI layout. An image that index.json names twice is one.
func (a *Archive) layoutImages(index []byte, platform image.Platform) ([]Image, error) {
	if err := a.checkLayout(); err != nil {
		return nil, err
	}
	top, err := image.ParseIndex(index)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, indexFile, err)
	}
	var images []Image
	at := make(map[image.Digest]int)
	for _, d := range top.Manifests {
		manifest, err := a.resolve(d, platform, maxIndexDepth)
		if err != nil {
			return nil, err
		}
		digest := image.DigestBytes(manifest)
		n, known := at[digest]
		if !known {
			img, err := a.layoutImage(manifest)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", digest, err)
			}
			n = len(images)
			images, at[digest] = append(images, img), n
		}
		images[n].addName(d.Annotations)
	}
	return images, nil
}

// checkLayout refuses a layout of a version to come.
func (a *Archive) checkLayout() error {
	text, err := a.read(layoutFile)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var layout struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := json.Unmarshal(text, &layout); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, layoutFile, err)
	}
	if layout.Version != "1.0.0" {
		return fmt.Errorf("%w: image layout version %q, tarn reads 1.0.0", ErrInvalid, layout.Version)
	}
	return nil
}

// addName takes up what an entry of index.json calls the image.
func (i *Image) addName(annotations map[string]string) {
	if name := annotations[image.AnnotationContainerName]; name != "" {
		if !slices.Contains(i.Names, name) {
			i.Names = append(i.Names, name)
		}
		return
	}
	ref := annotations[image.AnnotationRefName]
	switch {
	case ref == "":
	case isTag(ref):
		i.Tags = append(i.Tags, ref)
	case !slices.Contains(i.Names, ref):
		i.Names = append(i.Names, ref)
	}
}

// isTag tells a tag alone ("12", as umoci writes it) from a name ("debian:12", as skopeo may).
func isTag(ref string) bool {
	parsed, err := image.ParseReference("name:" + ref)
	return err == nil && parsed.Tag() == ref
}

// resolve gives the manifest that a descriptor of index.json leads to.
func (a *Archive) resolve(d image.Descriptor, platform image.Platform, depth int) ([]byte, error) {
	b, err := a.blob(d)
	if err != nil || !image.IsIndex(d.MediaType) {
		return b, err
	}
	if depth == 0 {
		return nil, fmt.Errorf("%w: index %s: indexes in indexes", ErrInvalid, d.Digest)
	}
	index, err := image.ParseIndex(b)
	if err != nil {
		return nil, fmt.Errorf("%w: index %s: %w", ErrInvalid, d.Digest, err)
	}
	chosen, err := index.Choose(platform)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", d.Digest, err)
	}
	return a.resolve(chosen, platform, depth-1)
}

// layoutImage gives the image of a manifest.
func (a *Archive) layoutImage(manifest []byte) (Image, error) {
	m, err := image.ParseManifest(manifest)
	if err != nil {
		return Image{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	config, err := a.blob(m.Config)
	if err != nil {
		return Image{}, err
	}
	img := Image{Manifest: manifest, Config: config}
	for _, d := range m.Layers {
		img.Layers = append(img.Layers, Layer{Descriptor: d, member: blobName(d.Digest)})
	}
	return img, img.check()
}

// blob gives a JSON blob of the layout, checked.
func (a *Archive) blob(d image.Descriptor) ([]byte, error) {
	hash, err := d.Digest.NewHash()
	if err != nil {
		return nil, errors.Join(ErrInvalid, err)
	}
	b, err := a.read(blobName(d.Digest))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	hash.Write(b)
	if !d.Digest.Matches(hash) {
		return nil, fmt.Errorf("%w: blob %s has the digest %s", ErrInvalid, d.Digest, d.Digest.Of(hash))
	}
	return b, nil
}

func blobName(d image.Digest) string {
	return "blobs/" + d.Algorithm() + "/" + d.Hex()
}
