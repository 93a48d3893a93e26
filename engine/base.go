package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tarnfs/tarn/base"
	"github.com/tarnfs/tarn/image"
)

// baseCreated is what every file of the default image has as its time. As the image's own time it
// gives the image the same ID wherever and however often it is imported.
const baseCreated = 1_700_000_000

// haveImage finds out whether an image is there, with the error that Image gives. The default image, which is embedded in
// the program, is put into the store when it is first asked for.
func (e *Engine) haveImage(ctx context.Context, ref string) error {
	_, err := e.Image(ref)
	if !errors.Is(err, ErrNoImage) || !isBase(ref) {
		return err
	}
	if err := e.importBase(ctx); errors.Is(err, base.ErrNotBuilt) {
		return fmt.Errorf("%w: %s (%w)", ErrNoImage, ref, err)
	} else if err != nil {
		return err
	}
	return nil
}

func isBase(ref string) bool {
	parsed, err := image.ParseReference(ref)
	return err == nil && parsed.WithDefaultTag().Familiar() == base.Name+":latest"
}

func (e *Engine) importBase(ctx context.Context) error {
	tar, err := base.Open()
	if err != nil {
		return err
	}
	defer tar.Close()
	staged, err := e.stageTar(ctx, tar)
	if err != nil {
		return fmt.Errorf("import %s: %w", base.Name, err)
	}
	names, err := parseName(base.Name)
	if err == nil {
		_, err = e.publishNew(ctx, names, baseConfig(staged.diffID), []image.Descriptor{tarDescriptor(staged.diffID, staged.size)}, staged)
	}
	return errors.Join(err, staged.abort())
}

func baseConfig(diffID image.Digest) *image.Config {
	created := time.Unix(baseCreated, 0).UTC()
	platform, run := image.HostPlatform(), base.Config()
	return &image.Config{
		Created: &created, Architecture: platform.Architecture, OS: platform.OS, Variant: platform.Variant,
		Config:  image.RunConfig{Cmd: run.Cmd, Env: run.Env},
		RootFS:  image.RootFS{Type: "layers", DiffIDs: []image.Digest{diffID}},
		History: []image.History{{Created: &created, CreatedBy: "tarn", Comment: "the default image"}},
	}
}
