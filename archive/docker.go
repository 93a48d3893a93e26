package archive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/tarnfs/tarn/image"
)

const (
	// fileManifest lists a docker-archive's images. In a directory of the "dir:" transport it is the
	// manifest itself.
	fileManifest     = "manifest.json"
	fileRepositories = "repositories"

	maxDockerImages = 10_000
)

// dockerEntry is one image in a docker-archive's manifest.json (moby, image/spec/v1.2.md).
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func isObject(document []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(document, " \t\r\n"), []byte("{"))
}

// parseDockerManifest decodes entry by entry: an empty one is two bytes there and much more here.
func parseDockerManifest(raw []byte) ([]dockerEntry, error) {
	var entries []dockerEntry
	dec := json.NewDecoder(bytes.NewReader(raw))
	token, err := dec.Token()
	if err == nil && token != json.Delim('[') {
		err = fmt.Errorf("it begins with %.20q", fmt.Sprint(token))
	}
	for err == nil && dec.More() {
		if len(entries) == maxDockerImages {
			return nil, fmt.Errorf("%s: %w: more than %d images", fileManifest, ErrLimit, maxDockerImages)
		}
		var entry dockerEntry
		if err = dec.Decode(&entry); err == nil {
			entries = append(entries, entry)
		}
	}
	if err == nil {
		_, err = dec.Token()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", fileManifest, ErrFormat, err)
	}
	return entries, nil
}

func (a *Archive) dockerImages(manifest []byte) ([]Image, error) {
	entries, err := parseDockerManifest(manifest)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s: %w: it lists no images", fileManifest, ErrFormat)
	}
	images := make([]Image, 0, len(entries))
	for i, entry := range entries {
		img, err := a.dockerImage(entry)
		if err != nil {
			return nil, fmt.Errorf("%s, image %d: %w", fileManifest, i+1, err)
		}
		images = append(images, img)
	}
	return images, nil
}

func (a *Archive) dockerImage(entry dockerEntry) (Image, error) {
	raw, err := a.read(entry.Config, image.MaxConfigSize)
	if err != nil {
		return Image{}, fmt.Errorf("config: %w", err)
	}
	if id, named := configDigest(entry.Config); named {
		if err := verify(raw, id); err != nil {
			return Image{}, fmt.Errorf("config %s: %w", quote(entry.Config), err)
		}
	}
	config, err := image.ParseConfig(raw)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", quote(entry.Config), err)
	}
	if err := sameCount(len(entry.Layers), config); err != nil {
		return Image{}, err
	}
	img := Image{Names: entry.RepoTags, Config: raw, Parsed: config}
	for i, name := range entry.Layers {
		img.Layers = append(img.Layers, a.layer(name, config.RootFS.DiffIDs[i], image.Descriptor{}))
	}
	return img, nil
}

func (a *Archive) layer(name string, diffID image.Digest, descriptor image.Descriptor) Layer {
	return Layer{
		DiffID: diffID, Descriptor: descriptor, Name: quote(name),
		open: func() (io.ReadCloser, int64, error) { return a.files.open(name) },
	}
}

func sameCount(layers int, config *image.Config) error {
	if layers != len(config.RootFS.DiffIDs) {
		return fmt.Errorf("%w: %d layers, and %d in its config", ErrFormat, layers, len(config.RootFS.DiffIDs))
	}
	return nil
}

// configDigest tells the image ID from the name of the config's file: <hex>.json (Docker),
// blobs/sha256/<hex> (Docker 25) or sha256:<hex> (go-containerregistry). Other names mean nothing.
func configDigest(name string) (image.Digest, bool) {
	encoded := strings.TrimPrefix(strings.TrimSuffix(path.Base(name), ".json"), image.SHA256+":")
	d, err := image.ParseDigest(image.SHA256 + ":" + encoded)
	return d, err == nil
}

// addDockerNames gives images of the OCI layout the names that only manifest.json knows.
func addDockerNames(images []Image, manifest []byte) error {
	entries, err := parseDockerManifest(manifest)
	if err != nil {
		return err
	}
	byID := make(map[image.Digest]int)
	given := make(map[string]bool)
	for i := range images {
		if id := images[i].ID(); byID[id] == 0 {
			byID[id] = i + 1
		}
		for _, name := range images[i].Names {
			given[canonical(name)] = true
		}
	}
	for _, entry := range entries {
		id, named := configDigest(entry.Config)
		i := byID[id] - 1
		if !named || i < 0 {
			continue
		}
		for _, name := range entry.RepoTags {
			if !given[canonical(name)] {
				given[canonical(name)] = true
				images[i].Names = append(images[i].Names, name)
			}
		}
	}
	return nil
}

// canonical makes two spellings of one reference the same.
func canonical(name string) string {
	ref, err := image.ParseReference(name)
	if err != nil {
		return name
	}
	return ref.WithDefaultTag().String()
}
