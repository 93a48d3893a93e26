package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sealed"
	"github.com/tarnfs/tarn/internal/sys"
)

// The directory in a volume that containers see, and its record.
const (
	dirVolumeData    = "_data"
	fileVolumeRecord = "volume.json"
)

// VolumeRecord is what a volume was made with. It never changes.
type VolumeRecord struct {
	Name      string            `json:"name"`
	Created   time.Time         `json:"created"`
	Labels    map[string]string `json:"labels,omitempty"`
	Anonymous bool              `json:"anonymous,omitempty"` // nobody gave it a name: it was made for a container
	// Options are the engine's. The store does not look inside.
	Options json.RawMessage `json:"options,omitempty"`
}

// ValidVolumeName reports whether name may name a volume. The rule is that of containers' names.
func ValidVolumeName(name string) bool { return len(name) > 1 && ValidContainerName(name) }

// VolumePath gives the directory with the contents of a volume, whether it is there or not.
func (s *Store) VolumePath(name string) (string, error) {
	if !ValidVolumeName(name) {
		return "", fmt.Errorf("volume name %q: use two or more letters, digits, '_', '.' and '-', a letter or digit first", name)
	}
	return s.path(dirVolumes, name, dirVolumeData), nil
}

// MakeVolume makes the volume, unless there is one of that name; fill, if it is not nil, puts into it
// what it begins with. Nobody sees the volume before it is whole; if durable, also not after a power
// cut. It tells whether it was made now.
func (s *Store) MakeVolume(rec VolumeRecord, durable bool, fill func(dir *os.File) error) (made bool, err error) {
	path, err := s.VolumePath(rec.Name)
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(path); err == nil && !condemnedAt(filepath.Dir(path)) {
		return false, nil
	}
	made, err = s.makeVolume(filepath.Dir(path), rec, durable, fill)
	if err != nil {
		return false, fmt.Errorf("make volume %s: %w", rec.Name, err)
	}
	return made, nil
}

func (s *Store) makeVolume(target string, rec VolumeRecord, durable bool, fill func(dir *os.File) error) (made bool, err error) {
	if err := s.makeDir(dirVolumes); err != nil {
		return false, err
	}
	record, err := sealed.Encode(rec)
	if err != nil {
		return false, err
	}
	stage, err := s.NewStage()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, stage.Abort()) }()
	if err := writeNew(filepath.Join(stage.Path(), fileVolumeRecord), record, durable); err != nil {
		return false, err
	}
	data := filepath.Join(stage.Path(), dirVolumeData)
	if err := os.Mkdir(data, 0o755); err != nil {
		return false, err
	}
	if err := fillVolume(data, durable, fill); err != nil {
		return false, err
	}
	if err := s.removeCondemned(target, os.RemoveAll); err != nil {
		return false, err
	}
	err = os.Rename(stage.Path(), target)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return false, nil // somebody else was faster
	}
	if err == nil && durable {
		err = atomicfile.SyncDir(filepath.Dir(target))
	}
	return err == nil, err
}

func fillVolume(path string, durable bool, fill func(dir *os.File) error) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	// Whatever the umask is: users in containers are to get in.
	err = dir.Chmod(0o755)
	if err == nil && fill != nil {
		err = fill(dir)
	}
	if err == nil && durable {
		err = sys.Syncfs(dir)
	}
	return errors.Join(err, dir.Close())
}

// WithVolume has use look at the contents of a volume that is there; no other call of it does so at the
// same time.
func (s *Store) WithVolume(name string, use func(dir *os.File) error) error {
	path, err := s.VolumePath(name)
	if err != nil {
		return err
	}
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || condemnedAt(filepath.Dir(path)) {
		return fmt.Errorf("volume %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := sys.WaitFlock(dir, true); err != nil {
		return err
	}
	return use(dir)
}

// RemoveVolume removes a volume with all in it, for which [Store.CollectLeftovers] gives the disk its
// room back. One that is not there gives ErrNotFound. Whoever may make a container that has it is kept
// out by the lock, which is held alone. If durable, a power cut does not bring it back.
func (s *Store) RemoveVolume(lock *Lock, name string, durable bool) error {
	if err := lock.check(true); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	path, err := s.VolumePath(name)
	if err != nil {
		return err
	}
	if condemnedAt(filepath.Dir(path)) {
		return fmt.Errorf("volume %s: %w", name, ErrNotFound)
	}
	err = s.bury(filepath.Dir(path))
	if err == nil && durable {
		err = atomicfile.SyncDir(s.path(dirVolumes))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("volume %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}

// Volume gives the record of a volume. One whose record was lost is known by its name alone.
func (s *Store) Volume(name string) (VolumeRecord, error) {
	path, err := s.VolumePath(name)
	if err != nil {
		return VolumeRecord{}, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || condemnedAt(filepath.Dir(path)) {
		return VolumeRecord{}, fmt.Errorf("volume %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return VolumeRecord{}, err
	}
	rec, err := readVolumeRecord(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return VolumeRecord{Name: name, Created: info.ModTime().UTC()}, nil
	}
	if err != nil {
		return VolumeRecord{}, fmt.Errorf("volume %s: %w: %w", name, ErrDamaged, err)
	}
	return rec, nil
}

func readVolumeRecord(dir string) (rec VolumeRecord, err error) {
	data, err := os.ReadFile(filepath.Join(dir, fileVolumeRecord))
	if err != nil {
		return rec, err
	}
	if err := sealed.Decode(data, &rec); err != nil {
		return rec, err
	}
	if rec.Name != filepath.Base(dir) {
		return rec, fmt.Errorf("its record is of %q", rec.Name)
	}
	return rec, nil
}

// Volumes lists the volumes by name.
func (s *Store) Volumes() ([]string, error) {
	entries, err := os.ReadDir(s.path(dirVolumes))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var names []string
	for _, entry := range s.withoutCondemned(dirVolumes, entries) {
		names = append(names, entry.Name())
	}
	return names, nil
}
