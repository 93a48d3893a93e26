package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tarnfs/tarn/internal/sys"
)

// dirVolumeData is the directory in a volume that containers see.
const dirVolumeData = "_data"

// ValidVolumeName reports whether name may name a volume. The rule is that of containers' names.
func ValidVolumeName(name string) bool { return len(name) > 1 && ValidContainerName(name) }

// VolumePath gives the directory with the contents of a volume, whether it is there or not.
func (s *Store) VolumePath(name string) (string, error) {
	if !ValidVolumeName(name) {
		return "", fmt.Errorf("volume name %q: use two or more letters, digits, '_', '.' and '-', a letter or digit first", name)
	}
	return s.path(dirVolumes, name, dirVolumeData), nil
}

// MakeVolume makes the volume, unless there is one of that name; fill puts into it what it begins
// with. Nobody sees the volume before it is whole; if durable, also not after a power cut. It gives
// the directory with the contents.
func (s *Store) MakeVolume(name string, durable bool, fill func(dir *os.File) error) (path string, err error) {
	path, err = s.VolumePath(name)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := s.makeVolume(filepath.Dir(path), durable, fill); err != nil {
		return "", fmt.Errorf("make volume %s: %w", name, err)
	}
	return path, nil
}

func (s *Store) makeVolume(target string, durable bool, fill func(dir *os.File) error) error {
	if err := os.Mkdir(filepath.Dir(target), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	stage, err := s.NewStage()
	if err != nil {
		return err
	}
	data := filepath.Join(stage.Path(), dirVolumeData)
	if err := os.Mkdir(data, 0o755); err != nil {
		return errors.Join(err, stage.Abort())
	}
	if err := fillVolume(data, durable, fill); err != nil {
		return errors.Join(err, stage.Abort())
	}
	if durable {
		return errors.Join(stage.publish(target), stage.Abort())
	}
	return errors.Join(stage.rename(target), stage.Abort())
}

func fillVolume(path string, durable bool, fill func(dir *os.File) error) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = fill(dir)
	if err == nil && durable {
		err = sys.Syncfs(dir)
	}
	return errors.Join(err, dir.Close())
}

// RemoveVolume removes a volume with all in it. One that is not there is no error.
func (s *Store) RemoveVolume(name string) error {
	path, err := s.VolumePath(name)
	if err != nil {
		return err
	}
	if err := s.discard(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}

// Volumes lists the volumes by name.
func (s *Store) Volumes() ([]string, error) {
	entries, err := os.ReadDir(s.path(dirVolumes))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}
