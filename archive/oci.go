package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tarnfs/tarn/image"
)

// The fixed files of an OCI layout.
const (
	fileLayout = "oci-layout"
	fileIndex  = "index.json"
	dirBlobs   = "blobs"

	layoutVersion  = "1.0.0"
	maxLayoutFile  = 64 << 10
	maxNestedIndex = 4
)

func blobName(d image.Digest) string { return dirBlobs + "/" + d.Algorithm() + "/" + d.Hex() }

func (a *Archive) ociImages(platform image.Platform) ([]Image, error) {
	if err := a.checkLayout(); err != nil {
		return nil, err
	}
	raw, err := a.read(fileIndex, image.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	index, err := image.ParseIndex(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fileIndex, err)
	}
	chosen, err := chooseByName(index, platform)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fileIndex, err)
	}
	var images []Image
	for _, descriptor := range chosen {
		img, err := a.ociImage(descriptor, platform, 0)
		if errors.Is(err, image.ErrNotImage) {
			continue // a signature, an attestation, an artifact
		}
		if err != nil {
			return nil, err
		}
		images = mergeNames(images, img)
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("%w: %s lists no images", ErrFormat, fileIndex)
	}
	return images, nil
}

func (a *Archive) checkLayout() error {
	raw, err := a.read(fileLayout, maxLayoutFile)
	if err != nil {
		return err
	}
	var layout struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := json.Unmarshal(raw, &layout); err != nil {
		return fmt.Errorf("%s: %w: %w", fileLayout, ErrFormat, err)
	}
	if layout.Version != layoutVersion {
		return fmt.Errorf("%s: %w: version %.20q, want %s", fileLayout, ErrFormat, layout.Version, layoutVersion)
	}
	return nil
}

// chooseByName picks among descriptors of one name, where they are for different platforms, the one
// that suits best. Descriptors that say no platform are images of their own.
func chooseByName(index *image.Index, platform image.Platform) ([]image.Descriptor, error) {
	var chosen []image.Descriptor
	groups := make(map[string]*image.Index)
	var order []string
	for _, d := range index.Manifests {
		if d.Platform == nil {
			chosen = append(chosen, d)
			continue
		}
		name := d.Annotations[image.AnnotationContainerName] + " " + d.Annotations[image.AnnotationRefName]
		if groups[name] == nil {
			groups[name] = new(image.Index)
			order = append(order, name)
		}
		groups[name].Manifests = append(groups[name].Manifests, d)
	}
	for _, name := range order {
		d, err := groups[name].Choose(platform)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, d)
	}
	return chosen, nil
}

// mergeNames adds img to images, or its names to the same image there.
func mergeNames(images []Image, img Image) []Image {
	for i, have := range images {
		if string(have.Manifest) == string(img.Manifest) {
			images[i].Names = appendNew(have.Names, img.Names...)
			images[i].Tags = append(have.Tags, img.Tags...)
			return images
		}
	}
	return append(images, img)
}

// blob reads a document and verifies it.
func (a *Archive) blob(d image.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("blob %s: %w: %d bytes, the limit is %d", d.Digest, ErrFormat, d.Size, limit)
	}
	raw, err := a.read(blobName(d.Digest), limit)
	if err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	if int64(len(raw)) != d.Size {
		return nil, fmt.Errorf("blob %s: %w: %d bytes, want %d", d.Digest, ErrMismatch, len(raw), d.Size)
	}
	if err := verify(raw, d.Digest); err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	return raw, nil
}

func (a *Archive) ociImage(d image.Descriptor, platform image.Platform, depth int) (Image, error) {
	raw, err := a.blob(d, image.MaxManifestSize)
	if err != nil {
		return Image{}, err
	}
	mediaType, err := image.DocumentType(raw)
	if err != nil {
		return Image{}, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	if mediaType != d.MediaType {
		return Image{}, fmt.Errorf("blob %s: %w: it is %q, and %q where it is referred to", d.Digest, ErrFormat, mediaType, d.MediaType)
	}
	if image.IsIndex(mediaType) {
		return a.nestedIndex(d, raw, platform, depth)
	}
	img, err := a.ociManifest(raw)
	if err != nil {
		return Image{}, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	img.Names, img.Tags = names(d)
	return img, nil
}

func (a *Archive) nestedIndex(d image.Descriptor, raw []byte, platform image.Platform, depth int) (Image, error) {
	if depth == maxNestedIndex {
		return Image{}, fmt.Errorf("blob %s: %w: indexes nested more than %d deep", d.Digest, ErrFormat, maxNestedIndex)
	}
	index, err := image.ParseIndex(raw)
	if err != nil {
		return Image{}, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	choice, err := index.Choose(platform)
	if err != nil {
		return Image{}, fmt.Errorf("index %s: %w", d.Digest, err)
	}
	// The index is what has the name; an annotation inside speaks of the part only.
	choice.Annotations = d.Annotations
	return a.ociImage(choice, platform, depth+1)
}

func (a *Archive) ociManifest(raw []byte) (Image, error) {
	manifest, err := image.ParseManifest(raw)
	if err != nil {
		return Image{}, err
	}
	rawConfig, err := a.blob(manifest.Config, image.MaxConfigSize)
	if err != nil {
		return Image{}, err
	}
	config, err := image.ParseConfig(rawConfig)
	if err != nil {
		return Image{}, err
	}
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		return Image{}, fmt.Errorf("%w: %d layers, the config has %d", ErrFormat, len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	img := Image{Manifest: raw, Config: rawConfig}
	for i, layer := range manifest.Layers {
		img.Layers = append(img.Layers, Layer{
			DiffID:     config.RootFS.DiffIDs[i],
			Descriptor: layer,
			open:       func() (io.ReadCloser, int64, error) { return a.files.open(blobName(layer.Digest)) },
		})
	}
	return img, nil
}

// names tells what an index calls an image. containerd and Docker give the whole reference in an
// annotation of their own; org.opencontainers.image.ref.name is a tag for them, umoci and skopeo,
// and the whole reference for podman.
func names(d image.Descriptor) (names, tags []string) {
	if name := d.Annotations[image.AnnotationContainerName]; name != "" {
		return []string{name}, nil
	}
	name := d.Annotations[image.AnnotationRefName]
	switch {
	case name == "":
		return nil, nil
	case strings.ContainsAny(name, "/:"):
		return []string{name}, nil
	default:
		return nil, []string{name}
	}
}
