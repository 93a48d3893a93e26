package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/layer/tarfile"
)

// files is where an archive's files are: a directory or a tar. A name is relative to its top.
type files interface {
	// open opens a regular file and gives its size; ErrMissing is wrapped if there is none.
	open(name string) (io.ReadCloser, int64, error)
	close() error
}

// dirFiles are files in a directory; os.Root keeps symbolic links from leading out of it.
type dirFiles struct {
	root *os.Root
}

func (d dirFiles) open(name string) (io.ReadCloser, int64, error) {
	// Without O_NONBLOCK a fifo of that name would hang us.
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("%s: %w", name, ErrMissing)
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w: not a regular file", name, ErrFormat)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func (d dirFiles) close() error { return d.root.Close() }

// Bounds on the tar of an archive: a layer is one entry of it.
const (
	maxTarEntries = 200_000
	maxLinks      = 10
)

// tarFiles are files in a tar, read where they lie.
type tarFiles struct {
	tar     io.ReaderAt
	entries map[string]tarfile.Header
}

func indexTar(tar io.ReaderAt, size int64) (*tarFiles, error) {
	t := &tarFiles{tar: tar, entries: make(map[string]tarfile.Header)}
	r := tarfile.NewReader(io.NewSectionReader(tar, 0, size), tarfile.Limits{Entries: maxTarEntries})
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		switch header.Type {
		case tarfile.TypeReg, tarfile.TypeSymlink, tarfile.TypeLink:
			t.entries[cleanName(header.Name)] = *header
		}
	}
}

// cleanName makes "./a", "/a" and "b/../a" the same; none leads above the top.
func cleanName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (t *tarFiles) open(name string) (io.ReadCloser, int64, error) {
	at := cleanName(name)
	for range maxLinks {
		header, found := t.entries[at]
		if !found {
			return nil, 0, fmt.Errorf("%s: %w", name, ErrMissing)
		}
		switch header.Type {
		case tarfile.TypeSymlink:
			// Old "docker save" shares a layer between images as ../<id>/layer.tar.
			if path.IsAbs(header.Linkname) {
				at = cleanName(header.Linkname)
			} else {
				at = cleanName(path.Join(path.Dir(at), header.Linkname))
			}
		case tarfile.TypeLink:
			at = cleanName(header.Linkname)
		default:
			return io.NopCloser(header.Contents(t.tar)), header.Size, nil
		}
	}
	return nil, 0, fmt.Errorf("%s: %w: more than %d links", name, ErrFormat, maxLinks)
}

func (t *tarFiles) close() error { return nil }
