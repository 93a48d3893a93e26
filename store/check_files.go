package store

import (
	"cmp"
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
	"github.com/tarnfs/tarn/internal/sys"
)

// checkContainers holds the names lock, under which containers come and go.
func (c *Census) checkContainers() error {
	return c.store.withNames(func() error { return errors.Join(c.checkEachContainer(), c.checkNames()) })
}

func (c *Census) checkEachContainer() error {
	entries, err := c.list(dirContainers)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		c.Containers++
		path := c.store.path(dirContainers, entry.Name())
		o := Object{KindContainer, entry.Name()}
		if !ValidContainerName(entry.Name()) || !entry.IsDir() {
			c.fault(Object{KindFile, c.relative(path)}, path, errStranger)
			continue
		}
		c.checkContainer(o, &Container{ContainerRecord: ContainerRecord{ID: entry.Name()}, dir: path})
	}
	return nil
}

func (c *Census) checkContainer(o Object, container *Container) {
	path := filepath.Join(container.dir, fileConfig)
	if config, err := os.ReadFile(path); condemnedAt(container.dir) || err == nil && neverWritten(config) {
		c.leftover(o, container.dir)
		return
	}
	rec, err := readRecord[ContainerRecord](path)
	if err == nil && rec.ID != o.ID {
		err = fmt.Errorf("its record is of %q: %w", rec.ID, errPlace)
	}
	if err != nil {
		c.partFault(o, path, plain(err))
		c.unsure = true
	} else {
		user := "container " + rec.Name
		if err := c.checkManifest(rec.Manifest, rec.ImageID, user); err != nil {
			c.fault(o, path, err)
		}
		if owner, err := os.Readlink(c.store.path(dirNames, rec.Name)); err != nil || owner != rec.ID {
			c.fault(Object{KindContainer, rec.Name}, c.store.path(dirNames, rec.Name), errors.New("the name does not lead to its container"))
		}
	}
	for _, name := range []string{fileState, fileNetworks} {
		path := filepath.Join(container.dir, name)
		if err := checkSealed(path); err != nil {
			c.partFault(o, path, plain(err))
		}
	}
	for _, name := range []string{dirUpper, dirWork} {
		path := filepath.Join(container.dir, name)
		if info, err := os.Lstat(path); err != nil || !info.IsDir() {
			c.partFault(o, path, fs.ErrNotExist)
		}
	}
}

// checkSealed checks a record that need not be there. One that was never written is as good as none.
func checkSealed(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && neverWritten(data) {
		return nil
	}
	if err == nil {
		err = sealed.Check(data)
	}
	return err
}

// checkNetworks checks that the records are as they were written; what they say is package network's.
func (c *Census) checkNetworks() error {
	entries, err := c.list(dirNetworks)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := c.store.path(dirNetworks, entry.Name())
		o := Object{KindFile, c.relative(path)}
		switch {
		case atomicfile.IsTemp(entry.Name()):
		case !entry.Type().IsRegular() || !strings.HasSuffix(entry.Name(), ".json"):
			c.fault(o, path, errStranger)
		default:
			if err := checkSealed(path); err != nil {
				c.fault(o, path, plain(err))
			}
		}
	}
	return c.checkUnfinished(dirNetworks)
}

// checkNames: a link to a container that is gone was left by a command that died, and the next
// container of that name takes it.
func (c *Census) checkNames() error {
	entries, err := c.list(dirNames)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := c.store.path(dirNames, entry.Name())
		owner, err := os.Readlink(path)
		if err != nil || !ValidContainerName(entry.Name()) {
			c.fault(Object{KindFile, c.relative(path)}, path, errStranger)
			continue
		}
		if absentAt(c.store.ContainerDir(owner)) {
			c.leftover(Object{KindContainer, entry.Name()}, path)
		}
	}
	return nil
}

