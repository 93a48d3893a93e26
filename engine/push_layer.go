package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry"
	"github.com/tarnfs/tarn/store"
)

// content gives what is to be uploaded, when it turns out that it is. closer may be nil.
type content func() (c registry.Content, closer io.Closer, err error)

func bytesContent(d image.Descriptor, data []byte) content {
	return func() (registry.Content, io.Closer, error) {
		return registry.Content{
			Size:   d.Size,
			Open:   func(offset int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data[offset:])), nil },
			Digest: func() (image.Descriptor, error) { return d, nil },
		}, nil, nil
	}
}

// fileContent is a file that is there in full.
func fileContent[F io.ReadSeekCloser](d image.Descriptor, open func() (F, error)) registry.Content {
	return registry.Content{
		Size: d.Size,
		Open: func(offset int64) (io.ReadCloser, error) {
			f, err := open()
			if err != nil {
				return nil, err
			}
			if _, err := f.Seek(offset, io.SeekStart); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return f, nil
		},
		Digest: func() (image.Descriptor, error) { return d, nil },
	}
}

// upload brings a blob of known digest to the registry, unless it is there or can be mounted.
func (p *push) upload(ctx context.Context, d image.Descriptor, content content) (image.Descriptor, error) {
	if there, err := p.thereAlready(ctx, d, d.Digest); there || err != nil {
		return d, err
	}
	c, closer, err := content()
	if err != nil {
		return d, err
	}
	if closer != nil {
		defer closer.Close() //nolint:errcheck // only read
	}
	if _, err := p.repo.Upload(ctx, watched(c, d.Digest, p.report)); err != nil {
		return d, fmt.Errorf("blob %s: %w", d.Digest.Short(), err)
	}
	p.report.tell(Transfer{Blob: d.Digest, State: Completed, Done: d.Size, Total: d.Size})
	return d, nil
}

// thereAlready asks the registry for the blob, and whether it can take it from another repository. It
// is shown as shownAs.
func (p *push) thereAlready(ctx context.Context, d image.Descriptor, shownAs image.Digest) (bool, error) {
	done := Transfer{Blob: shownAs, State: Exists, Done: d.Size, Total: d.Size}
	there, err := p.repo.Exists(ctx, d.Digest)
	if err != nil {
		return false, err
	}
	for _, from := range p.mounts[d.Digest] {
		if there {
			break
		}
		if there, err = p.repo.Mount(ctx, d.Digest, from); err != nil {
			return false, err
		}
		done.State, done.From = Mounted, from.Path()
	}
	if there {
		p.report.tell(done)
	}
	return there, nil
}

// watched reports what is read of the content.
func watched(c registry.Content, shownAs image.Digest, report Report) registry.Content {
	open := c.Open
	c.Open = func(offset int64) (io.ReadCloser, error) {
		r, err := open(offset)
		if err != nil {
			return nil, err
		}
		w := &watchedReader{Reader: r, report: report, transfer: Transfer{Blob: shownAs, State: Running, Done: offset, Total: c.Size}}
		report.tell(w.transfer)
		return struct {
			io.Reader
			io.Closer
		}{w, r}, nil
	}
	return c
}

// compressedLayer compresses a layer and uploads it meanwhile. How that came out is kept, so that the
// next push can ask for the result before it has made it.
func (p *push) compressedLayer(ctx context.Context, l image.Descriptor, diffID image.Digest) (image.Descriptor, error) {
	known, err := p.engine.knownForm(diffID, p.compressor)
	if err != nil {
		return l, err
	}
	if known.Digest != "" {
		known.Annotations = l.Annotations
		if there, err := p.thereAlready(ctx, known, l.Digest); there || err != nil {
			return known, err
		}
	}
	made, err := p.engine.compressLayer(ctx, diffID, p.compressor)
	if err != nil {
		return l, err
	}
	defer made.Close() //nolint:errcheck // the file has no name
	d, err := p.repo.Upload(ctx, watched(made.content(p.compressor.mediaType()), l.Digest, p.report))
	if err != nil {
		return l, fmt.Errorf("layer %s: %w", diffID.Short(), err)
	}
	p.report.tell(Transfer{Blob: l.Digest, State: Completed, Done: d.Size, Total: d.Size})
	d.Annotations = l.Annotations
	recipe := store.Recipe{Blob: d.Digest, Size: d.Size, DiffID: diffID, Compressor: p.compressor.String()}
	p.records.Go(func() error { return p.engine.keepRecipe(context.WithoutCancel(ctx), recipe) })
	return d, nil
}

