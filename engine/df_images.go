package engine

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/diskusage"
	"github.com/tarnfs/tarn/store"
)

// ImageUsage is what an image takes on the disk.
type ImageUsage struct {
	ID         image.Digest
	Names      []string // familiar; none if it has lost them
	Row        ImageRow // of one of its names
	Containers int      // that use it
	Size       int64    // what it seems to have: the bytes of its layers' tars
	// OnDisk are the bytes that it needs on the disk, of layers, of what these borrow from others, and of
	// compressed forms, manifest and config; Shared are those of them that other images need, too,
	// and Unique those that go with it.
	OnDisk, Shared, Unique int64
	SharedWith             []Sharing // those with most in common first
}

// Sharing is how much an image has in common with another.
type Sharing struct {
	Image *ImageUsage
	Size  int64 // bytes on the disk that both need
}

// ImageUsage lists the images, the newest first, with what they take.
func (e *Engine) ImageUsage(ctx context.Context) ([]*ImageUsage, error) {
	s, err := e.shares(ctx)
	if err != nil {
		return nil, err
	}
	common := make([]map[int]int64, len(s.images))
	for _, part := range []tally{s.layers, s.blobs} {
		for users, bytes := range part.all() {
			for _, i := range users {
				img := s.images[i]
				img.OnDisk += bytes
				if len(users) == 1 {
					img.Unique += bytes
					continue
				}
				img.Shared += bytes
				if common[i] == nil {
					common[i] = make(map[int]int64)
				}
				for _, other := range users {
					if other != i {
						common[i][other] += bytes
					}
				}
			}
		}
	}
	for i, with := range common {
		for other, bytes := range with {
			s.images[i].SharedWith = append(s.images[i].SharedWith, Sharing{s.images[other], bytes})
		}
		slices.SortFunc(s.images[i].SharedWith, func(a, b Sharing) int {
			return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Image.ID, b.Image.ID))
		})
	}
	slices.SortStableFunc(s.images, func(a, b *ImageUsage) int { return b.Row.Created.Compare(a.Row.Created) })
	return s.images, nil
}

// tally is how many bytes are needed by which images.
type tally map[string]int64

// all yields the sets of images, by ascending index, and their bytes.
func (t tally) all() iter.Seq2[[]int, int64] {
	return func(yield func([]int, int64) bool) {
		for key, bytes := range t {
			if !yield(decodeSet(key), bytes) {
				return
			}
		}
	}
}

func encodeSet(set []int) string {
	b := make([]byte, 0, 2*len(set))
	for _, i := range slices.Compact(slices.Sorted(slices.Values(set))) {
		b = binary.AppendUvarint(b, uint64(i))
	}
	return string(b)
}

func decodeSet(key string) []int {
	var set []int
	for b := []byte(key); len(b) > 0; {
		i, n := binary.Uvarint(b)
		set, b = append(set, int(i)), b[n:]
	}
	return set
}

// shares is who needs what.
type shares struct {
	images []*ImageUsage
	users  map[image.Digest][]int // images by layer
	layers tally                  // layers, and what is left of removed ones
	blobs  tally
}

// shares finds out which image needs which bytes.
func (e *Engine) shares(ctx context.Context) (*shares, error) {
	s := &shares{users: make(map[image.Digest][]int), layers: make(tally), blobs: make(tally)}
	return s, e.undisturbed(ctx, func() error {
		if err := e.shareImages(ctx, s); err != nil {
			return err
		}
		return e.shareLayers(ctx, s)
	})
}

func (e *Engine) shareLayers(ctx context.Context, s *shares) error {
	layers, err := e.Store.Layers()
	if err != nil {
		return err
	}
	loans, err := store.Loans(layers)
	if err != nil {
		return err
	}
	for _, l := range layers {
		id, err := l.ID()
		if err != nil {
			continue // just removed
		}
		all, err := diskusage.Of(ctx, l.Dir())
		if err != nil {
			return err
		}
		own, err := l.OwnUsage(ctx)
		if err != nil {
			return err
		}
		users := s.users[l.DiffID]
		s.layers[encodeSet(users)] += all - own
		s.shareFile(users, own, loans[id])
	}
	return e.shareRemnants(ctx, s, loans)
}

