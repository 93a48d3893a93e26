package borrow

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/tarnfs/tarn/holes"
)

// minRun is how many blocks in a row are worth a range.
const minRun = 2

// within finds contents that the tar has several times and no source has: all but the first of
// each are borrowed from that.
func (f *finder) within() error {
	f.settle()
	var first *content
	var found []segment
	for i := range f.keyed {
		c := &f.keyed[i]
		if c.end() > f.blocks || f.covers(*c) {
			continue
		}
		if first == nil || first.key() != c.key() {
			first = c
			continue
		}
		same, err := f.same(first.start, c.start, c.count())
		if err != nil {
			return err
		}
		if same {
			found = append(found, segment{start: c.start, count: c.count(), lender: self, at: first.start})
		}
	}
	if len(f.segments)+len(found) <= maxSegments {
		f.segments = append(f.segments, found...)
		slices.SortFunc(f.segments, byStart)
	}
	return nil
}

func byStart(a, b segment) int { return cmp.Compare(a.start, b.start) }

// same compares two stretches of the tar, which may not overlap.
func (f *finder) same(one, other, count uint32) (bool, error) {
	if one+count > other {
		return false, nil // a tar that says it has contents inside of contents
	}
	reader := func(at uint32) io.Reader {
		return io.NewSectionReader(f.tar, int64(at)*holes.BlockSize, int64(count)*holes.BlockSize)
	}
	a, b := reader(one), reader(other)
	for {
		n, err := io.ReadFull(a, f.one[:])
		if _, otherErr := io.ReadFull(b, f.other[:n]); otherErr != nil && n > 0 {
			return false, fmt.Errorf("compare within the layer: %w", otherErr)
		}
		if !bytes.Equal(f.one[:n], f.other[:n]) {
			return false, nil
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return true, nil
		default:
			return false, fmt.Errorf("compare within the layer: %w", err)
		}
	}
}

// settle puts the segments in order and takes out those parts of contents whose rest lies elsewhere.
func (f *finder) settle() {
	slices.SortFunc(f.segments, byStart)
	f.segments = joined(f.segments)
	var cut []span
	for _, c := range f.contents.list {
		next := f.after(c.start)
		if next == len(f.segments) || f.segments[next].start >= c.end() {
			continue
		}
		if s := f.segments[next]; s.start > c.start || s.end() < c.end() {
			cut = append(cut, span{c.start, c.end()})
		}
	}
	f.segments = without(f.segments, cut)
}

// after finds the first segment that ends behind a block.
func (f *finder) after(block uint32) int {
	next, _ := slices.BinarySearchFunc(f.segments, block, func(s segment, block uint32) int {
		if s.end() <= block {
			return -1
		}
		return 1
	})
	return next
}

// covers tells whether a segment meets the contents.
func (f *finder) covers(c content) bool {
	next := f.after(c.start)
	return next < len(f.segments) && f.segments[next].start < c.end()
}

// joined joins segments that go on where the one before ends.
func joined(segments []segment) []segment {
	kept := segments[:0]
	for _, s := range segments {
		if n := len(kept); n > 0 {
			last := &kept[n-1]
			if last.lender == s.lender && last.end() == s.start && last.at+last.count == s.at {
				last.count += s.count
				continue
			}
		}
		kept = append(kept, s)
	}
	return kept
}

// without takes spans, which ascend but may overlap, out of segments.
func without(segments []segment, cut []span) []segment {
	var kept []segment
	for _, s := range segments {
		for len(cut) > 0 && cut[0].end <= s.start {
			cut = cut[1:]
		}
		for _, c := range cut {
			if c.start >= s.end() || s.count == 0 {
				break
			}
			if c.start > s.start {
				kept = append(kept, segment{s.start, c.start - s.start, s.lender, s.at})
			}
			skip := min(max(c.end, s.start)-s.start, s.count)
			s = segment{s.start + skip, s.count - skip, s.lender, s.at + skip}
		}
		if s.count > 0 {
			kept = append(kept, s)
		}
	}
	return kept
}

// plan makes a map of the segments, or nil if they are not worth it.
func (f *finder) plan() (*holes.Map, error) {
	f.dropPoor()
	f.dropShort()
	f.renumber()
	m := &holes.Map{Size: f.size, Lenders: f.ids, Ranges: make([]holes.Range, 0, len(f.segments))}
	for _, s := range f.segments {
		m.Ranges = append(m.Ranges, holes.Range{Start: s.start, Count: s.count, Device: uint32(s.lender + 1), At: s.at})
	}
	if err := m.Prepare(); err != nil {
		return nil, fmt.Errorf("plan what to borrow: %w", err)
	}
	if m.Borrowed() < minSaving {
		return nil, nil //nolint:nilnil // nothing to borrow is no error
	}
	// Packing copies what is not borrowed.
	if m.Borrowed() >= m.Size/2 {
		return packed(m)
	}
	return m, nil
}

// packed gives the same map for a file in which blocks that are not borrowed follow each other.
func packed(m *holes.Map) (*holes.Map, error) {
	p := &holes.Map{Size: m.Size, Packed: true, Lenders: m.Lenders, Ranges: slices.Clone(m.Ranges)}
	var before, next uint32 // blocks of ranges that begin before the place a range of the tar itself is in
	places := make(map[uint32]uint32)
	targets := make([]uint32, 0)
	for _, r := range m.Ranges {
		if r.Device == 0 {
			targets = append(targets, r.At)
		}
	}
	slices.Sort(targets)
	for _, target := range targets {
		for int(next) < len(m.Ranges) && m.Ranges[next].Start < target {
			before += m.Ranges[next].Count
			next++
		}
		places[target] = target - before
	}
	for i := range p.Ranges {
		if r := &p.Ranges[i]; r.Device == 0 {
			r.At = places[r.At]
		}
	}
	if err := p.Prepare(); err != nil {
		return nil, fmt.Errorf("plan what to borrow: %w", err)
	}
	return p, nil
}

// dropShort drops segments that are alone and too short.
func (f *finder) dropShort() {
	var kept []segment
	for i := 0; i < len(f.segments); {
		j, count := i+1, f.segments[i].count
		for j < len(f.segments) && f.segments[j].start == f.segments[j-1].end() {
			count += f.segments[j].count
			j++
		}
		if count >= minRun {
			kept = append(kept, f.segments[i:j]...)
		}
		i = j
	}
	f.segments = kept
}

// dropPoor keeps the lenders that most bytes come from.
func (f *finder) dropPoor() {
	if len(f.ids) <= holes.MaxLenders {
		return
	}
	blocks := make([]int64, len(f.ids))
	for _, s := range f.segments {
		if s.lender != self {
			blocks[s.lender] += int64(s.count)
		}
	}
	order := make([]int, len(f.ids))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(blocks[b], blocks[a]) })
	poor := make(map[int]bool)
	for _, lender := range order[holes.MaxLenders:] {
		poor[lender] = true
	}
	f.segments = slices.DeleteFunc(f.segments, func(s segment) bool { return poor[s.lender] })
}

// renumber forgets lenders that nothing is borrowed from any more.
func (f *finder) renumber() {
	ids, files := f.ids, f.files
	f.ids, f.files = nil, nil
	numbers := make(map[int]int)
	for i := range f.segments {
		s := &f.segments[i]
		if s.lender == self {
			continue
		}
		number, known := numbers[s.lender]
		if !known {
			number = len(f.ids)
			numbers[s.lender] = number
			f.ids = append(f.ids, ids[s.lender])
			f.files = append(f.files, files[s.lender])
		}
		s.lender = number
	}
}
