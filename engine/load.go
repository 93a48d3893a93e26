package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tarnfs/tarn/archive"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// LoadOptions says what to load.
type LoadOptions struct {
	Input string   // a file or a directory; "" or "-" for Stdin
	Stdin *os.File // need not be seekable
	// Platform is the one to choose where the archive has an image for several; zero: this
	// machine's, or whichever there is if there is but one.
	Platform image.Platform
	Report   Report // of the layers
}

// LoadedImage is an image that was loaded.
type LoadedImage struct {
	ID    image.Digest
	Names []image.Reference // none if the archive gives the image no name
	// Moved are the images that had one of the names before, by name.
	Moved map[image.Reference]image.Digest
}

// Load takes in all images of an archive, or none: docker-archives and OCI layouts, each compressed by
// gzip or zstd or not, in a file, a pipe or a directory. What the archive says of an image is
// kept to the byte: manifest, config, and layers as they are compressed there.
func (e *Engine) Load(ctx context.Context, opts LoadOptions) ([]LoadedImage, error) {
	if err := e.Store.CollectLeftovers(); err != nil {
		return nil, err
	}
	loaded, err := e.load(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", inputName(opts.Input), err)
	}
	return loaded, nil
}

func (e *Engine) load(ctx context.Context, opts LoadOptions) ([]LoadedImage, error) {
	input, err := e.openArchive(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer input.close()
	images, err := input.archive.Images(opts.Platform)
	if err != nil {
		return nil, err
	}
	return e.loadImages(ctx, images, opts)
}

func (e *Engine) loadImages(ctx context.Context, images []archive.Image, opts LoadOptions) (_ []LoadedImage, err error) {
	names := make([][]image.Reference, len(images))
	for i := range images {
		if names[i], err = archiveNames(&images[i], repositoryOf(opts.Input)); err != nil {
			return nil, fmt.Errorf("image %s: %w", images[i].ID().Short(), err)
		}
	}
	layers, err := archiveLayers(images)
	if err != nil {
		return nil, err
	}
	pairs := make([]layerOf, len(layers))
	for i, l := range layers {
		pairs[i] = layerOf{l.Descriptor, l.DiffID}
	}
	pins, err := e.pin(ctx, pairs)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, pins.Release())
		if err != nil {
			// All or nothing. If this fails, too, the next sweep does it.
			_ = e.sweepUnused(context.WithoutCancel(ctx))
		}
	}()
	sizes, err := e.takeLayers(ctx, layers, opts.Report)
	if err != nil {
		return nil, err
	}
	drafts, err := e.drafts(images, names, sizes)
	if err != nil {
		return nil, err
	}
	return e.publishAll(ctx, drafts)
}

// sweepUnused removes what nothing refers to.
func (e *Engine) sweepUnused(ctx context.Context) error {
	lock, err := e.Store.Exclusive(ctx)
	if err != nil {
		return err
	}
	err = e.sweep(lock, nil, new(Removed))
	return errors.Join(err, lock.Unlock(), e.Store.CollectLeftovers())
}

// drafts says what is to be published when all layers are in place. sizes are those of the layers' tars.
func (e *Engine) drafts(images []archive.Image, names [][]image.Reference, sizes map[image.Digest]int64) ([]*draft, error) {
	drafts := make([]*draft, len(images))
	for i := range images {
		img := &images[i]
		manifest := img.Manifest
		if manifest == nil {
			var err error
			if manifest, err = e.manifestFor(img, names[i], sizes); err != nil {
				return nil, err
			}
		}
		drafts[i] = &draft{config: img.Config, manifest: manifest, names: names[i], layers: img.Parsed.RootFS.DiffIDs}
	}
	return drafts, nil
}

// manifestFor gives the manifest of an image that came without: the one it has here, if it is here,
// or one whose layers are plain tars.
func (e *Engine) manifestFor(img *archive.Image, names []image.Reference, sizes map[image.Digest]int64) ([]byte, error) {
	records, err := e.Store.Images()
	if err != nil {
		return nil, err
	}
	var here image.Digest
	for _, record := range records {
		named := slices.ContainsFunc(names, func(n image.Reference) bool { return n.String() == record.Name })
		if record.ID == img.ID() && (here == "" || named) {
			here = record.Manifest
		}
	}
	if here != "" {
		return e.Store.ReadBlob(here, image.MaxManifestSize)
	}
	layers := make([]image.Descriptor, len(img.Layers))
	for i, layer := range img.Layers {
		layers[i] = tarDescriptor(layer.DiffID, sizes[layer.DiffID])
	}
	return newManifest(img.Config, layers)
}

func (e *Engine) publishAll(ctx context.Context, drafts []*draft) (_ []LoadedImage, err error) {
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	loaded := make([]LoadedImage, len(drafts))
	for i, d := range drafts {
		loaded[i] = LoadedImage{ID: image.DigestBytes(d.config), Names: d.names, Moved: make(map[image.Reference]image.Digest)}
		for _, name := range d.names {
			old, err := e.Store.Image(name.String())
			if err == nil && old.ID != loaded[i].ID {
				loaded[i].Moved[name] = old.ID
			} else if err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, err
			}
		}
		if _, err := e.publishLocked(lock, d); err != nil {
			return nil, err
		}
	}
	return loaded, nil
}

// archiveLayer is a layer to be read once, and its size in the archive.
type archiveLayer struct {
	archive.Layer
	size int64
}

