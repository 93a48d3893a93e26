package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sealed"
	"github.com/tarnfs/tarn/internal/sys"
)

// The files and directories of a container.
const (
	fileConfig   = "config.json"
	fileState    = "state.json"
	fileNetworks = "networks.json"
	dirUpper     = "upper"
	dirWork      = "work"

	maxContainerName = 128
)

// ContainerRecord is what a container was made with. It changes by a rename or an update only.
type ContainerRecord struct {
	ID        string       `json:"id"`                  // 64 hexadecimal digits
	Name      string       `json:"name"`                // unique
	Manifest  image.Digest `json:"manifest"`            // of the image; keeps the image's layers from the sweep
	ImageID   image.Digest `json:"imageID"`             // the digest of the image's config
	ImageName string       `json:"imageName,omitempty"` // as the user gave it
	Created   time.Time    `json:"created"`
	// Config is the engine's: how to run it. The store does not look inside.
	Config json.RawMessage `json:"config,omitempty"`
}

// Container is a container in the store.
type Container struct {
	ContainerRecord
	// Damaged says why the record cannot be read; then only ID is known, and the container can
	// only be removed.
	Damaged error
	dir     string
}

// CreateContainer makes a container with an empty read-write layer. An empty rec.ID or rec.Name is
// filled in. ErrExists is wrapped if the name is taken, ErrNotFound if the image is gone. lock may
// be shared. If durable, the record survives a power cut; a container that is removed when it
// ends need not pay for that.
func (s *Store) CreateContainer(lock *Lock, rec ContainerRecord, durable bool) (*Container, error) {
	if rec.ID == "" {
		rec.ID = newContainerID()
	}
	if rec.Name == "" {
		rec.Name = rec.ID[:12]
	}
	if !ValidContainerName(rec.Name) {
		return nil, fmt.Errorf("container name %q: use letters, digits, '_', '.' and '-', a letter or digit first", rec.Name)
	}
	if err := lock.check(false); err != nil {
		return nil, fmt.Errorf("make container %s: %w", rec.Name, err)
	}
	if !s.HasBlob(rec.Manifest) {
		return nil, fmt.Errorf("make container %s: image %s: %w", rec.Name, rec.ImageName, ErrNotFound)
	}
	stage, err := s.stageContainer(rec, durable)
	if err != nil {
		return nil, fmt.Errorf("make container %s: %w", rec.Name, err)
	}
	c := &Container{ContainerRecord: rec, dir: s.ContainerDir(rec.ID)}
	err = s.withNames(func() error {
		if err := s.claimName(rec.Name, rec.ID); err != nil {
			return err
		}
		if durable {
			return stage.publish(c.dir)
		}
		return stage.rename(c.dir)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make container %s: %w", rec.Name, err), stage.Abort())
	}
	return c, nil
}

// ContainerDir gives the directory of the container with that ID, whether it is there or not.
func (s *Store) ContainerDir(id string) string { return s.path(dirContainers, id) }

func newContainerID() string {
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}

func (s *Store) stageContainer(rec ContainerRecord, durable bool) (*Stage, error) {
	data, err := sealed.Encode(rec)
	if err != nil {
		return nil, err
	}
	stage, err := s.NewStage()
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		os.Mkdir(filepath.Join(stage.Path(), dirUpper), 0o755),
		os.Mkdir(filepath.Join(stage.Path(), dirWork), 0o700),
		writeNew(filepath.Join(stage.Path(), fileConfig), data, durable),
	)
	if err != nil {
		return nil, errors.Join(err, stage.Abort())
	}
	return stage, nil
}

func writeNew(path string, data []byte, durable bool) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if durable && err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// rename publishes the stage without waiting for the disk.
func (st *Stage) rename(target string) error {
	if err := os.Rename(st.dir.Name(), target); err != nil {
		return err
	}
	dir := st.dir
	st.dir = nil
	return dir.Close()
}

// claimName points names/<name> at the container, unless another container that exists has it.
func (s *Store) claimName(name, id string) error {
	link := s.path(dirNames, name)
	err := os.Symlink(id, link)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	owner, err := os.Readlink(link)
	if err != nil {
		return err
	}
	if c, err := s.containerByID(owner); !errors.Is(err, ErrNotFound) && (err != nil || c.Damaged != nil || c.Name == name) {
		return fmt.Errorf("the name %q: %w: container %.12s has it (remove it with 'tarn rm %s')", name, ErrExists, owner, name)
	}
	if err := os.Remove(link); err != nil {
		return err
	}
	return os.Symlink(id, link)
}

