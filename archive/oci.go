package archive

import (
	"encoding/json"
	"errors"
	"fmt"
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

// blobName is where an OCI layout has a blob.
func blobName(d image.Digest) string { return dirBlobs + "/" + d.Algorithm() + "/" + d.Hex() }

// layout is an OCI layout that is being listed.
type layout struct {
	*Archive
	want   image.Platform
	images []Image
	seen   map[image.Digest]int // by the manifest's digest: where it is in images
}

func (a *Archive) ociImages(want image.Platform) ([]Image, error) {
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
	l := &layout{Archive: a, want: want, seen: make(map[image.Digest]int)}
	chosen, err := l.chooseByName(index)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fileIndex, err)
	}
	for _, descriptor := range chosen {
		err := l.add(descriptor, 0)
		if errors.Is(err, image.ErrNotImage) {
			continue // a signature, an attestation, an artifact
		}
		if err != nil {
			return nil, err
		}
	}
	if len(l.images) == 0 {
		return nil, fmt.Errorf("%s: %w: it lists no images", fileIndex, ErrFormat)
	}
	return l.images, nil
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
		return fmt.Errorf("%s: %w that is supported: version %.20q, not %s", fileLayout, ErrFormat, layout.Version, layoutVersion)
	}
	return nil
}

// chooseByName leaves out, of the descriptors of one name, those that are for another platform than
// the one chosen. Descriptors that say no platform are images of their own.
func (l *layout) chooseByName(index *image.Index) ([]image.Descriptor, error) {
	key := func(d image.Descriptor) string {
		return d.Annotations[image.AnnotationContainerName] + " " + d.Annotations[image.AnnotationRefName]
	}
	groups := make(map[string]*image.Index)
	for _, d := range index.Manifests {
		if d.Platform == nil {
			continue
		}
		if groups[key(d)] == nil {
			groups[key(d)] = new(image.Index)
		}
		groups[key(d)].Manifests = append(groups[key(d)].Manifests, d)
	}
	platforms := make(map[string]string)
	for name, group := range groups {
		d, err := l.choose(group)
		if err != nil {
			return nil, err
		}
		if d.Platform != nil {
			platforms[name] = d.Platform.String()
		}
	}
	var chosen []image.Descriptor
	for _, d := range index.Manifests {
		if d.Platform == nil || d.Platform.String() == platforms[key(d)] {
			chosen = append(chosen, d)
		}
	}
	return chosen, nil
}

// choose picks the part of an index that is for the wanted platform.
func (l *layout) choose(index *image.Index) (image.Descriptor, error) {
	if l.want.OS != "" {
		return index.Choose(l.want)
	}
	d, err := index.Choose(image.HostPlatform())
	if errors.Is(err, image.ErrNoPlatform) {
		if only, ok := onlyImage(index); ok {
			return only, nil
		}
	}
	return d, err
}

// onlyImage gives the one image of an index that has no others. Builders list attestations as
// manifests for the platform unknown/unknown.
func onlyImage(index *image.Index) (only image.Descriptor, ok bool) {
	for _, d := range index.Manifests {
		isImage := image.IsManifest(d.MediaType) || image.IsIndex(d.MediaType)
		if !isImage || d.Platform != nil && d.Platform.OS == "unknown" {
			continue
		}
		if ok {
			return image.Descriptor{}, false
		}
		only, ok = d, true
	}
	return only, ok
}

// add adds the image that d leads to.
func (l *layout) add(d image.Descriptor, depth int) error {
	if !image.IsManifest(d.MediaType) && !image.IsIndex(d.MediaType) {
		return fmt.Errorf("blob %s: %w", d.Digest, image.ErrNotImage)
	}
	names, tags := namesOf(d)
	if i, seen := l.seen[d.Digest]; seen {
		l.images[i].Names = append(l.images[i].Names, names...)
		l.images[i].Tags = append(l.images[i].Tags, tags...)
		return nil
	}
	raw, err := l.blob(d, blobName, image.MaxManifestSize)
	if err != nil {
		return err
	}
	mediaType, err := image.DocumentType(raw)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	if mediaType != d.MediaType {
		return fmt.Errorf("blob %s: %w: it is of type %.80q, and of type %.80q where it is referred to", d.Digest, ErrFormat, mediaType, d.MediaType)
	}
	if image.IsIndex(mediaType) {
		return l.addNested(d, raw, depth)
	}
	img, err := l.manifestImage(raw, blobName)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	img.Names, img.Tags = names, tags
	l.seen[d.Digest] = len(l.images)
	l.images = append(l.images, img)
	return nil
}

func (l *layout) addNested(d image.Descriptor, raw []byte, depth int) error {
	if depth == maxNestedIndex {
		return fmt.Errorf("index %s: %w: nested more than %d deep", d.Digest, ErrLimit, maxNestedIndex)
	}
	index, err := image.ParseIndex(raw)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	choice, err := l.choose(index)
	if err != nil {
		return fmt.Errorf("index %s: %w", d.Digest, err)
	}
	// The index is what has the name; an annotation inside speaks of the part only.
	choice.Annotations = d.Annotations
	return l.add(choice, depth+1)
}

// manifestImage reads what a manifest lists; at says by which name the archive has a blob.
func (a *Archive) manifestImage(raw []byte, at func(image.Digest) string) (Image, error) {
	manifest, err := image.ParseManifest(raw)
	if err != nil {
		return Image{}, err
	}
	rawConfig, err := a.blob(manifest.Config, at, image.MaxConfigSize)
	if err != nil {
		return Image{}, fmt.Errorf("config: %w", err)
	}
	config, err := image.ParseConfig(rawConfig)
	if err != nil {
		return Image{}, err
	}
	if err := sameCount(len(manifest.Layers), config); err != nil {
		return Image{}, err
	}
	img := Image{Manifest: raw, Config: rawConfig, Parsed: config}
	for i, layer := range manifest.Layers {
		img.Layers = append(img.Layers, a.layer(at(layer.Digest), config.RootFS.DiffIDs[i], layer))
	}
	return img, nil
}

// blob reads a document and verifies it.
func (a *Archive) blob(d image.Descriptor, at func(image.Digest) string, limit int64) ([]byte, error) {
	raw, err := a.read(at(d.Digest), limit)
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) != d.Size {
		return nil, fmt.Errorf("blob %s: %w: %d bytes, not %d", d.Digest, ErrMismatch, len(raw), d.Size)
	}
	if err := verify(raw, d.Digest); err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	return raw, nil
}

// namesOf tells what an index calls an image. containerd and Docker give the whole reference in an
// annotation of their own; org.opencontainers.image.ref.name is a tag for them, umoci and skopeo,
// and the whole reference for podman. It may also be something else.
func namesOf(d image.Descriptor) (names, tags []string) {
	name := d.Annotations[image.AnnotationRefName]
	whole, err := image.ParseReference(d.Annotations[image.AnnotationContainerName])
	// umoci leaves the other annotation as it was when it gives an image a new name.
	if err == nil && (name == "" || name == whole.Tag() || sameReference(whole, name)) {
		return []string{whole.String()}, nil
	}
	switch {
	case name == "":
		return nil, nil
	case !strings.ContainsAny(name, "/:"):
		return nil, []string{name}
	}
	if _, err := image.ParseReference(name); err != nil {
		return nil, nil
	}
	return []string{name}, nil
}

func sameReference(ref image.Reference, name string) bool {
	other, err := image.ParseReference(name)
	return err == nil && other.WithDefaultTag() == ref.WithDefaultTag()
}