// archiveLayers lists the layers, each once, and finds out before anything is read whether one is missing
// or has not the size that its manifest says. Different blobs that are said to be the same layer are
// all there: each has to be proved.
func archiveLayers(images []archive.Image) ([]archiveLayer, error) {
	type key struct{ diffID, blob image.Digest }
	seen := make(map[key]bool)
	var layers []archiveLayer
	for _, img := range images {
		for _, layer := range img.Layers {
			k := key{layer.DiffID, layer.Descriptor.Digest}
			if seen[k] {
				continue
			}
			seen[k] = true
			size, err := archiveSize(layer)
			if err != nil {
				return nil, err
			}
			layers = append(layers, archiveLayer{Layer: layer, size: size})
		}
	}
	return layers, nil
}

func archiveSize(layer archive.Layer) (int64, error) {
	r, size, err := layer.Open()
	if err != nil {
		return 0, fmt.Errorf("layer: %w", err)
	}
	_ = r.Close() // was not read
	if want := layer.Descriptor; want.Digest != "" && want.Size != size {
		return 0, fmt.Errorf("layer %s: %w: size %d, the manifest says %d", layer.Name, store.ErrDigest, size, want.Size)
	}
	return size, nil
}

// pin keeps layers and their compressed forms, which are in the store or will be, from being swept until the pins are
// released.
func (e *Engine) pin(ctx context.Context, layers []layerOf) (_ *store.Pins, err error) {
	pins, err := e.Store.NewPins()
	if err != nil {
		return nil, err
	}
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return nil, errors.Join(err, pins.Release())
	}
	for _, l := range layers {
		err = errors.Join(err, pins.Add(lock, l.diffID, l.want.Digest))
	}
	if err = errors.Join(err, lock.Unlock()); err != nil {
		return nil, errors.Join(err, pins.Release())
	}
	return pins, nil
}

// stagedAtOnce bounds the memory of layers that are read at once; beyond it the disk is busy anyway.
const stagedAtOnce = 4

// takeLayers takes in layers, several at a time, and gives the sizes of their tars. Each is in the store when it is
// whole, so that those which come after it can borrow from it; pins keep it there until its image has a name.
func (e *Engine) takeLayers(ctx context.Context, layers []archiveLayer, report Report) (map[image.Digest]int64, error) {
	for _, layer := range layers {
		report.tell(layer.transfer(Waiting))
	}
	var (
		mu    sync.Mutex
		sizes = make(map[image.Digest]int64)
	)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(min(runtime.GOMAXPROCS(0), stagedAtOnce))
	for _, layer := range layers {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			size, err := e.takeLayer(ctx, layer, report)
			mu.Lock()
			defer mu.Unlock()
			sizes[layer.DiffID] = size
			return err
		})
	}
	return sizes, group.Wait()
}

func (e *Engine) takeLayer(ctx context.Context, layer archiveLayer, report Report) (size int64, err error) {
	r, _, err := layer.Open()
	if err != nil {
		return 0, fmt.Errorf("layer: %w", err)
	}
	defer r.Close()
	watched := &watchedReader{Reader: r, report: report, transfer: layer.transfer(Running)}
	want := layer.Descriptor
	want.Size = layer.size
	staged, err := e.stageBlob(ctx, watched, want, layer.DiffID)
	if err != nil {
		return 0, fmt.Errorf("layer %s: %w", layer.Name, err)
	}
	state := Completed
	if staged.stage == nil {
		state = Exists
	}
	if err := e.publishLayer(ctx, staged); err != nil {
		return 0, fmt.Errorf("layer %s: %w", layer.Name, err)
	}
	report.tell(layer.transfer(state))
	return staged.size, nil
}

// publishLayer puts a layer that is pinned in its place.
func (e *Engine) publishLayer(ctx context.Context, staged *stagedLayer) error {
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return errors.Join(err, staged.abort())
	}
	return errors.Join(staged.publish(lock), lock.Unlock(), staged.abort())
}

func (l *archiveLayer) transfer(state TransferState) Transfer {
	t := Transfer{Blob: cmp.Or(l.Descriptor.Digest, l.DiffID), State: state, Total: l.size}
	if state == Completed || state == Exists {
		t.Done = l.size
	}
	return t
}

// maxNames bounds the names of one image, each of which is a file in the store.
const maxNames = 1000

// archiveNames gives the names of an image in an archive. Bare tags are of repository; where that is
// "", they are no names.
func archiveNames(img *archive.Image, repository string) ([]image.Reference, error) {
	if n := len(img.Names) + len(img.Tags); n > maxNames {
		return nil, fmt.Errorf("%w: %d names, at most %d are taken", archive.ErrLimit, n, maxNames)
	}
	var refs []image.Reference
	add := func(ref image.Reference) {
		if ref = ref.WithDefaultTag(); !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	for _, name := range img.Names {
		ref, err := image.ParseReference(name)
		if err != nil {
			return nil, err
		}
		if ref.Digest() == "" { // a digest is no name that could be given to something else
			add(ref)
		}
	}
	for _, tag := range img.Tags {
		if ref, err := image.ParseReference(repository + ":" + tag); err == nil {
			add(ref)
		}
	}
	return refs, nil
}

// repositoryOf tells from a file's name the repository that bare tags in it are of: umoci and skopeo
// have the image debian:12 as the tag 12 in a directory, or a tar, named debian.
func repositoryOf(input string) string {
	if isStdin(input) {
		return ""
	}
	path, err := filepath.Abs(input)
	if err != nil {
		return ""
	}
	name := filepath.Base(path)
	for _, suffix := range []string{".gz", ".zst", ".tgz", ".tar", ".oci"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}