// ValidContainerName reports whether name may name a container, by Docker's rule.
func ValidContainerName(name string) bool {
	if name == "" || len(name) > maxContainerName {
		return false
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return true
}

// Container finds a container by name, ID, or the beginning of an ID.
func (s *Store) Container(key string) (*Container, error) {
	if !ValidContainerName(key) {
		return nil, fmt.Errorf("container %q: %w", key, ErrNotFound)
	}
	if id, err := os.Readlink(s.path(dirNames, key)); err == nil {
		if c, err := s.containerByID(id); err == nil || !errors.Is(err, ErrNotFound) {
			return c, err
		}
	}
	if len(key) == 64 {
		return s.containerByID(key)
	}
	entries, err := os.ReadDir(s.path(dirContainers))
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var found string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), key) {
			continue
		}
		if found != "" {
			return nil, fmt.Errorf("container %q: %w (give more of the ID)", key, ErrAmbiguous)
		}
		found = entry.Name()
	}
	if found == "" {
		return nil, fmt.Errorf("container %q: %w", key, ErrNotFound)
	}
	return s.containerByID(found)
}

func (s *Store) containerByID(id string) (*Container, error) {
	c := &Container{ContainerRecord: ContainerRecord{ID: id}, dir: s.path(dirContainers, id)}
	if !ValidContainerName(id) || condemnedAt(c.dir) {
		return nil, fmt.Errorf("container %q: %w", id, ErrNotFound)
	}
	data, err := os.ReadFile(filepath.Join(c.dir, fileConfig))
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Stat(c.dir); statErr != nil {
			return nil, fmt.Errorf("container %q: %w", id, ErrNotFound)
		}
	}
	if err == nil && neverWritten(data) {
		return nil, fmt.Errorf("container %q was never written: %w", id, ErrNotFound)
	}
	var rec ContainerRecord
	if err == nil {
		err = sealed.Decode(data, &rec)
	}
	if err == nil && rec.ID != id {
		err = fmt.Errorf("its record is of %q", rec.ID)
	}
	if err != nil {
		c.Name = id[:min(12, len(id))]
		c.Damaged = fmt.Errorf("container %s: %w: %w", id, ErrDamaged, err)
		return c, nil
	}
	c.ContainerRecord = rec
	return c, nil
}

// Containers lists all containers, the newest first, damaged ones included.
func (s *Store) Containers() ([]*Container, error) {
	entries, err := os.ReadDir(s.path(dirContainers))
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var list []*Container
	for _, entry := range entries {
		c, err := s.containerByID(entry.Name())
		if errors.Is(err, ErrNotFound) {
			continue // removed since the directory was read
		}
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b *Container) int { return b.Created.Compare(a.Created) })
	return list, nil
}

// collectContainers removes containers that were never written, and names of containers that are gone.
func (s *Store) collectContainers() error {
	blank, err := s.blankContainers()
	errs := []error{err}
	for _, dir := range blank {
		errs = append(errs, s.bury(dir))
	}
	return errors.Join(append(errs, s.withNames(s.collectNames))...)
}

