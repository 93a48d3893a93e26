package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/borrow"
	"github.com/tarnfs/tarn/erofs"
	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/fanout"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/store"
)

// CheckOptions says how to look.
type CheckOptions struct {
	// Deep reads every byte of layers and blobs. Without, what is in them is believed if their
	// structure is sound.
	Deep   bool
	Report Report // of what is being read
}

// Checked is what a check found.
type Checked struct {
	Faults  []Fault // first what is wrong, then what is harmless
	Images  int     // records of images that could be read
	Layers  int
	Blobs   int
	Objects int // all that was looked at
	census  *store.Census
}

// Fault is something that is wrong with the store, or left over in it.
type Fault = store.Fault

// Users lists the images and containers that something wrong concerns, by name.
func (c *Checked) Users(f Fault) []string {
	if f.Kind == store.KindImage {
		return []string{familiar(f.ID)}
	}
	users := c.census.Users(f.Object)
	for i, name := range users {
		if strings.HasPrefix(name, "container ") || strings.HasPrefix(name, "<none>") {
			continue
		}
		users[i] = familiar(name)
	}
	return users
}

// Wrong gives the faults that are not harmless.
func (c *Checked) Wrong() []Fault {
	return slices.DeleteFunc(slices.Clone(c.Faults), func(f Fault) bool { return f.Harmless })
}

// ErrUnsound says that something is wrong with the store.
var ErrUnsound = errors.New("the store is damaged")

// Check proves that the store is sound, or says what is wrong. It changes nothing, and is safe beside any
// other command: what is removed while it looks is not missed.
func (e *Engine) Check(ctx context.Context, opts CheckOptions) (*Checked, error) {
	lock, err := e.Store.Exclusive(ctx)
	if err != nil {
		return nil, err
	}
	census, err := e.Store.Check(lock, e.mounts())
	if err = errors.Join(err, lock.Unlock()); err != nil {
		return nil, err
	}
	c := &Checked{
		Faults: census.Faults, Images: len(census.Images), Layers: len(census.Layers), Blobs: len(census.Blobs),
		Objects: len(census.Images) + census.Containers + len(census.Layers) + len(census.Remnants) + len(census.Blobs),
		census:  census,
	}
	for _, l := range census.Layers {
		x := &layerCheck{engine: e, layer: l, report: opts.Report}
		if err := x.run(ctx, opts.Deep); err != nil {
			return nil, err
		}
		c.Faults = append(c.Faults, x.faults...)
	}
	if opts.Deep {
		for _, d := range census.Blobs {
			if err := e.checkStoredBlob(ctx, d, opts.Report, c); err != nil {
				return nil, err
			}
		}
	}
	c.tidy()
	return c, nil
}

// tidy leaves out what was found twice, and puts what is wrong first.
func (c *Checked) tidy() {
	seen := make(map[string]bool)
	var wrong, harmless []Fault
	for _, f := range c.Faults {
		key := f.Path + "\x00" + f.Part
		switch {
		case seen[key]:
		case f.Harmless:
			harmless = append(harmless, f)
		default:
			wrong = append(wrong, f)
		}
		seen[key] = true
	}
	c.Faults = append(wrong, harmless...)
}

// checkStoredBlob reads a blob. One that is gone was removed since the census.
func (e *Engine) checkStoredBlob(ctx context.Context, d image.Digest, report Report, c *Checked) error {
	f, err := e.Store.OpenBlob(d)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	path := "blobs/" + d.Algorithm() + "/" + d.Hex()
	fault := func(err error) {
		c.Faults = append(c.Faults, Fault{Object: store.Object{Kind: store.KindBlob, ID: string(d)}, Path: path, Err: err})
	}
	if err != nil {
		fault(err)
		return nil
	}
	defer f.Close()
	sum, err := d.NewHash()
	if err != nil {
		return err
	}
	size := int64(0)
	if info, err := f.Stat(); err == nil {
		size = info.Size()
	}
	t := Transfer{Blob: d, State: Running, Total: size}
	report.tell(t)
	_, err = io.Copy(sum, contextReader{ctx, &watchedReader{Reader: f, report: report, transfer: t}})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch {
	case err != nil:
		fault(plainPathError(err))
	case !d.Matches(sum):
		fault(fmt.Errorf("%w: it is %s", store.ErrDigest, d.Of(sum)))
	}
	t.State, t.Done = Completed, size
	report.tell(t)
	return nil
}

