package engine

import (
	"context"
	"errors"
	"io"

	"github.com/tarnfs/tarn/borrow"
	"github.com/tarnfs/tarn/store"
)

// patchFromLayers looks in other layers for files that lie in damaged spans, by the tables of contents. Where they
// have the same, and of their own, the span's checksum says so.
func (e *Engine) patchFromLayers(ctx context.Context, p *patch) error {
	if len(p.bad) == 0 {
		return nil
	}
	wanted, err := e.wantedPlaces(p)
	if err != nil || len(wanted) == 0 {
		return err
	}
	layers, err := e.Store.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if l.DiffID == p.diffID {
			continue
		}
		if err := findPlaces(l, wanted); err != nil {
			return err
		}
	}
	return p.fill(func(span []byte, offset int64) error {
		for _, places := range wanted {
			for _, place := range places {
				place.overlay(span, offset, func() bool { return castagnoli(span) == p.sumAt(offset) })
			}
		}
		return nil
	})
}

// wantedPlace is a file that lies in a damaged span, and its likes elsewhere.
type wantedPlace struct {
	borrow.Place
	alike []likeness
}

type likeness struct {
	layer  store.Layer
	offset int64
}

// sumAt gives the checksum that the span at offset must have.
func (p *patch) sumAt(offset int64) uint32 { return p.sums.Spans[offset/store.SpanSize] }

// wantedPlaces lists what the layer's table says of damaged spans, by key.
func (e *Engine) wantedPlaces(p *patch) (map[uint64][]*wantedPlace, error) {
	bad := make(map[int64]bool)
	for _, i := range p.bad {
		bad[int64(i)] = true
	}
	l, err := e.Store.Layer(p.diffID)
	if err != nil {
		return nil, err
	}
	wanted := make(map[uint64][]*wantedPlace)
	err = eachPlace(l, func(place borrow.Place) {
		for i := place.Offset / store.SpanSize; i <= (place.Offset+place.Length-1)/store.SpanSize; i++ {
			if bad[i] {
				wanted[place.Key] = append(wanted[place.Key], &wantedPlace{Place: place})
				return
			}
		}
	})
	return wanted, err
}

// maxAlike bounds how many files with one key are looked at: keys need not be of different contents.
const maxAlike = 8

func findPlaces(l store.Layer, wanted map[uint64][]*wantedPlace) error {
	return eachPlace(l, func(place borrow.Place) {
		for _, w := range wanted[place.Key] {
			if len(w.alike) < maxAlike {
				w.alike = append(w.alike, likeness{l, place.Offset})
			}
		}
	})
}

// eachPlace reads a layer's table of contents, as far as it is there and sound.
func eachPlace(l store.Layer, do func(borrow.Place)) error {
	f, err := l.OpenContents()
	if err != nil {
		return nil // it has none: nothing is found
	}
	defer f.Close()
	for place, err := range borrow.Places(f) {
		if errors.Is(err, borrow.ErrTable) {
			return nil
		}
		if err != nil {
			return err
		}
		do(place)
	}
	return nil
}

// overlay puts into a span what the likes of a file have there, one after the other until it is right.
func (w *wantedPlace) overlay(span []byte, offset int64, right func() bool) {
	start, end := max(w.Offset, offset), min(w.Offset+w.Length, offset+int64(len(span)))
	if start >= end || right() {
		return
	}
	for _, like := range w.alike {
		if readAt(like.layer, span[start-offset:end-offset], like.offset+start-w.Offset) == nil && right() {
			return
		}
	}
}

func readAt(l store.Layer, b []byte, offset int64) error {
	tar, err := l.OpenTar()
	if err != nil {
		return err
	}
	defer tar.Close()
	_, err = tar.ReadAt(b, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}
