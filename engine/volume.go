package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tarnfs/tarn/internal/diskusage"
	"github.com/tarnfs/tarn/store"
)

var (
	// ErrNoVolume is wrapped by errors about a volume that is not there.
	ErrNoVolume = errors.New("no such volume")
	// ErrVolumeInUse is wrapped when a volume cannot be removed because a container has it.
	ErrVolumeInUse = errors.New("volume is in use")
)

// volumeDriver is the only one: a directory of the store, or of the host.
const volumeDriver = "local"

// VolumeOptions says what volume to make.
type VolumeOptions struct {
	Name    string // else one is made up
	Driver  string // "" or "local"
	Labels  []string
	Options []string // of the driver, "key=value"
}

// Volume is a volume with what is known of it.
type Volume struct {
	store.VolumeRecord
	Path    string            // of its contents
	Options map[string]string // of the driver, as they were given
	Users   []string          // IDs of the containers that have it
	Damaged error             // its record cannot be read
}

// CreateVolume makes a volume, and gives its name. One that is there already stays as it is; that is an
// error if it has other options.
func (e *Engine) CreateVolume(ctx context.Context, opts VolumeOptions) (string, error) {
	rec := store.VolumeRecord{Name: opts.Name, Created: time.Now().UTC()}
	if rec.Name == "" {
		rec.Name, rec.Anonymous = newID(), true
	}
	if opts.Driver != "" && opts.Driver != volumeDriver {
		return "", fmt.Errorf("%w: volume driver %q: there is only %s", ErrOption, opts.Driver, volumeDriver)
	}
	options, err := parseVolumeOptions(opts.Options)
	if err != nil {
		return "", err
	}
	if rec.Labels, err = mergeLabels(nil, opts.Labels); err != nil {
		return "", err
	}
	if len(options) > 0 {
		if rec.Options, err = json.Marshal(options); err != nil {
			return "", err
		}
	}
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return "", err
	}
	made, err := e.Store.MakeVolume(rec, true, nil)
	if err = errors.Join(err, lock.Unlock()); err != nil || made {
		return rec.Name, err
	}
	there, err := e.volume(rec.Name)
	if err == nil && !maps.Equal(there.Options, options) {
		err = fmt.Errorf("%w: there is a volume %s with other options", store.ErrExists, rec.Name)
	}
	return rec.Name, err
}

// parseVolumeOptions reads the options of Docker's local driver. Of what that mounts, a directory of the
// host is the only thing that does not need somebody who keeps it mounted.
func parseVolumeOptions(options []string) (map[string]string, error) {
	parsed := make(map[string]string)
	for _, option := range options {
		key, value, found := strings.Cut(option, "=")
		if !found || !slices.Contains([]string{"type", "o", "device"}, key) {
			return nil, fmt.Errorf("%w: volume option %q: use type=none, o=bind and device=DIRECTORY", ErrOption, option)
		}
		parsed[key] = value
	}
	if len(parsed) == 0 {
		return nil, nil //nolint:nilnil // no options are no error
	}
	flags := strings.Split(parsed["o"], ",")
	kind, hasType := parsed["type"]
	bind := slices.Contains(flags, "bind") || slices.Contains(flags, "rbind")
	if hasType && kind != "none" && kind != "" || !bind {
		return nil, fmt.Errorf("%w: volume of type %q: only directories of the host can be volumes (type=none, o=bind): mount it there first, or for a tmpfs use --tmpfs",
			ErrOption, kind)
	}
	for _, flag := range flags {
		if !slices.Contains([]string{"bind", "rbind", "rw"}, flag) {
			return nil, fmt.Errorf("%w: volume option o=%s: give %s where it is mounted", ErrOption, flag, flag)
		}
	}
	if !filepath.IsAbs(parsed["device"]) {
		return nil, fmt.Errorf("%w: volume option device=%q: want an absolute path", ErrOption, parsed["device"])
	}
	return parsed, nil
}

