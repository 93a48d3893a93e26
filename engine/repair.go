package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// RepairOptions says where what is damaged may be had.
type RepairOptions struct {
	From     []string // archives, files or directories, as Load takes them
	Offline  bool     // ask no registry
	Registry RegistryOptions
	Report   Report
}

// Repaired says what became of what was wrong.
type Repaired struct {
	Mended []Fault
	Left   []Unmended
	*Checked
}

// Unmended is something that is wrong still.
type Unmended struct {
	Fault
	Why error // why it could not be mended
}

// repairRounds bounds how often what is mended may show what else is wrong.
const repairRounds = 5

// Repair mends what Check finds: what can be made from the rest is made, and what is not to be had in the store
// comes from archives, or the registries that the images are from, as little of it as may be.
// Everything is verified before it is written. It is safe beside any other command; what is
// mounted is mended, too.
func (e *Engine) Repair(ctx context.Context, opts RepairOptions) (*Repaired, error) {
	r := &repair{engine: e, opts: opts, whys: make(map[string]error)}
	defer r.close()
	if err := r.openArchives(ctx); err != nil {
		return nil, err
	}
	result := new(Repaired)
	var first []Fault
	for round := 0; ; round++ {
		checked, err := e.Check(ctx, CheckOptions{Deep: true, Report: opts.Report})
		if err != nil {
			return nil, err
		}
		faults := slices.DeleteFunc(slices.Clone(checked.Faults), store.Fault.IsLeftover)
		first = addFaults(first, faults)
		result.Checked = checked
		progress := false
		if round < repairRounds {
			progress = r.mendAll(ctx, faults)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !progress {
			for _, f := range first {
				if !slices.ContainsFunc(faults, func(left Fault) bool { return left.Path == f.Path }) {
					result.Mended = append(result.Mended, f)
				}
			}
			for _, f := range faults {
				result.Left = append(result.Left, Unmended{f, r.whys[f.Path]})
			}
			return result, nil
		}
	}
}

func addFaults(all, more []Fault) []Fault {
	for _, f := range more {
		if !slices.ContainsFunc(all, func(have Fault) bool { return have.Path == f.Path }) {
			all = append(all, f)
		}
	}
	return all
}

// repair is Repair at work.
type repair struct {
	engine   *Engine
	opts     RepairOptions
	archives []archived
	pairs    []pairing
	whys     map[string]error // by path: why something could not be mended
}

// mendAll tries to mend each fault, and tells whether any could be. What others are made of comes first.
func (r *repair) mendAll(ctx context.Context, faults []Fault) bool {
	slices.SortStableFunc(faults, func(a, b Fault) int { return rank(a) - rank(b) })
	progress := false
	for _, f := range faults {
		if ctx.Err() != nil {
			return false
		}
		r.pairs = r.engine.pairings() // what was mended may tell more
		err := r.mend(ctx, f)
		r.whys[f.Path] = err
		progress = progress || err == nil
	}
	return progress
}

func rank(f Fault) int {
	switch {
	case f.Kind == store.KindBlob:
		return 1
	case f.Kind != store.KindLayer && f.Kind != store.KindRemnant:
		return 0
	case f.Kind == store.KindRemnant:
		return 2
	}
	switch f.Part {
	case "", store.PartHoles:
		return 3
	case partIndex:
		return 5
	case partContents, partSums:
		return 6
	default:
		return 4
	}
}

// mend mends one thing.
func (r *repair) mend(ctx context.Context, f Fault) error {
	switch f.Kind {
	case store.KindImage, store.KindEntry, store.KindRecipe:
		return r.mendRecord(ctx, f)
	case store.KindContainer:
		return r.mendContainer(ctx, f)
	case store.KindBlob:
		return r.mendBlob(ctx, image.Digest(f.ID))
	case store.KindRemnant:
		return r.engine.Store.MendRemnant(f.ID)
	case store.KindLayer:
		return r.mendLayer(ctx, image.Digest(f.ID), f.Part)
	case store.KindInit, store.KindVolume, store.KindPartial, store.KindFile:
	}
	return store.ErrNoSource
}

func (r *repair) mendLayer(ctx context.Context, diffID image.Digest, part string) error {
	l, err := r.engine.Store.Layer(diffID)
	if err != nil || part == "" || part == store.PartHoles {
		return r.replaceLayer(ctx, diffID)
	}
	switch part {
	case partIndex:
		err := r.mendIndex(ctx, l)
		if !errors.Is(err, store.ErrDigest) && !errors.Is(err, store.ErrDamaged) {
			return err
		}
		// Without an index, the check did not look at the tar.
		if err := r.mendOwn(ctx, l); err != nil {
			return err
		}
		return r.mendIndex(ctx, l)
	case partContents:
		return r.engine.RebuildContents(diffID)
	case partSums:
		return r.mendSums(ctx, l)
	}
	return r.mendOwn(ctx, l)
}

// mendOwn mends a layer's own file, or else gets all of the layer anew.
func (r *repair) mendOwn(ctx context.Context, l store.Layer) error {
	err := r.mendTar(ctx, l)
	if errors.Is(err, store.ErrDamaged) {
		return r.replaceLayer(ctx, l.DiffID)
	}
	return err
}

// mendRecord mends the record of an image, an entry or a recipe.
func (r *repair) mendRecord(ctx context.Context, f Fault) error {
	lock, err := r.engine.Store.Shared(ctx)
	if err != nil {
		return err
	}
	return errors.Join(r.engine.Store.MendRecord(lock, f, r.namedInArchive), lock.Unlock())
}

// mendContainer mends a container's record, its name, or its state: of one that does not run, a state that
// is lost is no more than an exit status.
func (r *repair) mendContainer(ctx context.Context, f Fault) error {
	if strings.HasPrefix(f.Path, "names/") {
		c, err := r.engine.Store.Container(f.ID)
		if err != nil {
			return r.findContainerName(f.ID)
		}
		return r.engine.Store.MendName(c)
	}
	err := r.mendRecord(ctx, f)
	if !errors.Is(err, store.ErrNoSource) || f.Part != "state.json" {
		return err
	}
	c, err := r.engine.Store.Container(f.ID)
	if err != nil {
		return err
	}
	lock, err := c.Lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock() //nolint:errcheck // nothing was written to it
	found := &Container{Container: c}
	found.readSettings()
	if running, err := container.HasCgroup(found.cgroupPath()); err != nil || running {
		return errors.Join(err, fmt.Errorf("%w: it may be running (end it first)", store.ErrNoSource))
	}
	info, err := os.Stat(filepath.Join(c.Dir(), "state.json"))
	if err != nil {
		return err
	}
	return c.WriteState(ContainerState{Status: StatusExited, ExitCode: exitLost, StartedAt: info.ModTime()})
}

func (r *repair) findContainerName(name string) error {
	containers, err := r.engine.Store.Containers()
	if err != nil {
		return err
	}
	for _, c := range containers {
		if c.Damaged == nil && c.Name == name {
			return r.engine.Store.MendName(c)
		}
	}
	return store.ErrNoSource
}

// pairing says that a manifest in the store has a blob for a layer, and where the image is from.
type pairing struct {
	blob   image.Descriptor
	diffID image.Digest
	image  store.Image
}

// pairings lists all that can be read; what cannot, tells nothing.
func (e *Engine) pairings() []pairing {
	records, err := e.Store.ReadableImages()
	if err != nil {
		return nil
	}
	var pairs []pairing
	for _, record := range records {
		manifest, err := e.Store.Manifest(record.Manifest)
		if err != nil {
			continue
		}
		config, err := e.Store.Config(record.ID)
		if err != nil || len(config.RootFS.DiffIDs) != len(manifest.Layers) {
			continue
		}
		for i, blob := range manifest.Layers {
			pairs = append(pairs, pairing{blob, config.RootFS.DiffIDs[i], record})
		}
	}
	return pairs
}
