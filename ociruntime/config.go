package ociruntime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/fastjson"
)

// maxConfig bounds what is read of a configuration.
const maxConfig = 16 << 20

// readSpec reads a bundle's config.json; text is what was read.
func readSpec(path string) (spec *specs.Spec, text []byte, err error) {
	text, err = readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s: %w (a bundle has a config.json: see '%s spec')", path, err, Name)
	}
	if err != nil {
		return nil, nil, err
	}
	spec = &specs.Spec{}
	if err := fastjson.Unmarshal(text, spec); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return spec, text, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("%s: larger than %d MiB", path, maxConfig>>20)
	}
	return text, err
}

// rootfs gives the root file system's directory of a bundle.
func rootfs(bundle string, spec *specs.Spec) (string, error) {
	if spec.Root == nil || spec.Root.Path == "" {
		return "", errors.New("config.json has no root.path")
	}
	if filepath.IsAbs(spec.Root.Path) {
		return filepath.Clean(spec.Root.Path), nil
	}
	return filepath.Join(bundle, spec.Root.Path), nil
}