// volume finds a volume, without its users.
func (e *Engine) volume(name string) (*Volume, error) {
	rec, err := e.Store.Volume(name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s (see 'tarn volume ls')", ErrNoVolume, name)
	}
	v := &Volume{VolumeRecord: rec}
	if errors.Is(err, store.ErrDamaged) {
		v.Name, v.Damaged = name, err
	} else if err != nil {
		return nil, err
	}
	if v.Path, err = e.Store.VolumePath(name); err != nil {
		return nil, err
	}
	if len(rec.Options) > 0 {
		if err := json.Unmarshal(rec.Options, &v.Options); err != nil {
			v.Damaged = fmt.Errorf("volume %s: %w: %w", name, store.ErrDamaged, err)
		}
	}
	return v, nil
}

// source is the directory that containers get.
func (v *Volume) source() string {
	if device := v.Options["device"]; device != "" {
		return device
	}
	return v.Path
}

// Volume finds a volume.
func (e *Engine) Volume(ctx context.Context, name string) (*Volume, error) {
	v, err := e.volume(name)
	if err != nil {
		return nil, err
	}
	users, err := e.volumeUsers(ctx)
	v.Users = users[name]
	return v, err
}

// Volumes lists the volumes that the filter selects, by name.
func (e *Engine) Volumes(ctx context.Context, filter VolumeFilter) ([]*Volume, error) {
	names, err := e.Store.Volumes()
	if err != nil {
		return nil, err
	}
	users, err := e.volumeUsers(ctx)
	if err != nil {
		return nil, err
	}
	var list []*Volume
	for _, name := range names {
		v, err := e.volume(name)
		if errors.Is(err, ErrNoVolume) {
			continue // removed just now
		}
		if err != nil {
			return nil, err
		}
		v.Users = users[name]
		if filter.selects(v) {
			list = append(list, v)
		}
	}
	return list, nil
}

// volumeUsers gives the IDs of the containers that have a volume, by its name.
func (e *Engine) volumeUsers(ctx context.Context) (map[string][]string, error) {
	containers, err := e.Containers(ctx, ContainerFilter{All: true})
	if err != nil {
		return nil, err
	}
	users := make(map[string][]string)
	for _, c := range containers {
		for _, m := range c.Settings.Mounts {
			if m.Type == mountVolume && !slices.Contains(users[m.Name], c.ID) {
				users[m.Name] = append(users[m.Name], c.ID)
			}
		}
	}
	return users, nil
}

// recordedUsers is volumeUsers for who holds the store's lock, and so must not wait for containers'. A
// container that cannot be read may have any volume.
func (e *Engine) recordedUsers() (map[string][]string, error) {
	records, err := e.Store.Containers()
	if err != nil {
		return nil, err
	}
	users := make(map[string][]string)
	for _, record := range records {
		c := &Container{Container: record}
		if c.readSettings(); c.Damaged != nil {
			return nil, fmt.Errorf("%w (remove it with 'tarn rm %s')", c.Damaged, c.Name)
		}
		for _, m := range c.Settings.Mounts {
			if m.Type == mountVolume {
				users[m.Name] = append(users[m.Name], c.ID)
			}
		}
	}
	return users, nil
}

// RemoveVolume removes a volume that no container has, with all in it.
func (e *Engine) RemoveVolume(ctx context.Context, name string) error {
	if _, err := e.volume(name); err != nil {
		return err
	}
	// Those that were to be removed at their end are not to be in the way.
	if _, err := e.Containers(ctx, ContainerFilter{All: true}); err != nil {
		return err
	}
	removed, err := e.removeUnused(ctx, true, func(users map[string][]string) ([]string, error) {
		if len(users[name]) > 0 {
			return nil, fmt.Errorf("remove volume %s: %w: container %.12s has it", name, ErrVolumeInUse, users[name][0])
		}
		return []string{name}, nil
	})
	if err == nil && len(removed) == 0 {
		err = fmt.Errorf("%w: %s (see 'tarn volume ls')", ErrNoVolume, name)
	}
	return err
}

