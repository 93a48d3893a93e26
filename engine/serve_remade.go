package engine

import (
	"context"
	"fmt"
	"io"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// recipeFor gives how a layer's compressed form that was given up can be made again, if it can.
func (e *Engine) recipeFor(blob image.Digest) (store.Recipe, bool) {
	recipe, err := e.Store.Recipe(blob)
	return recipe, err == nil && e.Store.HasLayer(recipe.DiffID)
}

// remadeBlob is a compressed form that is made when it is first read: how long it is, is known before,
// and is all that most requests for it want to know.
type remadeBlob struct {
	make   func() (io.ReadSeekCloser, error)
	size   int64
	offset int64
	made   io.ReadSeekCloser
}

// remade gives a blob by its recipe. Few are made at the same time, since each takes a processor.
func (c *storeContent) remade(ctx context.Context, recipe store.Recipe) *remadeBlob {
	return &remadeBlob{size: recipe.Size, make: func() (io.ReadSeekCloser, error) {
		select {
		case c.staging <- struct{}{}:
			defer func() { <-c.staging }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		made, err := c.engine.remake(ctx, image.Descriptor{Digest: recipe.Blob, Size: recipe.Size})
		if err != nil {
			if ctx.Err() == nil {
				c.log(err.Error()) // the client only sees that the answer ends
			}
			return nil, err
		}
		return made.reader(recipe.Size), nil
	}}
}

// Seek implements io.Seeker.
func (b *remadeBlob) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.offset
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d", offset)
	}
	b.offset = offset
	return offset, nil
}

// Read implements io.Reader.
func (b *remadeBlob) Read(p []byte) (n int, err error) {
	if b.offset >= b.size {
		return 0, io.EOF
	}
	if b.made == nil {
		if b.made, err = b.make(); err != nil {
			b.made = nil
			return 0, err
		}
	}
	if _, err := b.made.Seek(b.offset, io.SeekStart); err != nil {
		return 0, err
	}
	n, err = b.made.Read(p)
	b.offset += int64(n)
	return n, err
}

// Close implements io.Closer.
func (b *remadeBlob) Close() error {
	if b.made == nil {
		return nil
	}
	return b.made.Close()
}
