package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/tarnfs/tarn/archive"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/store"
)

// SaveOptions says what to save, how and where.
type SaveOptions struct {
	Images []string // names, IDs; a name without a tag is all images of that repository
	Format string   // one of SaveFormats; "" for the first
	Output string   // a file, or for oci-dir a directory; "" or "-" for Stdout
	Stdout *os.File
}

// SaveFormats lists the formats of Save, the default first.
func SaveFormats() []string {
	var names []string
	for _, format := range archive.Formats() {
		names = append(names, string(format))
	}
	return names
}

// Save writes images into one archive, layers that they share once. Manifests, configs and layers are
// what they were when the image came, so that Load elsewhere gives the same digests and IDs.
func (e *Engine) Save(ctx context.Context, opts SaveOptions) (err error) {
	format := archive.Formats()[0]
	if opts.Format != "" {
		if format, err = archive.ParseFormat(opts.Format); err != nil {
			return fmt.Errorf("%w: %w", ErrOption, err)
		}
	}
	toStdout := opts.Output == "" || opts.Output == "-"
	if toStdout && format == archive.OCIDir {
		return fmt.Errorf("%w: a directory cannot be written to standard output: use -o DIR", ErrOption)
	}
	if toStdout && isTerminal(opts.Stdout) {
		return fmt.Errorf("save: %w", errTerminalOutput())
	}
	// Somebody may remove the images while they are written.
	pins, err := e.Store.NewPins()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pins.Release()) }()
	images, err := e.imagesToSave(ctx, pins, opts.Images)
	if err != nil {
		return err
	}
	switch {
	case toStdout:
		err = archive.WriteTar(ctx, opts.Stdout, format, images)
	case format == archive.OCIDir:
		err = saveDir(ctx, opts.Output, images)
	default:
		err = saveFile(opts.Output, func(w io.Writer) error { return archive.WriteTar(ctx, w, format, images) })
		if errors.Is(err, errIsDir) {
			err = fmt.Errorf("%w (for --format %s)", err, archive.OCIDir)
		}
	}
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// imagesToSave looks up images, and pins what is read of them later.
func (e *Engine) imagesToSave(ctx context.Context, pins *store.Pins, refs []string) (_ []archive.Saved, err error) {
	if i := slices.IndexFunc(refs, isBase); i >= 0 {
		if err := e.haveImage(ctx, refs[i]); err != nil {
			return nil, err
		}
	}
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	var images []archive.Saved
	index := make(map[image.Digest]int) // of images, by manifest
	for _, ref := range refs {
		records, err := e.savedRecords(ref)
		if err != nil {
			return nil, err
		}
		for _, record := range records {
			i, found := index[record.Manifest]
			if !found {
				img, err := e.imageToSave(ctx, lock, pins, record)
				if err != nil {
					return nil, fmt.Errorf("image %s: %w", ref, err)
				}
				i = len(images)
				index[record.Manifest], images = i, append(images, *img)
			}
			if err := addName(&images[i], record.Name); err != nil {
				return nil, err
			}
		}
	}
	return images, nil
}

func addName(img *archive.Saved, name string) error {
	if name == "" {
		return nil
	}
	ref, err := image.ParseReference(name)
	if err == nil && !slices.Contains(img.Names, ref) {
		img.Names = append(img.Names, ref)
	}
	return err
}

// savedRecords finds what a user means, with the names that the archive is to give. As Docker has it,
// a repository stands for all its tags; and an image that was asked for by its ID or digest is
// saved without a name.
func (e *Engine) savedRecords(ref string) ([]store.Image, error) {
	parsed, err := image.ParseReference(ref)
	byName := err == nil
	if byName && parsed.Tag() == "" && parsed.Digest() == "" {
		all, err := e.Store.Images()
		if err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(record store.Image) bool {
			name, err := image.ParseReference(record.Name)
			return err != nil || name.Tag() == "" || name.Repository() != parsed.Repository()
		})
		if len(all) > 0 {
			return all, nil
		}
	}
	img, err := e.Image(ref)
	if err != nil {
		return nil, err
	}
	record := img.Image
	if !byName || parsed.Tag() == "" || record.Name != parsed.Repository()+":"+parsed.Tag() {
		record.Name = ""
	}
	return []store.Image{record}, nil
}

func (e *Engine) imageToSave(ctx context.Context, lock *store.Lock, pins *store.Pins, record store.Image) (*archive.Saved, error) {
	raw, err := e.Store.ReadBlob(record.Manifest, image.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	manifest, err := image.ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	rawConfig, err := e.Store.ReadBlob(record.ID, image.MaxConfigSize)
	if err != nil {
		return nil, err
	}
	config, err := image.ParseConfig(rawConfig)
	if err != nil {
		return nil, err
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, fmt.Errorf("manifest %s: %w", record.Manifest, store.ErrDamaged)
	}
	img := &archive.Saved{MediaType: manifest.MediaType, Manifest: raw, Config: rawConfig}
	for i, descriptor := range manifest.Layers {
		diffID := config.RootFS.DiffIDs[i]
		if err := pins.Add(lock, diffID, descriptor.Digest); err != nil {
			return nil, err
		}
		img.Layers = append(img.Layers, archive.Source{
			Descriptor: descriptor,
			Open:       func() (io.ReadCloser, error) { return e.openForm(ctx, descriptor, diffID) },
		})
	}
	return img, nil
}

// openForm opens a layer in the form that a manifest names: its tar, or the compressed form that was
// kept, or that one made again.
func (e *Engine) openForm(ctx context.Context, d image.Descriptor, diffID image.Digest) (io.ReadCloser, error) {
	if d.Digest == diffID {
		layer, err := e.Store.Layer(diffID)
		if err != nil {
			return nil, err
		}
		return layer.OpenTar()
	}
	if e.Store.HasBlob(d.Digest) {
		return e.Store.OpenBlob(d.Digest)
	}
	made, err := e.remake(ctx, d)
	if err != nil {
		return nil, err
	}
	return readCloser{Reader: made.spool.open(0), Closer: made}, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

func errTerminalOutput() error {
	return fmt.Errorf("refusing to write to %w: use -o FILE, or redirect the output", ErrTerminal)
}

var errIsDir = errors.New("is a directory")

// saveFile writes a file so that it is whole or not there. What is no regular file, such as a pipe, is
// written to as it is.
func saveFile(path string, fill func(io.Writer) error) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("%s %w", path, errIsDir)
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		if isTerminal(f) {
			return errors.Join(errTerminalOutput(), f.Close())
		}
		return errors.Join(fill(f), f.Close())
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// What is in an image may be a secret; Docker makes the file with this mode too.
	return atomicfile.WriteFunc(path, 0o600, fill)
}

// saveDir writes an OCI layout to a directory that is absent or empty. Its index comes last, so that
// until all is there it is no layout. After an error it is as it was.
func saveDir(ctx context.Context, path string, images []archive.Saved) (err error) {
	err = os.Mkdir(path, 0o755)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("directory %s is not empty", path)
	}
	if err := archive.WriteDir(ctx, path, images); err != nil {
		return errors.Join(err, emptyDir(path, made))
	}
	return nil
}

// emptyDir removes what is in a directory, and itself too if that is wanted.
func emptyDir(path string, itself bool) error {
	if itself {
		return os.RemoveAll(path)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := os.ReadDir(path)
	errs := []error{err}
	for _, entry := range entries {
		errs = append(errs, root.RemoveAll(entry.Name()))
	}
	return errors.Join(errs...)
}
