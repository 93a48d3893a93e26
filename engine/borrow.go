package engine

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/tarnfs/tarn/borrow"
	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/layer"
)

// dedupOff is the value of TARN_DEDUP that makes new layers keep all their bytes themselves.
const dedupOff = "off"

// settle lets a staged layer, whose tar is written, borrow what other layers have, and writes its index.
func (e *Engine) settle(ctx context.Context, l *stagedLayer, tree *layer.Tree, contents *borrow.Contents) (err error) {
	plan, err := e.planBorrowing(ctx, l, contents)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plan.Close()) }()
	tar, err := holes.Plain(l.stage.Tar)
	if plan != nil {
		tar, err = l.stage.Borrow(plan.Map, plan.Lenders, plan.Indexes)
		plan.Indexes = nil // the stage's
	}
	if err != nil {
		return err
	}
	_, err = tree.WriteIndex(l.stage.Index, tar)
	return err
}

// planBorrowing gives the layer its table of contents, and finds what it can borrow, if that is anything.
func (e *Engine) planBorrowing(ctx context.Context, l *stagedLayer, contents *borrow.Contents) (_ *borrow.Plan, err error) {
	if !e.dedup {
		return nil, nil
	}
	if l.among, err = e.arrivals.join(ctx, contents); err != nil {
		return nil, err
	}
	// One that is here already is dropped in the end.
	if e.Store.HasLayer(l.diffID) {
		return nil, nil
	}
	if err := l.stage.WriteContents(contents.Table()); err != nil {
		return nil, err
	}
	sources, err := e.sources()
	if err != nil {
		return nil, err
	}
	return borrow.Find(ctx, l.stage.Tar, l.size, contents, sources)
}

// RebuildContents makes the table again that tells later layers what a layer has.
func (e *Engine) RebuildContents(diffID image.Digest) (err error) {
	l, err := e.Store.Layer(diffID)
	if err != nil {
		return err
	}
	tar, err := l.OpenTar()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	var contents borrow.Contents
	if _, err := layer.ScanContents(tar, layer.Limits{}, contents.Observe); err != nil {
		return fmt.Errorf("layer %s: %w", diffID.Short(), err)
	}
	return l.ReplaceContents(contents.Table())
}

// sources are all layers, as those who may lend.
func (e *Engine) sources() ([]borrow.Source, error) {
	layers, err := e.Store.Layers()
	if err != nil {
		return nil, err
	}
	sources := make([]borrow.Source, 0, len(layers))
	for _, l := range layers {
		s := borrow.Source{
			Table: func() (io.ReadCloser, error) { return l.OpenContents() },
			Open:  l.OpenTar,
		}
		if n, err := hex.Decode(s.DiffID[:], []byte(l.DiffID.Hex())); err == nil && n == len(s.DiffID) {
			sources = append(sources, s)
		}
	}
	return sources, nil
}
