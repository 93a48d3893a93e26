package borrow

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"slices"

	"github.com/tarnfs/tarn/holes"
)

const (
	// maxSources bounds how many layers a new one is compared with.
	maxSources = 16
	// minSaving is how many bytes must be spared for a source, and in all, to be worth it.
	minSaving = 64 << 10
	// maxSegments bounds memory; there is no more to gain from a tar in so many pieces.
	maxSegments = 1 << 20
)

// Source is a layer that may lend.
type Source struct {
	DiffID [32]byte
	Table  func() (io.ReadCloser, error) // its file "contents"
	Open   func() (*holes.Tar, error)
}

// Plan is what a layer can borrow.
type Plan struct {
	Map     *holes.Map // without a generation
	Lenders []*os.File // those of Map
	// Indexes are open indexes of the layers in which it was found. As long as they are, these
	// layers and what they borrow stay as they are (holes.Tar).
	Indexes []*os.File
	sources []*holes.Tar // to be closed
}

// Close closes all files. Fields that somebody else is to close are set to nil before.
func (p *Plan) Close() error {
	if p == nil {
		return nil
	}
	var errs []error
	for _, tar := range p.sources {
		errs = append(errs, tar.Close())
	}
	for _, f := range p.Indexes {
		errs = append(errs, f.Close())
	}
	*p = Plan{}
	return errors.Join(errs...)
}

// Find finds what the tar of size bytes, with these contents, can borrow from sources and from
// itself. The plan is nil if that is not worth it; otherwise it must be closed. A source that cannot
// be read is passed over; errors are of the tar, or of ctx.
func Find(ctx context.Context, tar io.ReaderAt, size int64, contents *Contents, sources []Source) (*Plan, error) {
	f := &finder{
		tar: tar, size: size, blocks: uint32(size / holes.BlockSize),
		contents: contents, keyed: contents.byKey(), numbers: make(map[holes.TarID]int),
		in: bufio.NewReaderSize(nil, 64<<10),
	}
	f.found = make([]bool, len(f.keyed))
	f.budget = 4*int64(f.blocks) + 1<<16
	f.free = []span{{0, f.blocks}}
	err := f.all(ctx, sources)
	if err == nil {
		err = f.within()
	}
	var m *holes.Map
	if err == nil {
		m, err = f.plan()
	}
	plan := &Plan{Map: m, Lenders: f.files, sources: f.sources}
	for _, tar := range f.sources {
		if tar.Index != nil {
			plan.Indexes = append(plan.Indexes, tar.Index)
			tar.Index = nil
		}
	}
	if err != nil || m == nil {
		return nil, errors.Join(err, plan.Close())
	}
	return plan, nil
}

// span is a stretch of the tar, in blocks.
type span struct{ start, end uint32 }

// segment is a stretch of the tar that was found elsewhere.
type segment struct {
	start, count uint32
	lender       int // its number in finder.ids, or self
	at           uint32
}

func (s segment) end() uint32 { return s.start + s.count }

const self = -1

type finder struct {
	tar      io.ReaderAt
	size     int64
	blocks   uint32 // whole ones
	contents *Contents
	keyed    []content // in the order of their keys
	found    []bool    // which of them need not be looked for any more
	free     []span    // what was not found yet, ascending
	budget   int64     // blocks that may still be compared
	in       *bufio.Reader

	one, other [64 * holes.BlockSize]byte // what is compared within the tar

	segments []segment // ascending only when all are found
	ids      []holes.TarID
	files    []*os.File // of ids
	numbers  map[holes.TarID]int
	sources  []*holes.Tar // in which something was found
}

// candidate is a source with the number of bytes it can spare, at most.
type candidate struct {
	Source
	bytes int64
	round int // of the search for which bytes is right
}

