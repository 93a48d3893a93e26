package archive

import (
	"fmt"
	"strings"

	"github.com/tarnfs/tarn/image"
)

// A directory of containers/image's "dir:" transport has one image: manifest.json is its manifest,
// version says so, and each blob is a file named by its digest without the algorithm
// (containers/image, directory/directory_transport.go).
const (
	fileVersion       = "version"
	versionLine       = "Directory Transport Version: 1."
	maxTransportBytes = 1 << 10
)

func (a *Archive) transportImage(manifest []byte) ([]Image, error) {
	version, err := a.read(fileVersion, maxTransportBytes)
	if err != nil || !strings.HasPrefix(string(version), versionLine) {
		return nil, fmt.Errorf("%s: %w: it is no list of images", fileManifest, ErrFormat)
	}
	img, err := a.manifestImage(manifest, image.Digest.Hex)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fileManifest, err)
	}
	return []Image{img}, nil
}
