package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tarnfs/tarn/archive"
	"github.com/tarnfs/tarn/internal/fanout"
)

// ErrTerminal says that binary data would be read from a terminal, or written to one.
var ErrTerminal = errors.New("a terminal")

func isStdin(input string) bool { return input == "" || input == "-" }

// inputName names an input in messages.
func inputName(input string) string {
	if isStdin(input) {
		return "standard input"
	}
	return input
}

// openedArchive is an archive with the files that it is read from.
type openedArchive struct {
	archive *archive.Archive
	files   []*os.File
}

func (o *openedArchive) close() {
	if o.archive != nil {
		_ = o.archive.Close() // was only read
	}
	for _, f := range o.files {
		_ = f.Close()
	}
}

// openArchive opens what is to be loaded. A plain tar in a file is read where it lies. One that is
// compressed, or comes through a pipe, is spooled to the store's disk first: an archive is
// read at random, as it lists its images where it likes.
func (e *Engine) openArchive(ctx context.Context, opts LoadOptions) (_ *openedArchive, err error) {
	opened := new(openedArchive)
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	in := opts.Stdin
	if isStdin(opts.Input) {
		if isTerminal(in) {
			return nil, fmt.Errorf("refusing to read from %w: use -i FILE, or redirect the input", ErrTerminal)
		}
	} else {
		if in, err = os.Open(opts.Input); err != nil {
			return nil, plainPathError(err)
		}
		opened.files = append(opened.files, in)
	}
	info, err := in.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		opened.archive, err = archive.OpenDir(in.Name())
		return opened, err
	}
	tar, size, err := e.archiveTar(ctx, in, opened)
	if err != nil {
		return nil, err
	}
	opened.archive, err = archive.OpenTar(tar, size)
	return opened, err
}

// plainPathError leaves out the name, which the caller's message has already.
func plainPathError(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

func (e *Engine) archiveTar(ctx context.Context, in *os.File, opened *openedArchive) (io.ReaderAt, int64, error) {
	info, err := in.Stat()
	if err != nil {
		return nil, 0, err
	}
	start, limit := int64(0), int64(maxLayerSize)
	if info.Mode().IsRegular() {
		if start, err = in.Seek(0, io.SeekCurrent); err != nil {
			return nil, 0, err
		}
		limit = e.layerLimit(info.Size() - start)
	}
	tar, how, err := decompress(in)
	if err != nil {
		return nil, 0, err
	}
	defer tar.Close()
	if how == uncompressed && info.Mode().IsRegular() {
		return io.NewSectionReader(in, start, info.Size()-start), info.Size() - start, nil
	}
	spool, err := e.Store.SpoolFile()
	if err != nil {
		return nil, 0, err
	}
	opened.files = append(opened.files, spool)
	var size int64
	err = fanout.Copy(ctx, tar, func(s *fanout.Stream) (err error) {
		size, err = copyUpTo(spool, s, limit)
		return err
	})
	return spool, size, err
}