// blankContainers gives the directories of containers that were never written.
func (s *Store) blankContainers() (dirs []string, err error) {
	entries, err := os.ReadDir(s.path(dirContainers))
	for _, entry := range entries {
		dir := s.path(dirContainers, entry.Name())
		if config, err := os.ReadFile(filepath.Join(dir, fileConfig)); err == nil && neverWritten(config) && !condemnedAt(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, err
}

func (s *Store) collectNames() error {
	entries, err := os.ReadDir(s.path(dirNames))
	errs := []error{err}
	for _, entry := range entries {
		link := s.path(dirNames, entry.Name())
		owner, err := os.Readlink(link)
		if err != nil {
			continue // a stranger's: check tells
		}
		if absentAt(s.ContainerDir(owner)) {
			errs = append(errs, os.Remove(link))
		}
	}
	return errors.Join(errs...)
}

// neverWritten tells what a power cut may leave of a file that was not synced from one that has rotted, of which
// something may be of worth. There is nothing in it, or zeros where blocks of it should be: ext4 may have written
// down a file's size before its contents (dioread_nolock, its default).
func neverWritten(data []byte) bool {
	for block := range slices.Chunk(data, 4096) {
		if !slices.ContainsFunc(block, func(b byte) bool { return b != 0 }) {
			return true
		}
	}
	return len(data) == 0
}

// RemoveContainer removes the container's name and files. The caller holds its lock, and has
// stopped and unmounted it. If durable, a power cut does not bring it back.
func (s *Store) RemoveContainer(c *Container, durable bool) error {
	var grave string
	err := s.withNames(func() (err error) {
		grave, err = atomicfile.Entomb(c.dir, s.path(dirTmp))
		if lacksRoom(err) {
			grave, err = c.dir, condemn(c.dir)
		}
		if err != nil {
			return err
		}
		link := s.path(dirNames, c.Name)
		if owner, err := os.Readlink(link); err == nil && owner == c.ID {
			return os.Remove(link)
		}
		return nil
	})
	if err == nil && durable {
		err = atomicfile.SyncDir(s.path(dirContainers))
	}
	if err == nil {
		err = atomicfile.RemoveAll(grave)
	}
	if err != nil {
		return fmt.Errorf("remove container %s: %w", c.Name, err)
	}
	return nil
}

// Dir gives the container's directory.
func (c *Container) Dir() string { return c.dir }

// UpperDir gives the directory of the read-write layer.
func (c *Container) UpperDir() string { return filepath.Join(c.dir, dirUpper) }

// WorkDir gives overlay's work directory.
func (c *Container) WorkDir() string { return filepath.Join(c.dir, dirWork) }

// Lock waits for the container's lock, which comes before the store's. It is its directory's, and
// ends with Unlock. A container that is gone gives fs.ErrNotExist.
func (c *Container) Lock(ctx context.Context) (*Lock, error) {
	f, err := os.Open(c.dir)
	if err != nil {
		return nil, fmt.Errorf("lock container %s: %w", c.Name, err)
	}
	if err := sys.Flock(ctx, f, true); err != nil {
		if ctx.Err() == nil {
			err = errors.Join(err, f.Close())
		}
		return nil, fmt.Errorf("lock container %s: %w", c.Name, err)
	}
	return &Lock{file: f}, nil
}

// TryLock is Lock that does not wait: it gives nil if somebody has the lock, or the container is gone.
func (c *Container) TryLock() (*Lock, error) {
	f, err := os.Open(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // documented
	}
	if err != nil {
		return nil, fmt.Errorf("lock container %s: %w", c.Name, err)
	}
	locked, err := sys.TryFlock(f, true)
	if err == nil && locked {
		return &Lock{file: f}, nil
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("lock container %s: %w", c.Name, err)
	}
	return nil, nil //nolint:nilnil // documented
}

// WriteState replaces the container's state by v as JSON, atomically for other processes. After a
// power cut, when the container does not run any more, it may be lost.
func (c *Container) WriteState(v any) error { return c.writeRecord(fileState, v) }

// WriteNetworks replaces the container's networks, which are otherwise those that it was made with, in the
// same way.
func (c *Container) WriteNetworks(v any) error { return c.writeRecord(fileNetworks, v) }

// ReadNetworks reads what WriteNetworks has written; the error wraps ErrNotFound if it has not.
func (c *Container) ReadNetworks(v any) error { return c.readRecord(fileNetworks, v) }

func (c *Container) writeRecord(name string, v any) error {
	data, err := sealed.Encode(v)
	if err == nil {
		err = atomicfile.Replace(filepath.Join(c.dir, name), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("container %s: write %s: %w", c.Name, name, err)
	}
	return nil
}

// ReadState reads the container's state into v; the error wraps ErrNotFound if there is none.
func (c *Container) ReadState(v any) error { return c.readRecord(fileState, v) }

func (c *Container) readRecord(name string, v any) error {
	data, err := os.ReadFile(filepath.Join(c.dir, name))
	if errors.Is(err, fs.ErrNotExist) || err == nil && neverWritten(data) {
		return fmt.Errorf("container %s: %s: %w", c.Name, name, ErrNotFound)
	}
	if err == nil {
		err = sealed.Decode(data, v)
	}
	if err != nil {
		return fmt.Errorf("container %s: read %s: %w", c.Name, name, err)
	}
	return nil
}
