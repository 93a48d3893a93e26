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

// members are the files of an archive by their names in it.
type members interface {
	// open gives the contents of a regular file and their size in bytes; fs.ErrNotExist wrapped
	// when there is none of that name. The caller closes it.
	open(name string) (file io.ReadCloser, size int64, err error)
	// close lets go of what the members are read from.
	close() error
}

// Limits on the tar of an archive. Its members are few files; their contents are the layers.
const (
	maxMembers = 1 << 18
	maxLinks   = 8
)

// tarMembers are the members of a tar, read where they lie in it.
type tarMembers struct {
	tar     *os.File
	entries map[string]*tarfile.Header
}

func readTar(tar *os.File) (*tarMembers, error) {
	m := &tarMembers{tar: tar, entries: make(map[string]*tarfile.Header)}
	r := tarfile.NewReader(tar, tarfile.Limits{Entries: maxMembers})
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		m.entries[clean(h.Name)] = h
	}
}

// clean gives the one form a member's name is known by: "./a//b" is "a/b".
func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// open follows links: docker-archives of old share a layer between images by a symbolic link.
func (m *tarMembers) open(name string) (io.ReadCloser, int64, error) {
	at := clean(name)
	for range maxLinks {
		h, ok := m.entries[at]
		if !ok {
			return nil, 0, fmt.Errorf("archive member %s: %w", name, fs.ErrNotExist)
		}
		switch h.Type {
		case tarfile.TypeReg:
			return io.NopCloser(h.Contents(m.tar)), h.Size, nil
		case tarfile.TypeSymlink:
			at = clean(path.Join(path.Dir(at), h.Linkname))
		case tarfile.TypeLink:
			at = clean(h.Linkname)
		default:
			return nil, 0, fmt.Errorf("%w: member %s is not a file", ErrInvalid, name)
		}
	}
	return nil, 0, fmt.Errorf("%w: member %s: too many links", ErrInvalid, name)
}

func (m *tarMembers) close() error {
	return m.tar.Close()
}

// dirMembers are the files below a directory; os.Root keeps every name and link inside it.
type dirMembers struct {
	root *os.Root
}

func (m *dirMembers) open(name string) (io.ReadCloser, int64, error) {
	f, err := m.root.OpenFile(clean(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("layout file %s: %w", name, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is not a file", ErrInvalid, name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func (m *dirMembers) close() error {
	return m.root.Close()
}
