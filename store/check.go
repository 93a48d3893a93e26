package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sealed"
)

// Kind is a kind of object in the store.
type Kind string

// Kinds of objects.
const (
	KindImage     Kind = "image"     // ID: its name, or the name of the record's file
	KindEntry     Kind = "entry"     // ID: its name, or the name of the record's file
	KindContainer Kind = "container" // ID: its ID, or the name of a link to one
	KindLayer     Kind = "layer"     // ID: the diffID
	KindRemnant   Kind = "remnant"   // ID: the name of its directory
	KindBlob      Kind = "blob"      // ID: the digest
	KindRecipe    Kind = "recipe"    // ID: the digest of the blob, or the name of the record's file
	KindInit      Kind = "init layer"
	KindVolume    Kind = "volume"
	KindPartial   Kind = "interrupted pull" // ID: the digest of the blob
	KindFile      Kind = "file"             // ID: its path in the store
)

// Object names something in the store.
type Object struct {
	Kind Kind
	ID   string
}

// Fault is something that is not as it should be.
type Fault struct {
	Object
	Part string // the file of the object that is concerned; "" for all of it, or its record
	Path string // of the file or directory, below the store's root
	Err  error
	// Harmless: it is left over, needed by nothing and gone with the next sweep; or it can be made
	// again from what is there, and saves work or bytes at best. A power cut may leave both.
	Harmless bool
}

// IsLeftover tells whether nothing needs what the fault is about: it is sound, but to be swept.
func (f Fault) IsLeftover() bool { return errors.Is(f.Err, errUnneeded) }

// PartHoles is the part of a layer that says where its bytes lie.
const PartHoles = fileHoles

// Census is what Check found.
type Census struct {
	Faults []Fault
	// What is there, whether sound or not.
	Images     []Image
	Containers int
	Layers     []Layer
	Remnants   []Remnant
	Blobs      []image.Digest

	store  *Store
	mounts Mounts
	users  map[Object]map[string]bool // the images and containers that need an object
	unsure bool                       // not all that is needed is known
}

// Users lists the images, containers and entries that need an object, by name; none if nothing does.
func (c *Census) Users(o Object) []string { return slices.Sorted(maps.Keys(c.users[o])) }

// Check proves the invariants of the store that cost little to prove:
//
//   - every record is one that tarn wrote, where it belongs;
//   - every name leads to a manifest and a config with the right digests that agree with each other and
//     with the record; every layer in it is there, and its compressed form, too, or a recipe of it;
//   - every map of holes is sound, and each range in it lies in a file that is there, in a part of it
//     that is not a hole itself, so that there are no loops; every file has the size it must have;
//   - nothing is there that nothing needs, and nothing that is not tarn's.
//
// What is in layers and blobs is for the caller to look at: nothing else of them is read. The lock must
// be exclusive, so that nothing is on its way; it is held for a moment.
func (s *Store) Check(lock *Lock, mounts Mounts) (*Census, error) {
	if err := lock.check(true); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	c := &Census{store: s, mounts: mounts, users: make(map[Object]map[string]bool)}
	pinned := &live{layers: make(map[image.Digest]bool), blobs: make(map[image.Digest]bool)}
	if err := s.followPins(pinned); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	c.usePins(pinned)
	for _, part := range []func() error{
		c.checkImages, c.checkEntries, c.checkContainers,
		c.checkLayers, c.checkRemnants, c.checkBlobs, c.checkRecipes, c.checkInits, c.checkVolumes, c.checkNetworks, c.checkFiles,
	} {
		if err := part(); err != nil {
			return nil, fmt.Errorf("check: %w", err)
		}
	}
	c.findMissing()
	if c.unsure { // what seems to be left over may be needed
		c.Faults = slices.DeleteFunc(c.Faults, func(f Fault) bool { return f.IsLeftover() && f.Kind != KindFile })
	}
	return c, nil
}

// usePins: what a running pull has, or will have, is no leftover, and not missing either.
func (c *Census) usePins(pinned *live) {
	for d := range pinned.layers {
		c.users[layerObject(d)] = map[string]bool{}
	}
	for d := range pinned.blobs {
		c.users[blobObject(d)] = map[string]bool{}
	}
}

func layerObject(d image.Digest) Object { return Object{KindLayer, string(d)} }
func blobObject(d image.Digest) Object  { return Object{KindBlob, string(d)} }

func (c *Census) use(o Object, user string) {
	if c.users[o] == nil {
		c.users[o] = make(map[string]bool)
	}
	c.users[o][user] = true
}

func (c *Census) fault(o Object, path string, err error) {
	c.Faults = append(c.Faults, Fault{Object: o, Path: c.relative(path), Err: err})
}

func (c *Census) partFault(o Object, path string, err error) {
	c.Faults = append(c.Faults, Fault{Object: o, Part: filepath.Base(path), Path: c.relative(path), Err: err})
}

var errUnneeded = errors.New("nothing needs it")

func (c *Census) leftover(o Object, path string) {
	c.Faults = append(c.Faults, Fault{Object: o, Path: c.relative(path), Err: errUnneeded, Harmless: true})
}

func (c *Census) relative(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, c.store.root), "/")
}

// list reads a directory that may be absent. What is unfinished is left out: checkFiles looks at that.
func (c *Census) list(dir ...string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(c.store.path(dir...))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return atomicfile.IsTemp(e.Name()) }), err
}

// records calls check for each record in a directory that is sealed and can be read.
func records[T any](c *Census, dir string, kind Kind, check func(path string, record T) error) error {
	entries, err := c.list(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := c.store.path(dir, entry.Name())
		record, err := readRecord[T](path)
		if err == nil {
			err = check(path, record)
		}
		if err != nil {
			c.fault(Object{kind, entry.Name()}, path, err)
			c.unsure = true
		}
	}
	return nil
}