// removeUnused removes the volumes that choose gives, while nobody can make a container. It gives the
// names of those that were there. If durable, a power cut does not bring them back.
func (e *Engine) removeUnused(ctx context.Context, durable bool, choose func(users map[string][]string) ([]string, error)) (removed []string, err error) {
	lock, err := e.Store.Exclusive(ctx)
	if err != nil {
		return nil, err
	}
	users, err := e.recordedUsers()
	var names []string
	if err == nil {
		names, err = choose(users)
	}
	for _, name := range names {
		removeErr := e.Store.RemoveVolume(lock, name, durable)
		if removeErr == nil {
			removed = append(removed, name)
		} else if !errors.Is(removeErr, store.ErrNotFound) {
			err = errors.Join(err, removeErr)
		}
	}
	err = errors.Join(err, lock.Unlock())
	if len(removed) > 0 {
		err = errors.Join(err, e.Store.CollectLeftovers()) // may take its time
	}
	return removed, err
}

// PlanPruneVolumes says what PruneVolumes would remove now, by name.
func (e *Engine) PlanPruneVolumes(ctx context.Context, filter VolumeFilter) ([]Lost, error) {
	filter.Dangling = new(true)
	volumes, err := e.Volumes(ctx, filter)
	if err != nil {
		return nil, err
	}
	var losses []Lost
	for _, v := range volumes {
		if !filter.All && !v.Anonymous {
			continue
		}
		bytes, err := diskusage.Of(ctx, filepath.Dir(v.Path))
		if err != nil {
			return nil, err
		}
		losses = append(losses, Lost{Kind: string(store.KindVolume), ID: v.Name, Bytes: bytes})
	}
	return losses, nil
}

// PruneVolumes removes the volumes that no container has and the filter selects; without filter.All only
// those that nobody gave a name. It gives their names and what the disk has back.
func (e *Engine) PruneVolumes(ctx context.Context, filter VolumeFilter) (names []string, freed int64, err error) {
	losses, err := e.PlanPruneVolumes(ctx, filter)
	if err != nil {
		return nil, 0, err
	}
	names, err = e.removeUnused(ctx, true, func(users map[string][]string) (names []string, _ error) {
		for _, l := range losses {
			if len(users[l.ID]) == 0 {
				names = append(names, l.ID)
			}
		}
		return names, nil
	})
	for _, l := range losses {
		if slices.Contains(names, l.ID) {
			freed += l.Bytes
		}
	}
	return names, freed, err
}

// VolumeFilter selects volumes: those that all fields with values select.
type VolumeFilter struct {
	Names    []string // parts of names, alternatives
	Drivers  []string
	Labels   []string // "key" or "key=value", all of them
	Unlabels []string // none of these
	Dangling *bool    // no container has them
	All      bool     // for PruneVolumes
}

// ParseVolumeFilter reads "key=value" options, with Docker's keys.
func ParseVolumeFilter(options []string) (f VolumeFilter, err error) {
	return f, eachFilter(options, func(key, value string) error {
		switch key {
		case "name":
			f.Names = append(f.Names, value)
		case "driver":
			f.Drivers = append(f.Drivers, value)
		case "label":
			f.Labels = append(f.Labels, value)
		case "label!":
			f.Unlabels = append(f.Unlabels, value)
		case "dangling":
			return parseTruth(value, func(yes bool) { f.Dangling = &yes })
		case "all":
			return parseTruth(value, func(yes bool) { f.All = yes })
		default:
			return fmt.Errorf("%w: use name, driver, label, label!, dangling or all", ErrOption)
		}
		return nil
	})
}

func (f *VolumeFilter) selects(v *Volume) bool {
	return (len(f.Names) == 0 || slices.ContainsFunc(f.Names, func(part string) bool { return strings.Contains(v.Name, part) })) &&
		(len(f.Drivers) == 0 || slices.Contains(f.Drivers, volumeDriver)) &&
		(f.Dangling == nil || *f.Dangling == (len(v.Users) == 0)) &&
		hasLabels(v.Labels, f.Labels) &&
		!hasAnyLabel(v.Labels, f.Unlabels)
}

// VolumeReport is a volume as "docker volume inspect" prints it.
type VolumeReport struct {
	CreatedAt  string
	Driver     string
	Labels     map[string]string
	Mountpoint string
	Name       string
	Options    map[string]string
	Scope      string
}

// Report describes the volume.
func (v *Volume) Report() *VolumeReport {
	return &VolumeReport{
		CreatedAt: v.Created.UTC().Format(time.RFC3339), Driver: volumeDriver, Labels: v.Labels, Mountpoint: v.source(), Name: v.Name,
		Options: v.Options, Scope: "local",
	}
}
