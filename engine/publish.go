package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// draft is an image whose layers are staged or in the store, about to be published.
type draft struct {
	config    []byte
	manifest  []byte
	index     []byte             // that the manifest was chosen from, if it was
	names     []image.Reference  // without any, the image is kept without a name
	made      bool               // the manifest is of our making
	exactName string             // a canonical name with tag or digest, instead of names
	layers    []image.Digest     // all that it needs
	staged    []*stagedLayer     // those of them that are not in the store
	documents []*store.BlobStage // config, manifest and index, if they were staged
}

// abort drops the layers and documents that were not published.
func (d *draft) abort() error {
	var errs []error
	for _, document := range d.documents {
		errs = append(errs, document.Abort())
	}
	for _, staged := range d.staged {
		errs = append(errs, staged.abort())
	}
	return errors.Join(errs...)
}

// errGone says that a layer thought to be in the store was removed meanwhile.
var errGone = errors.New("a layer was removed at the same time")

// publish makes the image visible, all of it or nothing. Nothing is visible before its layers are.
func (e *Engine) publish(ctx context.Context, d *draft) (store.Image, error) {
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return store.Image{}, err
	}
	img, err := e.publishLocked(lock, d)
	return img, errors.Join(err, lock.Unlock())
}

func (e *Engine) publishLocked(lock *store.Lock, d *draft) (store.Image, error) {
	for _, staged := range d.staged {
		if err := staged.publish(lock); err != nil {
			return store.Image{}, err
		}
	}
	if err := e.complete(d); err != nil {
		return store.Image{}, err
	}
	var documents errgroup.Group // one transaction of the file system's journal
	for _, document := range d.documents {
		documents.Go(func() error { return document.Publish(lock) })
	}
	if err := documents.Wait(); err != nil {
		return store.Image{}, err
	}
	id, err := e.Store.PutBlob(lock, d.config)
	if err != nil {
		return store.Image{}, err
	}
	manifest, err := e.Store.PutBlob(lock, d.manifest)
	if err != nil {
		return store.Image{}, err
	}
	img := store.Image{Manifest: manifest, ID: id, Made: d.made, Created: time.Now().UTC()}
	if d.index != nil {
		if img.Index, err = e.Store.PutBlob(lock, d.index); err != nil {
			return store.Image{}, err
		}
	}
	if len(d.names) == 0 {
		if img.Name = d.exactName; img.Name == "" {
			return img, e.keepUnnamed(lock, img)
		}
		return img, e.Store.SetImage(lock, img)
	}
	for _, name := range d.names {
		img.Name = name.WithDefaultTag().String()
		if err := e.Store.SetImage(lock, img); err != nil {
			return store.Image{}, err
		}
	}
	return img, nil
}

// keepUnnamed keeps an image that gets no name; one that has a name is kept by that.
func (e *Engine) keepUnnamed(lock *store.Lock, img store.Image) error {
	records, err := e.Store.Images()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(records, func(have store.Image) bool { return have.Manifest == img.Manifest }) {
		return nil
	}
	return e.Store.SetImage(lock, img)
}

// stageDocuments puts the image's documents on the disk while its layers still come.
func (e *Engine) stageDocuments(d *draft) error {
	for _, document := range [][]byte{d.config, d.manifest, d.index} {
		if document == nil {
			continue
		}
		staged, err := e.Store.StageBlob(bytes.NewReader(document), image.DigestBytes(document), int64(len(document)))
		if err != nil {
			return err
		}
		d.documents = append(d.documents, staged)
	}
	return nil
}

// complete checks that all the image needs is there, while the lock keeps it from being removed.
func (e *Engine) complete(d *draft) error {
	for _, diffID := range d.layers {
		if !e.Store.HasLayer(diffID) {
			return fmt.Errorf("%w: %s", errGone, diffID)
		}
	}
	manifest, err := image.ParseManifest(d.manifest)
	if err != nil {
		return err
	}
	for i, blob := range manifest.Layers {
		if diffID := d.layers[i]; blob.Digest != diffID && !e.hasBlob(blob.Digest, diffID) {
			return fmt.Errorf("%w: its blob %s", errGone, blob.Digest)
		}
	}
	return nil
}

// hasBlob tells whether a layer's compressed form is in the store, or can be made again.
func (e *Engine) hasBlob(blob, diffID image.Digest) bool {
	return e.Store.HasBlob(blob) || e.reproducible(blob, diffID)
}

// newManifest makes the manifest of an image whose layers are kept as plain tars.
func newManifest(config []byte, layers []image.Descriptor) ([]byte, error) {
	if layers == nil {
		layers = []image.Descriptor{}
	}
	return json.Marshal(&image.Manifest{
		SchemaVersion: 2,
		MediaType:     image.MediaTypeManifest,
		Config: image.Descriptor{
			MediaType: image.MediaTypeConfig, Digest: image.DigestBytes(config), Size: int64(len(config)),
		},
		Layers: layers,
	})
}

// tarDescriptor describes a layer that is kept as a plain tar.
func tarDescriptor(diffID image.Digest, size int64) image.Descriptor {
	return image.Descriptor{MediaType: image.MediaTypeLayer, Digest: diffID, Size: size}
}

// timestamp is the time that goes into images: SOURCE_DATE_EPOCH if that is set, so that the same
// work gives the same image.
func timestamp() (time.Time, error) {
	epoch, err := sourceDateEpoch()
	if err != nil {
		return time.Time{}, err
	}
	if epoch != nil {
		return *epoch, nil
	}
	return time.Now().UTC(), nil
}

// sourceDateEpoch reads SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch); nil if it
// is not set.
func sourceDateEpoch() (*time.Time, error) {
	value := os.Getenv("SOURCE_DATE_EPOCH")
	if value == "" {
		return nil, nil //nolint:nilnil // documented
	}
	seconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil || seconds < 0 {
		return nil, fmt.Errorf("SOURCE_DATE_EPOCH=%q: want seconds since 1970", value)
	}
	epoch := time.Unix(seconds, 0).UTC()
	return &epoch, nil
}

// parseName reads a name that an image is to be given: "" for none.
func parseName(name string) ([]image.Reference, error) {
	if name == "" {
		return nil, nil
	}
	ref, err := image.ParseReference(name)
	if err != nil {
		return nil, err
	}
	if ref.Digest() != "" {
		return nil, fmt.Errorf("%w %q: a name that is given cannot have a digest", image.ErrReference, name)
	}
	return []image.Reference{ref.WithDefaultTag()}, nil
}