// readRecord is stricter than those who use a record need be: it must be as it was written.
func readRecord[T any](path string) (record T, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return record, err
	}
	if err := sealed.Check(data); err != nil {
		return record, err
	}
	if err := sealed.Decode(data, &record); err != nil {
		return record, err
	}
	again, err := sealed.Encode(record)
	if err == nil && !bytes.Equal(again, data) {
		err = errors.New("it says something that this tarn would not write")
	}
	return record, err
}

var errPlace = errors.New("it belongs to another name")

func (c *Census) checkImages() error {
	return records(c, dirImages, KindImage, func(path string, img Image) error {
		c.Images = append(c.Images, img)
		name := img.label()
		o := Object{KindImage, name}
		if c.store.imagePath(img) != path {
			return fmt.Errorf("its record is of %q: %w", img.Name, errPlace)
		}
		if img.Index != "" {
			c.checkIndex(o, path, img, name)
		}
		if err := c.checkManifest(img.Manifest, img.ID, name); err != nil {
			c.fault(o, path, err)
		}
		return nil
	})
}

// label names an image for people.
func (img Image) label() string {
	if img.Name == "" {
		return "<none>@" + string(img.Manifest)
	}
	return img.Name
}

// checkIndex checks that the image was chosen from the index.
func (c *Census) checkIndex(o Object, path string, img Image, user string) {
	c.use(blobObject(img.Index), user)
	doc, err := c.store.Document(img.Index)
	switch {
	case isBlobFault(err):
		return // of the blob, that is
	case err != nil:
		c.fault(o, path, fmt.Errorf("its index: %w", err))
	case !slices.ContainsFunc(doc.Manifests, func(d image.Descriptor) bool { return d.Digest == img.Manifest }):
		c.fault(o, path, errors.New("its index does not list its manifest"))
	}
}

// isBlobFault tells errors that are found with the blob itself, for whoever needs it.
func isBlobFault(err error) bool { return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDigest) }

// checkManifest follows an image from its manifest; id is of its config.
func (c *Census) checkManifest(manifest, id image.Digest, user string) error {
	c.use(blobObject(manifest), user)
	c.use(blobObject(id), user)
	m, err := c.store.Manifest(manifest)
	if isBlobFault(err) {
		c.unsure = true
		return c.useConfig(id, nil, user) // the config may be there
	}
	if err != nil {
		return err
	}
	if m.Config.Digest != id {
		return fmt.Errorf("its manifest is of the image %s, its record of %s", m.Config.Digest, id)
	}
	return c.useConfig(id, m.Layers, user)
}

func (c *Census) useConfig(id image.Digest, blobs []image.Descriptor, user string) error {
	config, err := c.store.Config(id)
	if isBlobFault(err) {
		c.unsure = true
		return nil
	}
	if err != nil {
		return err
	}
	diffIDs := config.RootFS.DiffIDs
	for _, diffID := range diffIDs {
		c.use(layerObject(diffID), user)
	}
	if chain := image.ChainID(diffIDs); chain != "" {
		c.use(Object{KindInit, chain.Hex()}, user)
	}
	if blobs == nil {
		return nil
	}
	if len(blobs) != len(diffIDs) {
		return fmt.Errorf("its manifest has %d layers, its config %d", len(blobs), len(diffIDs))
	}
	for i, blob := range blobs {
		if err := c.checkForm(blob, diffIDs[i], user); err != nil {
			return err
		}
	}
	return nil
}

// checkForm looks for the form of a layer that a manifest names. That none is there shows as a
// missing blob.
func (c *Census) checkForm(blob image.Descriptor, diffID image.Digest, user string) error {
	o := blobObject(blob.Digest)
	size, err := c.store.BlobSize(blob.Digest)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	there := err == nil
	if !there && blob.Digest == diffID {
		return nil // the layer is
	}
	if recipe, err := c.store.Recipe(blob.Digest); !there && err == nil && recipe.DiffID == diffID && recipe.Size == blob.Size {
		c.use(Object{KindRecipe, string(blob.Digest)}, user)
		return nil
	}
	c.use(o, user)
	if there && size != blob.Size {
		c.fault(o, c.blobFile(blob.Digest), fmt.Errorf("%w: it has %d bytes, should have %d", ErrDigest, size, blob.Size))
	}
	return nil
}

// blobFile is blobPath for digests that were checked.
func (c *Census) blobFile(d image.Digest) string {
	return c.store.path(dirBlobs, d.Algorithm(), d.Hex())
}

func (c *Census) checkEntries() error {
	return records(c, dirEntries, KindEntry, func(path string, e Entry) error {
		if c.store.entryPath(e) != path {
			return fmt.Errorf("its record is of %q: %w", e.Repository, errPlace)
		}
		user := e.Repository + "@" + string(e.Manifest)
		if e.Tag != "" {
			user = e.name()
			if _, err := os.Lstat(c.store.imagePath(Image{Name: user})); err == nil {
				c.leftover(Object{KindEntry, user}, path)
				return nil
			}
		}
		refs := &live{layers: map[image.Digest]bool{}, blobs: map[image.Digest]bool{}, documents: map[image.Digest]bool{}}
		err := c.store.followEntry(refs, e.Manifest)
		c.use(blobObject(e.Manifest), user)
		if isBlobFault(err) {
			c.unsure = true
			return nil
		}
		for d := range refs.layers {
			if c.store.HasLayer(d) {
				c.use(layerObject(d), user)
			}
		}
		for d := range refs.blobs {
			if c.store.HasBlob(d) {
				c.use(blobObject(d), user)
			}
		}
		return err
	})
}