func (c *Census) checkBlobs() error {
	algorithms, err := c.list(dirBlobs)
	if err != nil {
		return err
	}
	for _, algorithm := range algorithms {
		entries, err := c.list(dirBlobs, algorithm.Name())
		if err != nil {
			return err
		}
		for _, entry := range entries {
			path := c.store.path(dirBlobs, algorithm.Name(), entry.Name())
			d, err := image.ParseDigest(algorithm.Name() + ":" + entry.Name())
			if err != nil || !entry.Type().IsRegular() {
				c.fault(Object{KindFile, c.relative(path)}, path, errStranger)
				continue
			}
			c.Blobs = append(c.Blobs, d)
			if _, needed := c.users[blobObject(d)]; !needed {
				c.leftover(blobObject(d), path)
			}
		}
	}
	return nil
}

func (c *Census) checkRecipes() error {
	return records(c, dirRecipes, KindRecipe, func(path string, r Recipe) error {
		if c.store.recipePath(r.Blob) != path {
			return fmt.Errorf("it is of %s: %w", r.Blob, errPlace)
		}
		if !c.store.HasLayer(r.DiffID) {
			c.leftover(Object{KindRecipe, string(r.Blob)}, path)
		}
		return nil
	})
}

func (c *Census) checkVolumes() error {
	entries, err := c.list(dirVolumes)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := c.store.path(dirVolumes, entry.Name())
		if condemnedAt(path) {
			c.leftover(Object{KindVolume, entry.Name()}, path)
			continue
		}
		if info, err := os.Lstat(filepath.Join(path, dirVolumeData)); err != nil || !info.IsDir() {
			c.fault(Object{KindVolume, entry.Name()}, path, fmt.Errorf("%s: %w", dirVolumeData, fs.ErrNotExist))
		}
		if _, err := readVolumeRecord(path); err != nil {
			c.fault(Object{KindVolume, entry.Name()}, path, fmt.Errorf("%s: %w", fileVolumeRecord, err))
		}
	}
	return nil
}

// checkFiles looks for what nobody has finished, and for what is not tarn's.
func (c *Census) checkFiles() error {
	entries, err := c.list()
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !isOurs(entry.Name()) {
			path := c.store.path(entry.Name())
			c.fault(Object{KindFile, entry.Name()}, path, errStranger)
		}
	}
	for _, dir := range unfinishedIn() {
		if err := c.checkUnfinished(dir); err != nil {
			return err
		}
	}
	return nil
}

func (c *Census) checkUnfinished(dir string) error {
	entries, err := os.ReadDir(c.store.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		path := c.store.path(dir, entry.Name())
		if !atomicfile.IsTemp(entry.Name()) {
			if dir == dirTmp || dir == dirPins {
				c.fault(Object{KindFile, c.relative(path)}, path, errStranger)
			}
			continue
		}
		abandoned, err := isAbandoned(path)
		if err != nil {
			return err
		}
		if abandoned {
			c.leftover(Object{KindFile, c.relative(path)}, path)
		}
	}
	return err
}

// isAbandoned tells whether nobody is at work on an unfinished file or directory any more.
func isAbandoned(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return sys.TryFlock(f, true)
}

// findMissing adds what something needs and is not there.
func (c *Census) findMissing() {
	layers, blobs := make(map[string]bool), make(map[string]bool)
	for _, l := range c.Layers {
		layers[string(l.DiffID)] = true
	}
	for _, d := range c.Blobs {
		blobs[string(d)] = true
	}
	for _, o := range slices.SortedFunc(maps.Keys(c.users), compareObjects) {
		if len(c.users[o]) == 0 {
			continue
		}
		switch {
		case o.Kind == KindLayer && !layers[o.ID]:
			c.fault(o, c.store.path(dirLayers, image.Digest(o.ID).Hex()), ErrNotFound)
		case o.Kind == KindBlob && !blobs[o.ID]:
			c.fault(o, c.blobFile(image.Digest(o.ID)), ErrNotFound)
		}
	}
}

func compareObjects(a, b Object) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
}
