package image

import (
	"errors"
	"fmt"
	"math"
)

// ErrNoPlatform is returned when an index has no image for the platform that was asked for;
// ErrNotImage for a manifest of something else, such as a signature.
var (
	ErrNoPlatform = errors.New("no image for this platform")
	ErrNotImage   = errors.New("not a container image")
)

// Media types of OCI image-spec 1.1 (media-types.md) and Docker schema 2.
const (
	MediaTypeManifest       = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeIndex          = "application/vnd.oci.image.index.v1+json"
	MediaTypeConfig         = "application/vnd.oci.image.config.v1+json"
	MediaTypeLayer          = "application/vnd.oci.image.layer.v1.tar"
	MediaTypeLayerGzip      = "application/vnd.oci.image.layer.v1.tar+gzip"
	MediaTypeLayerZstd      = "application/vnd.oci.image.layer.v1.tar+zstd"
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	MediaTypeDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	MediaTypeDockerGzip     = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	MediaTypeDockerZstd     = "application/vnd.docker.image.rootfs.diff.tar.zstd"

	mediaTypeForeign     = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	mediaTypeSchema1     = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeSchema1Sign = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// Annotations of an index's descriptors that name the image.
const (
	AnnotationRefName       = "org.opencontainers.image.ref.name"
	AnnotationContainerName = "io.containerd.image.name"
)

// Descriptor points at content (OCI image-spec, descriptor.md).
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       Digest            `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Data         []byte            `json:"data,omitempty"`
	Platform     *Platform         `json:"platform,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// Validate checks digest and size.
func (d Descriptor) Validate() error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if d.Size < 0 || d.Size > math.MaxInt64/2 {
		return fmt.Errorf("%w: %s: size %d", ErrDocument, d.Digest, d.Size)
	}
	return nil
}

// Manifest is one image: a config and its layers, the lowest first.
type Manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        Descriptor        `json:"config"`
	Layers        []Descriptor      `json:"layers"`
	Subject       *Descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// Index lists manifests, usually one for each platform. A Docker manifest list has the same form.
type Index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Manifests     []Descriptor      `json:"manifests"`
	Subject       *Descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// IsManifest reports whether mediaType is that of an image manifest.
func IsManifest(mediaType string) bool {
	return mediaType == MediaTypeManifest || mediaType == MediaTypeDockerManifest
}

// IsIndex reports whether mediaType is that of an index or a Docker manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == MediaTypeIndex || mediaType == MediaTypeDockerList
}

// DocumentType tells what a manifest or index says of itself: the media type it carries, or one
// told from its fields where it carries none, as OCI allows. A document that is both a manifest
// and an index is refused (CVE-2021-41190).
func DocumentType(raw []byte) (string, error) {
	var probe struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
		Config        any    `json:"config"`
		Layers        any    `json:"layers"`
		Manifests     any    `json:"manifests"`
		FSLayers      any    `json:"fsLayers"`
	}
	if err := decode(raw, &probe, MaxManifestSize); err != nil {
		return "", err
	}
	isManifest := probe.Config != nil || probe.Layers != nil
	isIndex := probe.Manifests != nil
	switch {
	case probe.SchemaVersion == 1 || probe.FSLayers != nil ||
		probe.MediaType == mediaTypeSchema1 || probe.MediaType == mediaTypeSchema1Sign:
		return "", fmt.Errorf("%w: Docker schema 1 is not supported: push the image again with a current tool", ErrDocument)
	case isManifest && isIndex:
		return "", fmt.Errorf("%w: both a manifest and an index", ErrDocument)
	case isIndex && IsManifest(probe.MediaType), isManifest && IsIndex(probe.MediaType):
		return "", fmt.Errorf("%w: its fields contradict its media type %q", ErrDocument, clip(probe.MediaType))
	case probe.MediaType != "":
		return probe.MediaType, nil
	case isIndex:
		return MediaTypeIndex, nil
	case isManifest:
		return MediaTypeManifest, nil
	default:
		return "", fmt.Errorf("%w: neither a manifest nor an index", ErrDocument)
	}
}