// all takes the source with the most bytes in common, again and again. What one can spare only
// shrinks as others are used, so most need not be counted anew each time.
func (f *finder) all(ctx context.Context, sources []Source) error {
	var left []candidate
	for _, s := range sources {
		if c := (candidate{Source: s, bytes: f.common(s)}); c.bytes >= minSaving {
			left = append(left, c)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for used := 0; used < maxSources && len(left) > 0; {
		best := 0
		for i := range left {
			if left[i].bytes > left[best].bytes {
				best = i
			}
		}
		c := &left[best]
		if c.round < used {
			c.bytes, c.round = f.common(c.Source), used
		} else {
			if err := f.use(ctx, c.Source); err != nil {
				return err
			}
			c.bytes = 0
			used++
		}
		if c.bytes < minSaving {
			left = slices.Delete(left, best, best+1)
		}
	}
	return nil
}

// common counts the bytes of contents that a source seems to have, and that were not found yet.
func (f *finder) common(s Source) int64 {
	var sum int64
	last := -1
	f.join(s, func(i int, _ uint32) {
		if i > last {
			sum += f.keyed[i].length
			last = i
		}
	})
	return sum
}

// sameKey bounds how many places of a table are tried for one key.
const sameKey = 4

// join calls match for contents that were not found yet and the places of the source that have the
// same key, in the order of keys.
func (f *finder) join(s Source, match func(i int, at uint32)) {
	table, err := s.Table()
	if err != nil {
		return
	}
	defer table.Close()
	f.in.Reset(table)
	next, same := 0, 0 // in keyed; entries with this key
	var key uint64
	for batch, err := range readTable(f.in) {
		if err != nil {
			return
		}
		for ; len(batch) > 0; batch = batch[tableEntry:] {
			e := entryAt(batch)
			for next < len(f.keyed) && f.keyed[next].key() < e.key {
				next++
			}
			if next == len(f.keyed) {
				return
			}
			if same++; e.key != key {
				key, same = e.key, 1
			}
			for i := next; same <= sameKey && i < len(f.keyed) && f.keyed[i].key() == key; i++ {
				if !f.found[i] {
					match(i, e.start)
				}
			}
		}
	}
}

// use looks for what is left in one source.
func (f *finder) use(ctx context.Context, s Source) error {
	tar, err := s.Open()
	if err != nil {
		return nil //nolint:nilerr // it may be gone by now, or damaged: then it lends nothing
	}
	var places []place
	f.join(s, func(i int, at uint32) { places = append(places, place{f.keyed[i].start, at}) })
	w := newWalker(f.tar, tar, f.blocks, uint32(tar.Size()/holes.BlockSize), &f.budget)
	err = w.walk(ctx, f.free, places)
	if err != nil || len(w.runs) == 0 {
		return errors.Join(err, tar.Close())
	}
	f.sources = append(f.sources, tar)
	for _, r := range w.runs {
		f.add(r, s, tar)
	}
	f.free = subtract(f.free, w.runs)
	f.mark()
	return nil
}

// add resolves a run in the tar of a source to where its bytes physically lie.
func (f *finder) add(r run, s Source, tar *holes.Tar) {
	offset := int64(r.at) * holes.BlockSize
	for piece := range tar.Map.Pieces(offset, int64(r.count)*holes.BlockSize) {
		if len(f.segments) == maxSegments {
			return
		}
		id := holes.TarID{DiffID: s.DiffID, Generation: tar.Map.Generation}
		if piece.Device > 0 {
			id = tar.Map.Lenders[piece.Device-1]
		}
		number, known := f.numbers[id]
		if !known {
			number = len(f.ids)
			f.numbers[id] = number
			f.ids = append(f.ids, id)
			f.files = append(f.files, tar.Devices[piece.Device])
		}
		f.segments = append(f.segments, segment{
			start: r.start + uint32((piece.Offset-offset)/holes.BlockSize), count: uint32(piece.Length / holes.BlockSize),
			lender: number, at: uint32(piece.At / holes.BlockSize),
		})
	}
}

// mark notes which contents were found.
func (f *finder) mark() {
	for i, c := range f.keyed {
		next, _ := slices.BinarySearchFunc(f.free, c.start, func(s span, at uint32) int {
			if s.end <= at {
				return -1
			}
			return 1
		})
		f.found[i] = next == len(f.free) || f.free[next].start > c.start
	}
}

// subtract takes runs, which lie in spans and ascend as these do, out of spans.
func subtract(spans []span, runs []run) []span {
	var left []span
	for _, s := range spans {
		for len(runs) > 0 && runs[0].start < s.end {
			if s.start < runs[0].start {
				left = append(left, span{s.start, runs[0].start})
			}
			s.start = runs[0].start + runs[0].count
			runs = runs[1:]
		}
		if s.start < s.end {
			left = append(left, s)
		}
	}
	return left
}
