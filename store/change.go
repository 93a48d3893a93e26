package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sealed"
)

// RenameContainer gives a container another name. The caller holds its lock. ErrExists is wrapped if the name is
// taken.
func (s *Store) RenameContainer(c *Container, name string) (*Container, error) {
	if !ValidContainerName(name) {
		return nil, fmt.Errorf("container name %q: use letters, digits, '_', '.' and '-', a letter or digit first", name)
	}
	renamed := *c
	renamed.Name = name
	err := s.withNames(func() error {
		if err := s.claimName(name, c.ID); err != nil {
			return err
		}
		// A name whose container has another one, if we are killed here, is free: claimName.
		if err := s.ChangeContainer(&renamed); err != nil {
			return errors.Join(err, os.Remove(s.path(dirNames, name)))
		}
		if c.Name == name {
			return nil
		}
		return os.Remove(s.path(dirNames, c.Name))
	})
	if err != nil {
		return nil, err
	}
	return &renamed, nil
}

// ChangeContainer replaces the container's record; ID and dir stay. The caller holds its lock.
func (s *Store) ChangeContainer(c *Container) error {
	data, err := sealed.Encode(c.ContainerRecord)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(c.dir, fileConfig), data, 0o600)
}
