package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// PruneFilter says what to remove besides what nothing refers to.
type PruneFilter struct {
	All      bool      // images that no container uses, too, not only those without a name
	Until    time.Time // only images that were made before, and pulls interrupted before; zero: all
	Labels   []string  // only images with all of these, "key" or "key=value"
	Unlabels []string  // only images with none of these
}

// ParsePruneFilter reads "key=value" options, with Docker's keys. now is for times that are given as
// how long ago.
func ParsePruneFilter(options []string, all bool, now time.Time) (PruneFilter, error) {
	f := PruneFilter{All: all}
	return f, eachFilter(options, func(key, value string) (err error) {
		switch key {
		case "until":
			f.Until, err = parseTime(value, now)
		case "label":
			f.Labels = append(f.Labels, value)
		case "label!":
			f.Unlabels = append(f.Unlabels, value)
		default:
			err = fmt.Errorf("%w: use until, label or label!=", ErrOption)
		}
		return err
	})
}

// parseTime reads a time as Docker's filters take it: a duration before now, seconds since 1970, or a
// date with or without time and zone.
func parseTime(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil {
		return now.Add(-ago), nil
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		return time.UnixMilli(int64(seconds * 1000)), nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02Z07:00", "2006-01-02",
	} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil { //nolint:gosmopolitan // as Docker
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: want how long ago, as 24h, or a time, as 2026-01-31T12:00", ErrOption)
}

// selects tells whether an image that could go is to go.
func (f *PruneFilter) selects(row ImageRow) bool {
	return (f.All || row.Dangling()) && (f.Until.IsZero() || row.Created.Before(f.Until)) && hasLabels(row.Labels, f.Labels) &&
		!hasAnyLabel(row.Labels, f.Unlabels)
}

// Pruned says what goes, or went.
type Pruned struct {
	Untagged []string       // familiar names
	Images   []image.Digest // IDs of images that go
	Losses   []Lost         // of the disk
}

// Lost is what the disk gets back of one object.
type Lost struct {
	Kind  string
	ID    string
	Bytes int64
	Lent  bool // part of it stays, since other layers borrow it
}

// Bytes is what the disk gets back of everything.
func (p *Pruned) Bytes() (sum int64) {
	for _, loss := range p.Losses {
		sum += loss.Bytes
	}
	return sum
}

// PlanPrune says what Prune would remove now.
func (e *Engine) PlanPrune(ctx context.Context, filter PruneFilter) (*Pruned, error) {
	lock, sizes, err := e.lockForPrune(ctx, filter)
	if err != nil {
		return nil, err
	}
	p, err := e.planPrune(ctx, lock, filter, sizes)
	if err = errors.Join(err, lock.Unlock()); err != nil {
		return nil, err
	}
	return p.pruned(p.losses), nil
}

// lockForPrune takes the store's lock when all is done that takes long: containers that were to be removed at their end, and
// whose tarn was killed, are not in the way any more, and the files of what seems to be unused are counted.
func (e *Engine) lockForPrune(ctx context.Context, filter PruneFilter) (*store.Lock, store.Sizes, error) {
	if _, err := e.Containers(ctx, ContainerFilter{All: true}); err != nil {
		return nil, nil, err
	}
	p, err := e.selectUnused(filter)
	var sizes store.Sizes
	if err == nil {
		sizes, err = e.Store.Measure(ctx, p.drop, e.mounts())
	}
	if err != nil {
		sizes = nil // somebody removes something just now; what is wrong besides, the plan will find, too
	}
	lock, err := e.Store.Exclusive(ctx)
	return lock, sizes, err
}

// PruneReport is told how Prune gets on.
type PruneReport struct {
	// Removed is told what goes when that has happened, and before the disk is given back the room, which takes
	// longer; nil if nobody wants to know.
	Removed func(*Pruned)
	Freed   Report // of that, a transfer of bytes without a blob
}

// Prune removes images without a name that no container uses, as far as the filter selects them, and what
// nothing refers to: what commands that were killed have left, and beginnings of layers that nobody is
// fetching. What somebody uses meanwhile stays, and nobody waits for more than the removal of names.
// It gives what the disk really has back.
func (e *Engine) Prune(ctx context.Context, filter PruneFilter, report PruneReport) (*Pruned, error) {
	lock, sizes, err := e.lockForPrune(ctx, filter)
	if err != nil {
		return nil, err
	}
	p, err := e.planPrune(ctx, lock, filter, sizes)
	if err == nil {
		err = e.removeSelected(lock, p)
	}
	if err = errors.Join(err, lock.Unlock()); err != nil {
		return nil, err
	}
	plan := p.pruned(p.losses)
	if report.Removed != nil {
		report.Removed(plan)
	}
	partials, err := e.Store.RemovePartials(ctx, filter.Until)
	if err != nil {
		return nil, err
	}
	if err := e.collectReporting(ctx, plan.Bytes(), partials, report.Freed); err != nil {
		return nil, err
	}
	losses, err := e.Store.Happened(ctx, slices.DeleteFunc(p.losses, isPartial))
	return p.pruned(append(losses, partials...)), err
}

// collectReporting collects what was removed. Of total bytes, those of partials are free already.
func (e *Engine) collectReporting(ctx context.Context, total int64, partials []store.Loss, report Report) error {
	freed := Transfer{State: Running, Total: total}
	count := func(bytes int64) {
		// Others may leave something to be collected, too, or have collected some of this.
		freed.Done = min(freed.Done+bytes, total)
		report.tell(freed)
	}
	for _, p := range partials {
		count(p.Bytes)
	}
	if err := e.Store.CollectCounting(ctx, count); err != nil {
		return err
	}
	freed.State, freed.Done = Completed, total
	report.tell(freed)
	return nil
}

func isPartial(l store.Loss) bool { return l.Kind == store.KindPartial }

// prunePlan is what is to go, decided under the lock.
type prunePlan struct {
	drop   store.Selection
	images []image.Digest
	losses []store.Loss
}

func (p *prunePlan) pruned(losses []store.Loss) *Pruned {
	pruned := &Pruned{Images: p.images}
	for _, img := range p.drop.Images {
		if img.Name != "" {
			pruned.Untagged = append(pruned.Untagged, familiar(img.Name))
		}
	}
	for _, l := range losses {
		pruned.Losses = append(pruned.Losses, Lost{Kind: string(l.Kind), ID: l.ID, Bytes: l.Bytes, Lent: l.Lent})
	}
	return pruned
}

func (e *Engine) planPrune(ctx context.Context, lock *store.Lock, filter PruneFilter, sizes store.Sizes) (*prunePlan, error) {
	p, err := e.selectUnused(filter)
	if err != nil {
		return nil, err
	}
	if p.drop.Entries, err = e.entriesGoneWith(p.drop.Images); err != nil {
		return nil, err
	}
	if p.losses, err = e.Store.Plan(ctx, lock, p.drop, e.mounts(), sizes); err != nil {
		return nil, err
	}
	partials, err := e.Store.IdlePartials(ctx, filter.Until)
	p.losses = append(p.losses, partials...)
	return p, err
}

// selectUnused selects records of images. An image goes with all of its records, or stays with all.
func (e *Engine) selectUnused(filter PruneFilter) (*prunePlan, error) {
	p := new(prunePlan)
	rows, err := e.imageRows()
	if err != nil {
		return nil, err
	}
	containers, err := e.Store.Containers()
	if err != nil {
		return nil, err
	}
	keep := make(map[image.Digest]bool)
	for _, c := range containers {
		if c.Damaged != nil {
			return nil, fmt.Errorf("%w (remove it with 'tarn rm %s')", c.Damaged, c.Name)
		}
		keep[c.ImageID] = true
	}
	kept := []ImageRow{}
	for _, row := range rows {
		if !filter.selects(row) {
			keep[row.ID] = true
		}
		if keep[row.ID] {
			kept = append(kept, row)
		}
	}
	gone := make(map[image.Digest]bool)
	for _, row := range rows {
		// What another image was made from is part of its history, as in Docker.
		if keep[row.ID] || row.isStepOfAny(kept) {
			continue
		}
		gone[row.ID] = true
		p.drop.Images = append(p.drop.Images, row.record)
	}
	p.images = slices.Sorted(maps.Keys(gone))
	return p, p.addUnnamed(e, gone)
}

// addUnnamed adds the records without a name of images that have one, too: the list leaves them out.
func (p *prunePlan) addUnnamed(e *Engine, gone map[image.Digest]bool) error {
	all, err := e.Store.Records()
	if err != nil {
		return err
	}
	for _, img := range all {
		if gone[img.ID] && !slices.Contains(p.drop.Images, img) {
			p.drop.Images = append(p.drop.Images, img)
		}
	}
	return nil
}

// removeSelected removes the records, and sweeps.
func (e *Engine) removeSelected(lock *store.Lock, p *prunePlan) error {
	for _, img := range p.drop.Images {
		if err := e.Store.RemoveImage(lock, img); err != nil {
			return err
		}
	}
	for _, entry := range p.drop.Entries {
		if err := e.Store.RemoveEntry(lock, entry); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	_, err := e.Store.Sweep(lock, e.mounts())
	return err
}

// entriesGoneWith gives the entries that hold by digest what images stood for in repositories where they lose
// their names; "forget" does the same for one image at a time.
func (e *Engine) entriesGoneWith(images []store.Image) ([]store.Entry, error) {
	all, err := e.Store.Entries()
	if err != nil || len(all) == 0 || len(images) == 0 {
		return nil, err
	}
	var gone []store.Entry
	for repository, roots := range rootsByRepository(images, all) {
		tagged, err := e.taggedWithout(repository, images)
		if err != nil {
			return nil, err
		}
		set, err := e.leadsTo(roots...)
		if err != nil {
			return nil, err
		}
		maps.DeleteFunc(set, func(d image.Digest, _ bool) bool { return tagged[d] })
		entries := slices.DeleteFunc(slices.Clone(all), func(x store.Entry) bool {
			return x.Repository != repository || isTagged(x) || tagged[x.Manifest]
		})
		if err := e.addReferrers(set, entries); err != nil {
			return nil, err
		}
		for _, x := range entries {
			if set[x.Manifest] {
				gone = append(gone, x)
			}
		}
	}
	return gone, nil
}

// rootsByRepository gives the manifests that images had in repositories.
func rootsByRepository(images []store.Image, entries []store.Entry) map[string][]image.Digest {
	roots := make(map[string][]image.Digest)
	for _, img := range images {
		if ref, err := image.ParseReference(img.Name); err == nil {
			roots[ref.Repository()] = append(roots[ref.Repository()], img.Manifest, img.Target())
			continue
		}
		for _, x := range entries {
			if x.Manifest == img.Manifest || x.Manifest == img.Target() {
				roots[x.Repository] = append(roots[x.Repository], img.Manifest, img.Target())
			}
		}
	}
	return roots
}

// String names what goes for people.
func (l Lost) String() string {
	if strings.HasPrefix(l.ID, image.SHA256+":") {
		return l.Kind + " " + image.Digest(l.ID).Short()
	}
	return l.Kind + " " + l.ID
}
