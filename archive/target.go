package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

// target is where an archive is written to: a tar or a directory.
type target interface {
	// create begins a file, which is closed before the next one is begun. Its directories are made.
	create(name string, size int64) (io.WriteCloser, error)
	close() error
}

// finish closes a file of a target, after err.
func finish(f io.Closer, err error) error {
	return errors.Join(err, f.Close())
}

type tarTarget struct {
	tar  *tar.Writer
	made map[string]bool
}

func newTarTarget(w io.Writer) *tarTarget {
	return &tarTarget{tar: tar.NewWriter(w), made: make(map[string]bool)}
}

func (t *tarTarget) create(name string, size int64) (io.WriteCloser, error) {
	for i, c := range name {
		dir := name[:i] + "/"
		if c != '/' || t.made[dir] {
			continue
		}
		t.made[dir] = true
		if err := t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	err := t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size})
	return tarEntry{t.tar}, err
}

func (t *tarTarget) close() error { return t.tar.Close() }

// tarEntry is the entry that is being written.
type tarEntry struct{ io.Writer }

func (tarEntry) Close() error { return nil }

type dirTarget struct {
	root *os.Root
}

func newDirTarget(dir string) (dirTarget, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return dirTarget{}, fmt.Errorf("open %s: %w", dir, err)
	}
	return dirTarget{root: root}, nil
}

func (d dirTarget) create(name string, _ int64) (io.WriteCloser, error) {
	if err := d.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	return syncedFile{Writer: f, file: f}, err
}

func (d dirTarget) close() error { return d.root.Close() }

// syncedFile is on the disk when it is closed.
type syncedFile struct {
	io.Writer
	file *os.File
}

func (f syncedFile) Close() error { return errors.Join(f.file.Sync(), f.file.Close()) }
