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

// files is where an archive's files are: a directory or a tar. A name is relative to its top,
// wherever "..", "/" or symbolic links in it would lead.
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
	f, err := d.root.OpenFile(cleanName(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("%s: %w", quote(name), ErrMissing)
	}
	if err != nil {
		// A link to itself, or out of the directory, or what may not be read.
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err
		}
		return nil, 0, fmt.Errorf("%s: %w", quote(name), err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w: not a regular file", quote(name), ErrFormat)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func (d dirFiles) close() error { return d.root.Close() }

// Bounds on the tar of an archive, in which a layer or a document is one entry.
const (
	maxTarEntries  = 200_000
	maxTarMetadata = 64 << 20
	maxLinks       = 10
	maxHoles       = 16 << 30 // bytes: a sparse file is as large as it says, whatever is stored of it
)

// tarFiles are files in a tar, read where they lie.
type tarFiles struct {
	tar     io.ReaderAt
	entries map[string]entry
}

// entry is what a name in the tar stands for, a file or a link to another name. Of several entries
// of one name the last one counts, as for tar.
type entry struct {
	file *tarfile.Header
	link string
}

func indexTar(tar io.ReaderAt, size int64) (*tarFiles, error) {
	t := &tarFiles{tar: tar, entries: make(map[string]entry)}
	r := tarfile.NewReader(io.NewSectionReader(tar, 0, size),
		tarfile.Limits{Entries: maxTarEntries, Metadata: maxTarMetadata, Segments: 1 << 16})
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		name := cleanName(header.Name)
		switch header.Type {
		case tarfile.TypeReg:
			if holes := header.Size - header.PackedSize; holes > maxHoles {
				return nil, fmt.Errorf("%s: %w: %d bytes of holes", quote(header.Name), ErrLimit, holes)
			}
			t.entries[name] = entry{file: &tarfile.Header{
				Type: header.Type, Size: header.Size, Sparse: header.Sparse,
				DataOffset: header.DataOffset, PackedSize: header.PackedSize,
			}}
		case tarfile.TypeSymlink:
			// Old "docker save" shares a layer between images as ../<id>/layer.tar.
			target := header.Linkname
			if !path.IsAbs(target) {
				target = path.Join(path.Dir(name), target)
			}
			t.entries[name] = entry{link: cleanName(target)}
		case tarfile.TypeLink:
			t.entries[name] = entry{link: cleanName(header.Linkname)}
		default:
			delete(t.entries, name)
		}
	}
}

// cleanName makes "./a", "/a" and "b/../a" the same; none leads above the top.
func cleanName(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

func (t *tarFiles) open(name string) (io.ReadCloser, int64, error) {
	at := cleanName(name)
	for range maxLinks {
		found, ok := t.entries[at]
		switch {
		case !ok && at == cleanName(name):
			return nil, 0, fmt.Errorf("%s: %w", quote(name), ErrMissing)
		case !ok:
			return nil, 0, fmt.Errorf("%s, to which %s is a link: %w", quote(at), quote(name), ErrMissing)
		case found.file != nil:
			return io.NopCloser(found.file.Contents(t.tar)), found.file.Size, nil
		}
		at = found.link
	}
	return nil, 0, fmt.Errorf("%s: %w: a link to a link and so on, more than %d times", quote(name), ErrFormat, maxLinks)
}

func (t *tarFiles) close() error { return nil }
