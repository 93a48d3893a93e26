package image

import (
	"fmt"
	"strings"
)

// Document is any manifest or index as a registry sees it: what it is, and what it refers to. An
// artifact, such as a signature, is a manifest whose config and layers may be of any media type
// (OCI image-spec, manifest.md, "Guidelines for Artifact Usage").
type Document struct {
	MediaType    string
	ArtifactType string       // by which referrers are listed; "" if the document has none
	Config       *Descriptor  // nil for an index
	Layers       []Descriptor // blobs, the config apart
	Manifests    []Descriptor // what an index lists
	Subject      *Descriptor  // the manifest that this one is about; it need not exist
	Annotations  map[string]string
}

// ParseDocument reads and checks a manifest or index, OCI or Docker schema 2.
func ParseDocument(raw []byte) (*Document, error) {
	mediaType, err := DocumentType(raw)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	var fields struct {
		SchemaVersion int               `json:"schemaVersion"`
		ArtifactType  string            `json:"artifactType"`
		Config        *Descriptor       `json:"config"`
		Layers        []Descriptor      `json:"layers"`
		Manifests     []Descriptor      `json:"manifests"`
		Subject       *Descriptor       `json:"subject"`
		Annotations   map[string]string `json:"annotations"`
	}
	if err := decode(raw, &fields, MaxManifestSize); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	d := &Document{
		MediaType: mediaType, ArtifactType: fields.ArtifactType, Config: fields.Config, Layers: fields.Layers,
		Manifests: fields.Manifests, Subject: fields.Subject, Annotations: fields.Annotations,
	}
	if fields.SchemaVersion != 2 {
		err = fmt.Errorf("%w: schema version %d, want 2", ErrDocument, fields.SchemaVersion)
	} else {
		err = d.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	// Referrers of the image manifest's kind that say nothing else are of their config's type
	// (OCI distribution-spec, "Listing Referrers").
	if d.ArtifactType == "" && d.Config != nil {
		d.ArtifactType = d.Config.MediaType
	}
	return d, nil
}

func (d *Document) validate() error {
	switch {
	case !IsManifest(d.MediaType) && !IsIndex(d.MediaType):
		return fmt.Errorf("%w: media type %q", ErrDocument, clip(d.MediaType))
	case IsManifest(d.MediaType) && d.Config == nil:
		return fmt.Errorf("%w: a manifest without a config", ErrDocument)
	case IsIndex(d.MediaType) && d.Config != nil:
		return fmt.Errorf("%w: an index with a config", ErrDocument)
	case len(d.Layers) > maxLayers, len(d.Manifests) > maxDescriptors:
		return fmt.Errorf("%w: %d layers and manifests, the limit is %d", ErrDocument, len(d.Layers)+len(d.Manifests), maxLayers)
	}
	for _, list := range [][]Descriptor{d.Blobs(), d.Manifests} {
		for _, descriptor := range list {
			if err := descriptor.Validate(); err != nil {
				return err
			}
		}
	}
	if d.Subject != nil {
		return d.Subject.Validate()
	}
	return nil
}

// Blobs lists what a manifest is made of: its config, then its layers.
func (d *Document) Blobs() []Descriptor {
	if d.Config == nil {
		return d.Layers
	}
	return append([]Descriptor{*d.Config}, d.Layers...)
}

// Distributable reports whether registries keep the blob: layers of some media types are got from
// elsewhere, and only referred to (OCI image-spec, layer.md, "Non-Distributable Layers").
func (d Descriptor) Distributable() bool {
	return d.MediaType != mediaTypeForeign &&
		!strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.nondistributable.")
}
