package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// Form is a layer's compressed form, which a manifest names, so that a push gives its digest again.
type Form struct {
	Blob   image.Digest
	DiffID image.Digest
	Size   int64
	Kept   bool     // as it came; takes Size bytes
	Recipe string   // how it can be made again; "" if that is not known
	Images []string // that need it: names, or IDs of those without
}

// Why says why the form takes room, or need not.
func (f Form) Why() string {
	switch {
	case f.Recipe != "":
		return "made again: " + f.Recipe
	case f.Kept:
		return "kept as it came, for its digest"
	default:
		return "lost: pull the image again"
	}
}

// Forms lists the compressed forms that images need, by digest.
func (e *Engine) Forms(ctx context.Context) ([]Form, error) {
	found := make(map[image.Digest]*Form)
	err := e.undisturbed(ctx, func() error {
		records, err := e.Store.Images()
		if err != nil {
			return err
		}
		for _, record := range records {
			if err := e.addForms(found, record); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	forms := make([]Form, 0, len(found))
	for _, f := range found {
		forms = append(forms, *f)
	}
	slices.SortFunc(forms, func(a, b Form) int { return strings.Compare(string(a.Blob), string(b.Blob)) })
	return forms, nil
}

func (e *Engine) addForms(found map[image.Digest]*Form, record store.Image) error {
	forms, err := e.formsOf(record)
	if err != nil {
		return err
	}
	name := record.ID.Short()
	if record.Name != "" {
		name = familiar(record.Name)
	}
	for _, f := range forms {
		known := found[f.Blob]
		if known == nil {
			known = &f
			found[f.Blob] = known
		}
		if !slices.Contains(known.Images, name) {
			known.Images = append(known.Images, name)
		}
	}
	return nil
}

// formsOf lists the compressed forms that one image needs.
func (e *Engine) formsOf(record store.Image) ([]Form, error) {
	manifest, err := e.Store.Manifest(record.Manifest)
	if err != nil {
		return nil, err
	}
	config, err := e.Store.Config(record.ID)
	if err != nil {
		return nil, err
	}
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("manifest %s: %w", record.Manifest, store.ErrDamaged)
	}
	var forms []Form
	for i, l := range manifest.Layers {
		f := Form{Blob: l.Digest, DiffID: config.RootFS.DiffIDs[i], Size: l.Size, Kept: e.Store.HasBlob(l.Digest)}
		if f.Blob == f.DiffID {
			continue
		}
		if recipe, err := e.Store.Recipe(l.Digest); err == nil && recipe.DiffID == f.DiffID {
			f.Recipe = recipe.Compressor
		}
		forms = append(forms, f)
	}
	return forms, nil
}

// Compact gives up kept compressed forms that can be made again: it finds out how each was made by
// comparing it, byte for byte, with what known programs make of the tar, and removes those that are the
// same. It gives those that it removed.
func (e *Engine) Compact(ctx context.Context, report func(Form)) ([]Form, error) {
	forms, err := e.Forms(ctx)
	if err != nil {
		return nil, err
	}
	var gone []Form
	for _, f := range forms {
		if !f.Kept {
			continue
		}
		err := e.compact(ctx, &f)
		if errors.Is(err, store.ErrNotFound) && (!e.Store.HasBlob(f.Blob) || !e.Store.HasLayer(f.DiffID)) {
			continue // it was removed since it was listed
		}
		if err != nil {
			return gone, fmt.Errorf("compressed form %s: %w", f.Blob.Short(), err)
		}
		if !f.Kept {
			gone = append(gone, f)
		}
		if report != nil {
			report(f)
		}
	}
	return gone, nil
}

// compact gives up one form, if it can be made again.
func (e *Engine) compact(ctx context.Context, f *Form) (err error) {
	if f.Recipe == "" {
		if f.Recipe, err = e.findRecipe(ctx, *f); err != nil {
			return err
		}
	}
	if f.Recipe == "" {
		return nil
	}
	if err := e.dropForm(ctx, *f); err != nil {
		return err
	}
	f.Kept = false
	return nil
}

func (e *Engine) dropForm(ctx context.Context, f Form) error {
	if err := e.keepRecipe(ctx, store.Recipe{Blob: f.Blob, Size: f.Size, DiffID: f.DiffID, Compressor: f.Recipe}); err != nil {
		return err
	}
	lock, err := e.Store.Exclusive(ctx)
	if err != nil {
		return err
	}
	return errors.Join(e.Store.DropBlob(lock, f.Blob), lock.Unlock())
}

// findRecipe looks for a compressor that makes exactly this blob; "" if there is none. One that does not
// gives itself away within the first kilobytes.
func (e *Engine) findRecipe(ctx context.Context, f Form) (string, error) {
	kind, err := e.formatOf(f.Blob)
	if err != nil {
		return "", err
	}
	for _, c := range knownCompressors(kind) {
		same, err := e.makes(ctx, c, f)
		if err != nil {
			return "", err
		}
		if same {
			return c.String(), nil
		}
	}
	return "", nil
}

// formatOf tells how a blob is compressed.
func (e *Engine) formatOf(d image.Digest) (string, error) {
	blob, err := e.Store.OpenBlob(d)
	if err != nil {
		return "", err
	}
	defer blob.Close()
	r, kind, err := decompress(blob)
	if err != nil {
		return "", err
	}
	defer r.Close() //nolint:errcheck // nothing was read
	switch kind {
	case compressedGzip:
		return compressGzip, nil
	case compressedZstd:
		return compressZstd, nil
	default:
		return compressNone, nil
	}
}

var errDiffers = errors.New("differs")

// makes tells whether the compressor makes the blob of the tar.
func (e *Engine) makes(ctx context.Context, c compressor, f Form) (bool, error) {
	l, err := e.Store.Layer(f.DiffID)
	if err != nil {
		return false, err
	}
	tar, err := l.OpenTar()
	if err != nil {
		return false, err
	}
	defer tar.Close()
	blob, err := e.Store.OpenBlob(f.Blob)
	if err != nil {
		return false, err
	}
	defer blob.Close()
	want := &comparer{want: bufio.NewReaderSize(blob, 1<<20)}
	zw, err := c.writer(want)
	if err != nil {
		return false, err
	}
	_, err = io.Copy(zw, contextReader{ctx, tar})
	// Closing ends what the compressor runs, also after an error.
	err = errors.Join(err, zw.Close())
	switch {
	case want.differs:
		return false, nil
	case err != nil:
		return false, err
	default:
		return want.ended(), nil
	}
}

// comparer is a writer of what must be the same as what it reads.
type comparer struct {
	want    *bufio.Reader
	buf     []byte
	differs bool
}

// Write implements io.Writer; it fails at the first difference.
func (c *comparer) Write(p []byte) (int, error) {
	if len(c.buf) < len(p) {
		c.buf = make([]byte, len(p))
	}
	if n, err := io.ReadFull(c.want, c.buf[:len(p)]); err != nil || !bytes.Equal(c.buf[:n], p) {
		c.differs = true
		return 0, errDiffers
	}
	return len(p), nil
}

// ended tells whether nothing more is expected.
func (c *comparer) ended() bool {
	_, err := c.want.ReadByte()
	return errors.Is(err, io.EOF)
}
