package borrow

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tarnfs/tarn/holes"
)

const (
	// maxGap is after how many different blocks in a row two tars are taken to be out of step.
	maxGap = 8
	// window is how many blocks are read at once.
	window = 128
)

// place says that contents at block start of the tar may be those at block at of the source.
type place struct{ start, at uint32 }

// run is a stretch of blocks that are the same in the tar and the source.
type run struct{ start, count, at uint32 }

// walker compares the tar with that of a source, from places that seem to agree.
type walker struct {
	own, other       io.ReaderAt
	ownEnd, otherEnd uint32
	budget           *int64
	a, b             []byte
	runs             []run // ascending
}

func newWalker(own, other io.ReaderAt, ownEnd, otherEnd uint32, budget *int64) *walker {
	return &walker{
		own: own, other: other, ownEnd: ownEnd, otherEnd: otherEnd, budget: budget,
		a: make([]byte, window*holes.BlockSize), b: make([]byte, window*holes.BlockSize),
	}
}

// errSource says that the source cannot be read on, which ends the search in it.
var errSource = errors.New("source")

// walk fills in runs, inside the spans given, which ascend.
func (w *walker) walk(ctx context.Context, free []span, places []place) error {
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.at, b.at))
	})
	for _, s := range free {
		for position := s.start; ; {
			next, _ := slices.BinarySearchFunc(places, position, func(p place, at uint32) int { return cmp.Compare(p.start, at) })
			if places = places[next:]; len(places) == 0 || places[0].start >= s.end {
				break
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			p := w.choose(places)
			err := w.around(p, span{position, s.end})
			if errors.Is(err, errSource) || *w.budget <= 0 {
				return nil
			}
			if err != nil {
				return err
			}
			position = p.start + 1
			if n := len(w.runs); n > 0 {
				position = max(position, w.runs[n-1].start+w.runs[n-1].count)
			}
		}
	}
	return nil
}

// choose takes, of the places for the first contents, the one that is in step with the last run.
func (w *walker) choose(places []place) place {
	if len(w.runs) > 0 {
		last := w.runs[len(w.runs)-1]
		for _, p := range places {
			if p.start != places[0].start {
				break
			}
			if p.at-p.start == last.at-last.start {
				return p
			}
		}
	}
	return places[0]
}

// around compares both tars around a place: first backwards, then on from there.
func (w *walker) around(p place, limits span) error {
	if p.at >= w.otherEnd {
		return nil // a table that lies
	}
	equal, err := w.compare(p.start, p.at, 1)
	if err != nil || !equal {
		return err
	}
	if err := w.backward(p, limits.start); err != nil {
		return err
	}
	return w.forward(p, limits.end)
}

func (w *walker) forward(p place, limit uint32) error {
	limit = min(limit, w.ownEnd)
	gap := 0
	for gap <= maxGap && p.start < limit && p.at < w.otherEnd {
		count := min(window, limit-p.start, w.otherEnd-p.at)
		equal, err := w.compare(p.start, p.at, count)
		if err != nil {
			return err
		}
		if equal {
			w.runs = extend(w.runs, run{p.start, count, p.at})
			gap = 0
		}
		for i := uint32(0); i < count && !equal && gap <= maxGap; i++ {
			if gap++; w.sameBlock(i) {
				w.runs = extend(w.runs, run{p.start + i, 1, p.at + i})
				gap = 0
			}
		}
		p.start += count
		p.at += count
	}
	return nil
}

// backward finds runs that end before a place.
func (w *walker) backward(p place, limit uint32) error {
	var found []run // descending
	for gap := 0; gap <= maxGap && p.start > limit && p.at > 0; {
		count := min(window/4, p.start-limit, p.at)
		p.start -= count
		p.at -= count
		if _, err := w.compare(p.start, p.at, count); err != nil {
			return err
		}
		for i := count; i > 0 && gap <= maxGap; i-- {
			if gap++; w.sameBlock(i - 1) {
				found = extendDown(found, run{p.start + i - 1, 1, p.at + i - 1})
				gap = 0
			}
		}
	}
	for _, r := range slices.Backward(found) {
		w.runs = extend(w.runs, r)
	}
	return nil
}

// compare reads count blocks of both tars and reports whether all are equal.
func (w *walker) compare(start, at, count uint32) (bool, error) {
	*w.budget -= int64(count)
	n := int(count) * holes.BlockSize
	if _, err := w.own.ReadAt(w.a[:n], int64(start)*holes.BlockSize); err != nil {
		return false, fmt.Errorf("compare with other layers: %w", err)
	}
	if _, err := w.other.ReadAt(w.b[:n], int64(at)*holes.BlockSize); err != nil {
		return false, errSource
	}
	return bytes.Equal(w.a[:n], w.b[:n]), nil
}

// sameBlock looks at one of the blocks that were compared last.
func (w *walker) sameBlock(i uint32) bool {
	from, to := int(i)*holes.BlockSize, int(i+1)*holes.BlockSize
	return bytes.Equal(w.a[from:to], w.b[from:to])
}

// extend appends r, to the last run if it goes on there.
func extend(runs []run, r run) []run {
	if n := len(runs); n > 0 {
		last := &runs[n-1]
		if last.start+last.count == r.start && last.at+last.count == r.at {
			last.count += r.count
			return runs
		}
	}
	return append(runs, r)
}

// extendDown is extend where runs descend.
func extendDown(runs []run, r run) []run {
	if n := len(runs); n > 0 {
		last := &runs[n-1]
		if r.start+r.count == last.start && r.at+r.count == last.at {
			last.start, last.at, last.count = r.start, r.at, last.count+r.count
			return runs
		}
	}
	return append(runs, r)
}