// ParseManifest reads and checks an image manifest, OCI or Docker schema 2. MediaType is always
// filled in.
func ParseManifest(raw []byte) (*Manifest, error) {
	mediaType, err := DocumentType(raw)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if !IsManifest(mediaType) {
		return nil, fmt.Errorf("manifest: %w: media type %q", ErrDocument, clip(mediaType))
	}
	m := new(Manifest)
	if err := decode(raw, m, MaxManifestSize); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	m.MediaType = mediaType
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

func (m *Manifest) validate() error {
	if m.SchemaVersion != 2 {
		return fmt.Errorf("%w: schema version %d, want 2", ErrDocument, m.SchemaVersion)
	}
	if len(m.Layers) > maxLayers {
		return fmt.Errorf("%w: %d layers, the limit is %d", ErrDocument, len(m.Layers), maxLayers)
	}
	if err := m.Config.Validate(); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if m.Config.MediaType != MediaTypeConfig && m.Config.MediaType != MediaTypeDockerConfig {
		return fmt.Errorf("%w: config of media type %q", ErrNotImage, clip(m.Config.MediaType))
	}
	if m.Config.Size > MaxConfigSize {
		return fmt.Errorf("%w: config of %d bytes, the limit is %d", ErrDocument, m.Config.Size, MaxConfigSize)
	}
	for i, layer := range m.Layers {
		if err := layer.Validate(); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		if !isLayer(layer.MediaType) {
			return fmt.Errorf("%w: layer %d of media type %q", ErrDocument, i, clip(layer.MediaType))
		}
	}
	return nil
}

func isLayer(mediaType string) bool {
	switch mediaType {
	case MediaTypeLayer, MediaTypeLayerGzip, MediaTypeLayerZstd,
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
		MediaTypeDockerLayer, MediaTypeDockerGzip, MediaTypeDockerZstd, mediaTypeForeign:
		return true
	default:
		return false
	}
}

// ParseIndex reads and checks an OCI index or a Docker manifest list.
func ParseIndex(raw []byte) (*Index, error) {
	mediaType, err := DocumentType(raw)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	if !IsIndex(mediaType) {
		return nil, fmt.Errorf("index: %w: media type %q", ErrDocument, clip(mediaType))
	}
	x := new(Index)
	if err := decode(raw, x, MaxManifestSize); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	x.MediaType = mediaType
	if x.SchemaVersion != 2 {
		return nil, fmt.Errorf("index: %w: schema version %d, want 2", ErrDocument, x.SchemaVersion)
	}
	if len(x.Manifests) > maxDescriptors {
		return nil, fmt.Errorf("index: %w: %d manifests, the limit is %d", ErrDocument, len(x.Manifests), maxDescriptors)
	}
	for i, descriptor := range x.Manifests {
		if err := descriptor.Validate(); err != nil {
			return nil, fmt.Errorf("index: manifest %d: %w", i, err)
		}
	}
	return x, nil
}

// Choose gives the manifest (or nested index) that suits p best; of equals, the first. A
// descriptor without a platform suits when nothing better is there.
func (x *Index) Choose(p Platform) (Descriptor, error) {
	best, bestRank := Descriptor{}, 0
	for _, d := range x.Manifests {
		if !IsManifest(d.MediaType) && !IsIndex(d.MediaType) {
			continue
		}
		rank := 1
		if d.Platform != nil {
			if rank = p.rank(*d.Platform); rank > 0 {
				rank++
			}
		}
		if rank > bestRank {
			best, bestRank = d, rank
		}
	}
	if bestRank == 0 {
		return Descriptor{}, fmt.Errorf("%w: %s", ErrNoPlatform, p)
	}
	return best, nil
}
