package rootfs

import (
	"bytes"
	"fmt"
	"os"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/layer"
)

// ProbeErofs finds out whether the kernel mounts an index over a tar from files in dir, by mounting
// those of an empty layer. It is asked after a mount has failed only, so it costs nothing where
// all is well; an error says why not, and wraps ErrUnsupported.
func ProbeErofs(dir string) error {
	tar, err := unnamedFile(dir)
	if err != nil {
		return err
	}
	defer drop(tar)
	index, err := unnamedFile(dir)
	if err != nil {
		return err
	}
	defer drop(index)
	if err := writeEmptyLayer(tar, index); err != nil {
		return err
	}
	mount, err := mountErofs(index, []*os.File{tar})
	if err != nil {
		return fmt.Errorf("EROFS mounts of files on this file system: %w: %w", ErrUnsupported, err)
	}
	drop(mount)
	return nil
}

// writeEmptyLayer writes the tar without entries, two blocks of zeros, and its index.
func writeEmptyLayer(tar, index *os.File) error {
	empty := make([]byte, 2*tarBlock)
	if _, err := tar.WriteAt(empty, 0); err != nil {
		return err
	}
	tree, err := layer.Scan(bytes.NewReader(empty), layer.Limits{})
	if err != nil {
		return err
	}
	plain, err := holes.Plain(tar)
	if err != nil {
		return err
	}
	_, err = tree.WriteIndex(index, plain)
	return err
}

// unnamedFile gives an empty file on dir's file system that is gone when it is closed.
func unnamedFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		drop(f)
		return nil, err
	}
	return f, nil
}
