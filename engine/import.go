package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/tarnfs/tarn/image"
)

// ErrEmpty says that there was nothing to import: most likely, the command before in a pipe failed.
var ErrEmpty = errors.New("the input is empty")

// ImportOptions says what image to make of a root file system's tar.
type ImportOptions struct {
	Name string // with or without a tag; "" for an image without a name

	// How containers of it run.
	Cmd, Entrypoint string   // as in a Dockerfile: a JSON list of words, or a command for the shell
	Env             []string // NAME=value, or NAME for the value it has here
	Labels          []string // KEY=value, or KEY
	User, WorkDir   string
	Changes         []string // Dockerfile instructions, applied last

	Message  string // of the image's one step of history
	Author   string
	Platform image.Platform // zero: this machine's
}

// ImportFile is Import of a file, or of stdin if path is "-".
func (e *Engine) ImportFile(ctx context.Context, path string, stdin *os.File, opts ImportOptions) (image.Digest, error) {
	in := stdin
	if !isStdin(path) {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("import %s: %w", path, plainPathError(err))
		}
		defer f.Close()
		in = f
	} else if isTerminal(stdin) {
		return "", fmt.Errorf("import: refusing to read from %w: give a file's name, or redirect the input", ErrTerminal)
	}
	if info, err := in.Stat(); err == nil && info.IsDir() {
		return "", fmt.Errorf("import %s: it is a directory: use 'tar -C %s -c . | tarn import -'", inputName(path), path)
	}
	id, err := e.Import(ctx, in, opts)
	if err != nil {
		return "", fmt.Errorf("import %s: %w", inputName(path), err)
	}
	return id, nil
}

// Import makes an image of one layer from r, the tar of a root file system, plain or compressed by
// gzip or zstd, and gives its ID. The same tar with the same options and SOURCE_DATE_EPOCH gives
// the same ID.
func (e *Engine) Import(ctx context.Context, r io.Reader, opts ImportOptions) (image.Digest, error) {
	names, err := parseName(opts.Name)
	if err != nil {
		return "", err
	}
	config, err := importConfig(opts)
	if err != nil {
		return "", err
	}
	if err := e.Store.CollectLeftovers(); err != nil {
		return "", err
	}
	staged, err := e.stageTar(ctx, r)
	if err != nil {
		return "", err
	}
	if staged.size == 0 {
		return "", errors.Join(ErrEmpty, staged.abort())
	}
	config.RootFS.DiffIDs = []image.Digest{staged.diffID}
	id, err := e.publishNew(ctx, names, config, []image.Descriptor{tarDescriptor(staged.diffID, staged.size)}, staged)
	return id, errors.Join(err, staged.abort())
}

// publishNew publishes an image that is made here, with one new layer.
func (e *Engine) publishNew(ctx context.Context, names []image.Reference, config *image.Config, layers []image.Descriptor, staged ...*stagedLayer) (image.Digest, error) {
	raw, err := config.Marshal()
	if err != nil {
		return "", err
	}
	manifest, err := newManifest(raw, layers)
	if err != nil {
		return "", err
	}
	img, err := e.publish(ctx, &draft{
		config: raw, manifest: manifest, made: true, names: names, layers: config.RootFS.DiffIDs, staged: staged,
	})
	return img.ID, err
}

func importConfig(opts ImportOptions) (*image.Config, error) {
	created, err := timestamp()
	if err != nil {
		return nil, err
	}
	run, err := opts.runConfig()
	if err != nil {
		return nil, err
	}
	platform := opts.Platform
	if platform.OS == "" {
		platform = image.HostPlatform()
	}
	return &image.Config{
		Created: &created, Author: opts.Author,
		Architecture: platform.Architecture, OS: platform.OS, Variant: platform.Variant,
		Config: *run, RootFS: image.RootFS{Type: "layers"},
		History: []image.History{{
			Created: &created, CreatedBy: "tarn import", Author: opts.Author,
			Comment: cmp.Or(opts.Message, "imported from a tar"),
		}},
	}, nil
}

func (opts *ImportOptions) runConfig() (*image.RunConfig, error) {
	run := &image.RunConfig{User: opts.User}
	var err error
	for _, entry := range opts.Env {
		if run.Env, err = applyEnv(run.Env, entry); err != nil {
			return nil, err
		}
	}
	if run.Labels, err = mergeLabels(nil, opts.Labels); err != nil {
		return nil, err
	}
	if run.WorkingDir = opts.WorkDir; run.WorkingDir != "" {
		run.WorkingDir = path.Join("/", run.WorkingDir)
	}
	var changes []string
	if opts.Entrypoint != "" {
		changes = append(changes, "ENTRYPOINT "+opts.Entrypoint)
	}
	if opts.Cmd != "" {
		changes = append(changes, "CMD "+opts.Cmd)
	}
	return run, run.ApplyChanges(append(changes, opts.Changes...))
}
