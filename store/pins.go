package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sys"
)

// Pins keep layers and blobs from being swept while their image is still being made: a long pull
// publishes each layer when it is whole, and names the image in the end. They end with the process.
type Pins struct {
	file *os.File
}

// NewPins makes pins that hold nothing yet. Always Release them, after the image got its name.
func (s *Store) NewPins() (*Pins, error) {
	if err := s.makeDir(dirPins); err != nil {
		return nil, fmt.Errorf("pin: %w", err)
	}
	f, err := atomicfile.CreateTemp(s.path(dirPins), 0o600)
	if err != nil {
		return nil, fmt.Errorf("pin: %w", err)
	}
	return &Pins{file: f}, nil
}

// Add pins a layer and a blob, whether they are there already or will be. Either may be "". What is
// found in the store while the lock is held after Add stays.
func (p *Pins) Add(lock *Lock, diffID, blob image.Digest) error {
	if err := lock.check(false); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	if _, err := fmt.Fprintf(p.file, "layer %s\nblob %s\n", diffID, blob); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

// Release ends the pins.
func (p *Pins) Release() error {
	if p.file == nil {
		return nil
	}
	f := p.file
	p.file = nil
	return errors.Join(os.Remove(f.Name()), f.Close())
}

// followPins adds what living processes have pinned. The exclusive store lock keeps it from changing.
func (s *Store) followPins(refs *live) error {
	entries, err := os.ReadDir(s.path(dirPins))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := followPin(refs, s.path(dirPins, entry.Name())); err != nil {
			return fmt.Errorf("pins: %w", err)
		}
	}
	return nil
}

func followPin(refs *live, path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if dead, err := sys.TryFlock(f, true); err != nil || dead {
		return err // the dead hold nothing
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range bytes.Lines(text) {
		kind, digest, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		switch string(kind) {
		case "layer":
			refs.layers[image.Digest(digest)] = true
		case "blob":
			refs.blobs[image.Digest(digest)] = true
		}
	}
	return nil
}