// compressing is a layer that is being compressed into a file without a name.
type compressing struct {
	spool  *spool
	cancel context.CancelFunc
	ended  chan struct{}
}

// compressLayer begins to compress a layer. Close it.
func (e *Engine) compressLayer(ctx context.Context, diffID image.Digest, c compressor) (*compressing, error) {
	l, err := e.Store.Layer(diffID)
	if err != nil {
		return nil, err
	}
	tar, err := l.OpenTar()
	if err != nil {
		return nil, err
	}
	file, err := e.Store.SpoolFile()
	if err != nil {
		return nil, errors.Join(err, tar.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	made := &compressing{spool: newSpool(file), cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(made.ended)
		defer tar.Close()
		compressInto(ctx, made.spool, c, tar)
	}()
	return made, nil
}

// Close ends it, and frees the file.
func (c *compressing) Close() error {
	c.cancel()
	<-c.ended
	return c.spool.file.Close()
}

// reader reads it when it has come to its end, and closes it.
func (c *compressing) reader(size int64) io.ReadSeekCloser {
	return struct {
		*io.SectionReader
		io.Closer
	}{io.NewSectionReader(c.spool.file, 0, size), c}
}

func (c *compressing) content(mediaType string) registry.Content {
	return registry.Content{
		Size: -1,
		Open: func(offset int64) (io.ReadCloser, error) { return c.spool.open(offset), nil },
		Digest: func() (image.Descriptor, error) {
			digest, size, err := c.spool.digest()
			return image.Descriptor{MediaType: mediaType, Digest: digest, Size: size}, err
		},
	}
}

// knownForm gives what the layer was when this compressor made it before, or nothing.
func (e *Engine) knownForm(diffID image.Digest, c compressor) (image.Descriptor, error) {
	recipes, err := e.Store.Recipes()
	if err != nil {
		return image.Descriptor{}, err
	}
	for _, r := range recipes {
		if r.DiffID == diffID && r.Compressor == c.String() {
			return image.Descriptor{MediaType: c.mediaType(), Digest: r.Blob, Size: r.Size}, nil
		}
	}
	return image.Descriptor{}, nil
}

func (e *Engine) keepRecipe(ctx context.Context, r store.Recipe) error {
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return err
	}
	return errors.Join(e.Store.PutRecipe(lock, r), lock.Unlock())
}

// reproducible tells whether the recipe of a blob is known, and makes it of this layer.
func (e *Engine) reproducible(blob, diffID image.Digest) bool {
	recipe, err := e.Store.Recipe(blob)
	return err == nil && recipe.DiffID == diffID
}

// layerContent gives a layer in the form that a manifest names: the tar, the blob that came, or what
// the recipe makes of the tar again.
func (e *Engine) layerContent(ctx context.Context, d image.Descriptor, diffID image.Digest) (registry.Content, io.Closer, error) {
	if d.Digest == diffID {
		l, err := e.Store.Layer(diffID)
		if err != nil {
			return registry.Content{}, nil, err
		}
		return fileContent(d, l.OpenTar), nil, nil
	}
	if e.Store.HasBlob(d.Digest) {
		return fileContent(d, func() (*os.File, error) { return e.Store.OpenBlob(d.Digest) }), nil, nil
	}
	made, err := e.remake(ctx, d)
	if err != nil {
		return registry.Content{}, nil, err
	}
	c := made.content(d.MediaType)
	c.Size = d.Size
	return c, made, nil
}

// remake makes a layer's compressed form again by its recipe, and verifies it.
func (e *Engine) remake(ctx context.Context, d image.Descriptor) (*compressing, error) {
	recipe, err := e.Store.Recipe(d.Digest)
	if err != nil {
		return nil, fmt.Errorf("compressed form of a layer: %w (pull the image again)", err)
	}
	c, err := parseCompressor(recipe.Compressor)
	if err != nil {
		return nil, err
	}
	made, err := e.compressLayer(ctx, recipe.DiffID, c)
	if err != nil {
		return nil, err
	}
	digest, _, err := made.spool.digest()
	if err == nil && digest != d.Digest {
		err = fmt.Errorf("blob %s: %w: made again by %q it is %s (pull the image again)", d.Digest, store.ErrDigest, recipe.Compressor, digest)
	}
	if err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return made, nil
}
