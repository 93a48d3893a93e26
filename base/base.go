// Package base holds the default image, named "base": a small userland that lets tarn show what
// it does with nothing fetched from anywhere.
//
// Its only layer is made by "make build" (see scripts/base) into the folder image, which is
// embedded. A build without make compiles as well and has no base image.
package base

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Name is the reference under which the default image is known.
const Name = "base"

// ErrNotBuilt is returned by Open when the binary was built without the image.
var ErrNotBuilt = errors.New("this build has no base image: build with make")

//go:embed image
var files embed.FS

// Open gives the image's only layer: a zstd-compressed tar of a whole root file system, straight
// from the binary; nothing is decompressed here. It returns ErrNotBuilt if there is none.
func Open() (io.ReadCloser, error) {
	return open(files)
}

func open(files fs.FS) (io.ReadCloser, error) {
	f, err := files.Open("image/base.tar.zst")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotBuilt
	}
	if err != nil {
		return nil, fmt.Errorf("open the base image: %w", err)
	}
	return f, nil
}

// RunConfig is the part of an image's config that the default image sets.
type RunConfig struct {
	Cmd []string
	Env []string
}

// Config is how a container of the default image starts.
func Config() RunConfig {
	return RunConfig{
		Cmd: []string{"/bin/sh"},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
}
