package archive

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/image"
)

const fileDockerManifest = "manifest.json"

// dockerEntry is one image in a docker-archive's manifest.json (moby, image/spec v1.2).
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *Archive) dockerEntries() ([]dockerEntry, error) {
	raw, err := a.read(fileDockerManifest, image.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	var entries []dockerEntry
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", fileDockerManifest, ErrFormat, err)
	}
	return entries, nil
}

func (a *Archive) dockerImages() ([]Image, error) {
	entries, err := a.dockerEntries()
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%w: %s lists no images", ErrFormat, fileDockerManifest)
	}
	var images []Image
	for i, entry := range entries {
		img, err := a.dockerImage(entry)
		if err != nil {
			return nil, fmt.Errorf("%s: image %d: %w", fileDockerManifest, i, err)
		}
		images = append(images, img)
	}
	return images, nil
}

func (a *Archive) dockerImage(entry dockerEntry) (Image, error) {
	raw, err := a.read(entry.Config, image.MaxConfigSize)
	if err != nil {
		return Image{}, err
	}
	if id, named := configDigest(entry.Config); named {
		if err := verify(raw, id); err != nil {
			return Image{}, fmt.Errorf("%s: %w", entry.Config, err)
		}
	}
	config, err := image.ParseConfig(raw)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", entry.Config, err)
	}
	if len(entry.Layers) != len(config.RootFS.DiffIDs) {
		return Image{}, fmt.Errorf("%w: %d layers, the config has %d", ErrFormat, len(entry.Layers), len(config.RootFS.DiffIDs))
	}
	img := Image{Names: entry.RepoTags, Config: raw}
	for i, name := range entry.Layers {
		img.Layers = append(img.Layers, Layer{
			DiffID: config.RootFS.DiffIDs[i],
			open:   func() (io.ReadCloser, int64, error) { return a.files.open(name) },
		})
	}
	return img, nil
}

// configDigest tells the image ID from the name of the config's file, <id>.json or blobs/sha256/<id>.
func configDigest(name string) (image.Digest, bool) {
	d, err := image.ParseDigest(image.SHA256 + ":" + strings.TrimSuffix(path.Base(name), ".json"))
	return d, err == nil
}

// addDockerNames gives images of the OCI layout the names that only manifest.json knows.
func (a *Archive) addDockerNames(images []Image) ([]Image, error) {
	entries, err := a.dockerEntries()
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		id, named := configDigest(entry.Config)
		if !named {
			continue
		}
		for i := range images {
			if image.DigestBytes(images[i].Config) == id {
				images[i].Names = appendNew(images[i].Names, entry.RepoTags...)
			}
		}
	}
	return images, nil
}

// appendNew appends the references that are not there yet under another spelling.
func appendNew(names []string, more ...string) []string {
	for _, name := range more {
		if !slices.ContainsFunc(names, func(have string) bool { return sameReference(have, name) }) {
			names = append(names, name)
		}
	}
	return names
}

func sameReference(a, b string) bool {
	first, errFirst := image.ParseReference(a)
	second, errSecond := image.ParseReference(b)
	return a == b || errFirst == nil && errSecond == nil && first.WithDefaultTag() == second.WithDefaultTag()
}