// layerCheck looks at one layer.
type layerCheck struct {
	engine *Engine
	layer  store.Layer
	report Report
	faults []Fault
}

// Parts of layers, as faults name them.
const (
	partIndex    = "index.erofs"
	partContents = "contents"
	partSums     = "sums"
)

func (x *layerCheck) fault(part string, err error) {
	x.faults = append(x.faults, Fault{
		Object: store.Object{Kind: store.KindLayer, ID: string(x.layer.DiffID)}, Part: part,
		Path: "layers/" + x.layer.DiffID.Hex() + "/" + part, Err: err, Harmless: part == partContents || part == partSums,
	})
}

// run looks at the layer, unless it is gone. An error is one of looking.
func (x *layerCheck) run(ctx context.Context, deep bool) error {
	tar, err := x.layer.OpenTar()
	if errors.Is(err, store.ErrNotFound) && !x.engine.Store.HasLayer(x.layer.DiffID) {
		return nil // removed since the census
	}
	if err != nil {
		// The census says why. The index does not need the rest to be looked at.
		if index, indexErr := x.layer.OpenIndex(); indexErr == nil {
			x.checkIndex(ctx, index, nil)
			index.Close()
		}
		return nil
	}
	defer tar.Close()
	x.checkIndex(ctx, tar.Index, tar.Devices)
	if err := x.checkTable(); err != nil {
		return err
	}
	if deep {
		err = x.checkBytes(ctx, tar)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// checkIndex proves that the index is well formed, has the digest it says, and fits its devices.
func (x *layerCheck) checkIndex(ctx context.Context, f *os.File, devices []*os.File) {
	err := func() error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		index, err := erofs.Open(f, info.Size())
		if err != nil {
			return err
		}
		if err := index.Check(ctx); err != nil {
			return err
		}
		return checkDevices(index, devices)
	}()
	if err != nil && ctx.Err() == nil {
		x.fault(partIndex, err)
	}
}

// checkDevices compares the sizes that the index knows; nil devices are not known.
func checkDevices(index *erofs.Image, devices []*os.File) error {
	if devices == nil {
		return nil
	}
	known := index.Devices()
	if len(known) != len(devices) {
		return fmt.Errorf("%w: it has %d devices, should have %d", erofs.ErrCorrupt, len(known), len(devices))
	}
	for i, device := range devices {
		info, err := device.Stat()
		if err != nil {
			return err
		}
		if blocks := (info.Size() + holes.BlockSize - 1) / holes.BlockSize; int64(known[i].Blocks) != blocks {
			return fmt.Errorf("%w: its device %d has %d blocks, should have %d", erofs.ErrCorrupt, i+1, known[i].Blocks, blocks)
		}
	}
	return nil
}

// checkTable looks at the table of contents, which a layer need not have.
func (x *layerCheck) checkTable() error {
	f, err := x.layer.OpenContents()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	table, err := io.ReadAll(io.LimitReader(f, maxTable))
	if err == nil {
		err = borrow.CheckTable(table)
	}
	if err != nil {
		x.fault(partContents, err)
	}
	return nil
}

// maxTable bounds a table of contents, by the entries that a tar may have.
const maxTable = 64 << 20

// checkBytes reads the tar, once, and makes of it all that is made of a tar when it arrives: its digest,
// its checksums, its table of contents, and its index.
func (x *layerCheck) checkBytes(ctx context.Context, tar *holes.Tar) error {
	var (
		hash     = sha256.New()
		sums     store.Sums
		contents borrow.Contents
		tree     *layer.Tree
		scanErr  error
	)
	t := Transfer{Blob: x.layer.DiffID, State: Running, Total: tar.Size()}
	x.report.tell(t)
	err := fanout.Copy(ctx, &watchedReader{Reader: tar, report: x.report, transfer: t},
		func(s *fanout.Stream) error { _, err := s.WriteTo(hash); return err },
		func(s *fanout.Stream) error { _, err := s.WriteTo(&sums); return err },
		func(s *fanout.Stream) error {
			tree, scanErr = layer.ScanContents(s, layer.Limits{}, contents.Observe)
			return nil
		},
	)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t.State, t.Done = Completed, t.Total
	x.report.tell(t)
	if err != nil {
		x.fault(x.ownFile(tar), err)
		return nil
	}
	if got := image.DigestSum(hash); got != x.layer.DiffID {
		x.fault(x.ownFile(tar), fmt.Errorf("%w: the tar is %s%s", store.ErrDigest, got, x.where(tar, &sums)))
		return nil
	}
	if scanErr != nil { // then no index can be made of it, and none was
		x.fault(partIndex, fmt.Errorf("made of a tar that has none: %w", scanErr))
		return nil //nolint:nilerr // it was found, and noted
	}
	x.compareSmall(&contents, &sums)
	x.compareIndex(ctx, tar, tree)
	if err := checkHoles(ctx, tar); err != nil {
		x.fault(x.ownFile(tar), err)
	}
	return nil
}

// ownFile names the file with the layer's own bytes.
func (x *layerCheck) ownFile(tar *holes.Tar) string {
	name := tar.Devices[0].Name()
	return name[strings.LastIndexByte(name, '/')+1:]
}

// where says which stretches of the tar are wrong, and whose they are, if the layer has checksums.
func (x *layerCheck) where(tar *holes.Tar, got *store.Sums) string {
	want, err := x.layer.Sums()
	if err != nil || want == nil || want.Size != got.Size {
		return ""
	}
	var text []string
	for i, sum := range want.Spans {
		if sum == got.Spans[i] {
			continue
		}
		if len(text) == 3 {
			text = append(text, "and more")
			break
		}
		offset, length := want.Span(i)
		text = append(text, fmt.Sprintf("%d to %d", offset, offset+length-1)+borrowedFrom(tar, offset, length))
	}
	if text == nil {
		return ""
	}
	return "; wrong are bytes " + strings.Join(text, ", ")
}

// borrowedFrom says from which layers bytes come, if they all do.
func borrowedFrom(tar *holes.Tar, offset, length int64) string {
	var lenders []string
	for piece := range tar.Map.Pieces(offset, length) {
		if piece.Device == 0 {
			return ""
		}
		name := fmt.Sprintf("%.6x", tar.Map.Lenders[piece.Device-1].DiffID[:6])
		if !slices.Contains(lenders, name) {
			lenders = append(lenders, name)
		}
	}
	return " (borrowed from layer " + strings.Join(lenders, ", ") + ")"
}

// compareSmall compares what was made with what the layer has of it.
func (x *layerCheck) compareSmall(contents *borrow.Contents, sums *store.Sums) {
	if want, err := x.layer.Sums(); err == nil && want != nil && !slices.Equal(want.Spans, sums.Spans) {
		x.fault(partSums, fmt.Errorf("%w: not the checksums of its tar", store.ErrDamaged))
	}
	f, err := x.layer.OpenContents()
	if err != nil {
		return
	}
	defer f.Close()
	if table, err := io.ReadAll(io.LimitReader(f, maxTable)); err == nil && string(table) != string(contents.Table()) {
		x.fault(partContents, fmt.Errorf("%w: not the table of its tar", borrow.ErrTable))
	}
}

// compareIndex compares the index with one that is made of the tar again.
func (x *layerCheck) compareIndex(ctx context.Context, tar *holes.Tar, tree *layer.Tree) {
	info, err := tar.Index.Stat()
	if err != nil {
		x.fault(partIndex, err)
		return
	}
	same := &rewritten{ctx: ctx, want: tar.Index, size: info.Size()}
	size, err := tree.WriteIndex(same, tar)
	if err == nil && size != info.Size() {
		err = errDiffers
	}
	if err == nil {
		err = same.finish()
	}
	if err != nil && ctx.Err() == nil {
		x.fault(partIndex, fmt.Errorf("not the index of its tar: %w", err))
	}
}