// shareRemnants: who borrows from what is left of a layer needs it.
func (e *Engine) shareRemnants(ctx context.Context, s *shares, loans map[holes.TarID][]store.Loan) error {
	remnants, err := e.Store.Remnants()
	if err != nil {
		return err
	}
	for _, r := range remnants {
		all, err := diskusage.Of(ctx, r.Dir())
		if err != nil {
			return err
		}
		own, err := r.OwnUsage(ctx)
		if err != nil {
			return err
		}
		var users []int
		for _, loan := range loans[r.ID()] {
			users = append(users, s.users[loan.Borrower]...)
		}
		s.layers[encodeSet(users)] += all - own
		s.shareFile(users, own, loans[r.ID()])
	}
	return nil
}

// shareFile shares a layer's own file, of which so many bytes are on the disk, between its owners and those who
// borrow from it.
func (s *shares) shareFile(owners []int, onDisk int64, loans []store.Loan) {
	type edge struct {
		at    int64
		layer image.Digest
		step  int
	}
	edges := make([]edge, 0, 2*len(loans))
	for _, loan := range loans {
		edges = append(edges, edge{int64(loan.At), loan.Borrower, 1}, edge{int64(loan.At) + int64(loan.Count), loan.Borrower, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	active := make(map[image.Digest]int)
	last := int64(0)
	for _, e := range edges {
		if bytes := (e.at - last) * holes.BlockSize; len(active) > 0 && bytes > 0 {
			users := slices.Clone(owners)
			for layer := range active {
				users = append(users, s.users[layer]...)
			}
			bytes = min(bytes, onDisk)
			s.layers[encodeSet(users)] += bytes
			onDisk -= bytes
		}
		last = e.at
		if active[e.layer] += e.step; active[e.layer] == 0 {
			delete(active, e.layer)
		}
	}
	s.layers[encodeSet(owners)] += onDisk
}

// shareImages lists the images, each once, with their layers, blobs and containers.
func (e *Engine) shareImages(ctx context.Context, s *shares) error {
	rows, err := e.imageRows()
	if err != nil {
		return err
	}
	containers, err := e.Store.Containers()
	if err != nil {
		return err
	}
	index := make(map[image.Digest]int)
	blobs := make(map[image.Digest][]int)
	for _, row := range rows {
		i, known := index[row.ID]
		if !known {
			i = len(s.images)
			index[row.ID] = i
			s.images = append(s.images, &ImageUsage{ID: row.ID, Row: row, Size: row.Size})
			for _, diffID := range row.config.RootFS.DiffIDs {
				if !slices.Contains(s.users[diffID], i) {
					s.users[diffID] = append(s.users[diffID], i)
				}
			}
		}
		if !row.Dangling() {
			s.images[i].Names = append(s.images[i].Names, row.Name.Familiar())
		}
		needed, err := e.blobsOf(row.record)
		if err != nil {
			return fmt.Errorf("image %s: %w", row.ID.Short(), err)
		}
		for _, d := range needed {
			blobs[d] = append(blobs[d], i)
		}
	}
	for _, c := range containers {
		if i, known := index[c.ImageID]; known {
			s.images[i].Containers++
		}
	}
	for d, users := range blobs {
		bytes, err := e.blobUsage(ctx, d)
		if err != nil {
			return err
		}
		s.blobs[encodeSet(users)] += bytes
	}
	return nil
}

// blobsOf lists the blobs that an image's record needs.
func (e *Engine) blobsOf(record store.Image) ([]image.Digest, error) {
	m, err := e.Store.Manifest(record.Manifest)
	if err != nil {
		return nil, err
	}
	list := []image.Digest{record.Manifest, record.ID}
	if record.Index != "" {
		list = append(list, record.Index)
	}
	for _, l := range m.Layers {
		if !slices.Contains(list, l.Digest) {
			list = append(list, l.Digest)
		}
	}
	return list, nil
}
