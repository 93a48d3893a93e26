// Package powerdisk gives tests a disk whose power can be cut at any moment, under a real file system.
//
// A [Disk] keeps, as a disk with a volatile write cache does, what was written since the last flush apart
// from what no power cut takes. [Serve] shows disks as files of a FUSE file system, on which
// [Mount] puts a loop device: what file systems order by flushes arrives there as fsync(2).
package powerdisk

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
)

const (
	pageSize   = 4096
	sectorSize = 512
)

// pages are the contents of a disk by page number; those that are absent are zeros. A page does not change
// while anybody has it: who writes makes another.
type pages map[int64]*[pageSize]byte

// Disk is a disk in memory. Any number of goroutines may use it at once.
type Disk struct {
	size      int64
	wholeFrom int64 // see Whole
	wholeTo   int64

	mu      sync.Mutex
	seen    pages   // what reads give
	stable  pages   // what was there at the last flush
	cached  []write // since then, in order
	flushes int
}

// write is a write of data, or of zeros if data is nil.
type write struct {
	offset, size int64
	data         []byte
}

// New makes a disk of zeros. size is in bytes, a multiple of 4096.
func New(size int64) *Disk {
	return &Disk{size: size, seen: make(pages), stable: make(pages)}
}

// Whole has the sectors from one offset to another written all or none. Call it before the disk is used. ext4 needs
// that of its superblock, which has 1024 bytes and one checksum.
func (d *Disk) Whole(from, to int64) { d.wholeFrom, d.wholeTo = from, to }

// Size gives the number of bytes.
func (d *Disk) Size() int64 { return d.size }

// Flushes counts how often everything written before was made to last.
func (d *Disk) Flushes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flushes
}

// Unflushed counts the writes since then.
func (d *Disk) Unflushed() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.cached)
}

// read fills p from offset on, as far as the disk goes, and gives the number of bytes.
func (d *Disk) read(p []byte, offset int64) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	p = p[:max(0, min(int64(len(p)), d.size-offset))]
	for done := 0; done < len(p); {
		at := offset + int64(done)
		into := p[done:min(len(p), done+int(pageSize-at%pageSize))]
		if page := d.seen[at/pageSize]; page != nil {
			copy(into, page[at%pageSize:])
		} else {
			clear(into)
		}
		done += len(into)
	}
	return len(p)
}

// write takes a write into the cache, and keeps w.data. It reports whether the write lies on the disk.
func (d *Disk) write(w write) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.offset < 0 || w.offset+w.size > d.size {
		return false
	}
	d.cached = append(d.cached, w)
	d.seen.apply(w)
	return true
}

func (d *Disk) flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushes++
	for _, w := range d.cached {
		for n := w.offset / pageSize; n*pageSize < w.offset+w.size; n++ {
			if page := d.seen[n]; page != nil {
				d.stable[n] = page
			} else {
				delete(d.stable, n)
			}
		}
	}
	d.cached = nil
}

func (p pages) apply(w write) {
	for done := int64(0); done < w.size; {
		at := w.offset + done
		n := min(w.size-done, pageSize-at%pageSize)
		if w.data == nil && n == pageSize {
			delete(p, at/pageSize)
		} else {
			page := new([pageSize]byte)
			if old := p[at/pageSize]; old != nil && n < pageSize {
				*page = *old
			}
			if w.data != nil {
				copy(page[at%pageSize:], w.data[done:done+n])
			} else {
				clear(page[at%pageSize : at%pageSize+n])
			}
			p[at/pageSize] = page
		}
		done += n
	}
}

// part gives what of a write is for the bytes from one to another of the disk.
func (w write) part(from, to int64) write {
	part := write{offset: from, size: to - from}
	if w.data != nil {
		part.data = w.data[from-w.offset : to-w.offset]
	}
	return part
}

// Cut gives the disk as it may be found if power goes now, and says what became of the cache. What was
// flushed is there. Of what was not, a disk may have written anything, in any order: nothing, everything up
// to a moment, or any of it; and of a write that it was at, any of its sectors of 512 or 4096 bytes. To leave out a
// later write of a sector is the same as to do it before an earlier one.
func (d *Disk) Cut(r *rand.Rand) (after *Disk, fate string) {
	d.mu.Lock()
	stable, cached, flushes := maps.Clone(d.stable), d.cached, d.flushes
	d.mu.Unlock()
	sector := int64(sectorSize)
	if r.IntN(2) == 0 {
		sector = pageSize
	}
	kept := 0
	keep := func(w write) { kept++; stable.apply(w) }
	tear := func(w write, chance float64) {
		for at := w.offset; at < w.offset+w.size; {
			next := at - at%sector + sector
			if d.wholeFrom <= at && at < d.wholeTo {
				next = max(next, d.wholeTo)
			}
			next = min(next, w.offset+w.size)
			if r.Float64() < chance {
				stable.apply(w.part(at, next))
			}
			at = next
		}
	}
	var how string
	switch chance := r.Float64(); r.IntN(4) {
	case 0:
		how = "none"
	case 1:
		until := r.IntN(len(cached) + 1)
		for _, w := range cached[:until] {
			keep(w)
		}
		if until < len(cached) {
			tear(cached[until], chance)
		}
		how = "the first"
	case 2:
		for _, w := range cached {
			if r.Float64() < chance {
				keep(w)
			}
		}
		how = "some"
	default:
		for _, w := range cached {
			if r.Float64() < 0.5 {
				tear(w, chance)
			} else if r.Float64() < chance {
				keep(w)
			}
		}
		how = "some, and parts of others,"
	}
	fate = fmt.Sprintf("%s of %d writes kept since flush %d (%d whole, sectors of %d bytes)", how, len(cached), flushes, kept, sector)
	return &Disk{size: d.size, seen: stable, stable: maps.Clone(stable)}, fate
}
