package engine

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/rootfs"
	"github.com/tarnfs/tarn/store"
)

// An image that Mount shows can be seen until Umount, even if it is removed: for as long, $TARN_RUN/shown/<image ID>
// lists its layers, a diffID on each line, and a sweep leaves these. Of a tree that the dirs driver has extracted
// nobody could tell otherwise. The erofs driver's mounts hold what they need, and a sweep asks the kernel for that; but
// only when its own mount of the layer is gone, which is too late for who wants to know beforehand what will go.

func (e *Engine) shownPath(id string) string { return filepath.Join(e.Store.Run(), "shown", id) }

// keepShown notes the layers of an image before it is shown. The store lock is held, so that there is no sweep.
func (e *Engine) keepShown(id image.Digest, layers []image.Digest) error {
	var lines strings.Builder
	for _, diffID := range layers {
		lines.WriteString(string(diffID) + "\n")
	}
	path := e.shownPath(id.Hex())
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.Replace(path, []byte(lines.String()), 0o600)
}

// mounts tells the store which layers are shown, and unmounts others.
func (e *Engine) mounts() store.Mounts {
	return store.Mounts{
		InUse:   func(l store.Layer) (bool, error) { return e.isShown(l.DiffID) },
		Release: func(l store.Layer) error { return e.Driver.Release(driverLayer(l)) },
	}
}

// isShown tells whether an image that is shown has the layer.
func (e *Engine) isShown(diffID image.Digest) (bool, error) {
	entries, err := os.ReadDir(e.shownPath(""))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // as almost always
	}
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		if there, err := rootfs.Mounted(e.mountPath(entry.Name())); err != nil {
			return false, err
		} else if !there {
			continue // it was unmounted by other means
		}
		if listed, err := hasLine(e.shownPath(entry.Name()), string(diffID)); listed || err != nil {
			return listed, err
		}
	}
	return false, nil
}

func hasLine(path, line string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if lines.Text() == line {
			return true, nil
		}
	}
	return false, lines.Err()
}
