package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// CreateOptions says what container to make. What of it counts later is kept in its [ContainerSettings].
type CreateOptions struct {
	Image   string   // name or ID
	Command []string // else the image's

	Name        string  // else one is made up
	Hostname    string  // else the beginning of the ID
	User        string  // "name", "uid", "name:group" and so on; else the image's
	WorkDir     string  // else the image's
	Entrypoint  *string // else the image's; "" for none
	Env         []string
	EnvFiles    []string
	Labels      []string
	LabelFiles  []string
	Volumes     []string // [SOURCE:]DEST[:OPTIONS]
	Tmpfs       []string // DEST[:OPTIONS]
	Mounts      []string // "type=KIND,KEY=VALUE,..."
	VolumesFrom []string // CONTAINER[:ro|rw]
	SecurityOpt []string
	NetworkOptions

	Resources ResourceOptions
	Isolation IsolationOptions

	StopSignal  string         // else the image's, else SIGTERM
	StopTimeout *time.Duration // until it is killed, in whole seconds; else the image's, else 10 s
	Health      HealthOptions
	Restart     RestartPolicy
	Log         LogConfig
	Init        bool   // a small program is the first process, and waits for orphans
	CIDFile     string // where the ID is written; it must not be there yet

	Platform    image.Platform // that the image is to be of; zero: this machine's, if there is a choice
	Pull        PullPolicy     // when to ask the registry for the image; "" is never
	PullOptions PullOptions

	ReadOnly    bool // the root file system
	Remove      bool // the container when it ends
	Interactive bool // its process has an input
	Terminal    bool // it gets a terminal of its own
}

// Create makes a container, which [Engine.Start] can start, and gives its ID.
func (e *Engine) Create(ctx context.Context, opts CreateOptions) (id string, err error) {
	d, err := e.newCreation(ctx, &opts)
	if err != nil {
		return "", err
	}
	c, err := e.create(ctx, d, nil)
	if err != nil {
		return "", err
	}
	return d.id, errors.Join(d.writeID(), e.emit(c, "create"))
}

// creation is a container to be: what is known of it before its image is.
type creation struct {
	id       string
	opts     *CreateOptions
	hostname string
	host     HostConfig
	networks []NetworkSetting
	owner    processID // who makes it, if it is gone without that process
}

// newCreation checks all options that can be checked without the image.
func (e *Engine) newCreation(ctx context.Context, opts *CreateOptions) (*creation, error) {
	d := &creation{id: newID(), opts: opts, host: hostConfig(opts)}
	var err error
	if d.networks, err = e.networkSettings(ctx, &opts.NetworkOptions, &d.host); err != nil {
		return d, err
	}
	if err := d.host.isolate(opts); err != nil {
		return d, err
	}
	if d.hostname, err = e.hostname(ctx, d); err != nil {
		return d, err
	}
	if opts.StopSignal != "" {
		if _, err := parseSignal(opts.StopSignal); err != nil {
			return d, err
		}
	}
	if opts.Remove && opts.Restart.Name != RestartNo && opts.Restart.Name != "" {
		return d, fmt.Errorf("%w: a container that is removed at its end cannot be started again: leave out --rm or --restart", ErrOption)
	}
	if opts.CIDFile != "" {
		if _, err := os.Lstat(opts.CIDFile); !errors.Is(err, fs.ErrNotExist) {
			return d, errors.Join(fmt.Errorf("%w: --cidfile %s: remove it first, if its container is gone", os.ErrExist, opts.CIDFile), err)
		}
	}
	return d, nil
}

// writeID writes the container's ID where that was asked for.
func (d *creation) writeID() error {
	if d.opts.CIDFile == "" {
		return nil
	}
	f, err := os.OpenFile(d.opts.CIDFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(d.id)
	return errors.Join(err, f.Close())
}

// create records a new container of the image, which is fetched if that is wanted. From then on the image
// and its layers stay. ready, if there is one, is called when all is known of the container, before it
// is recorded.
func (e *Engine) create(ctx context.Context, d *creation, ready func(*Container) error) (*Container, error) {
	opts := d.opts
	if opts.Pull == PullAlways && !isBase(opts.Image) {
		if _, err := e.Pull(ctx, opts.Image, opts.PullOptions); err != nil {
			return nil, err
		}
	}
	c, err := e.createOf(ctx, d, ready)
	if !errors.Is(err, ErrNoImage) {
		return c, err
	}
	switch {
	case isBase(opts.Image):
		err = e.haveImage(ctx, opts.Image)
	case opts.Pull == PullMissing:
		if _, pullErr := e.Pull(ctx, opts.Image, opts.PullOptions); pullErr != nil {
			err = fmt.Errorf("%w: %s is not here, and cannot be pulled: %w", ErrNoImage, opts.Image, pullErr)
		} else {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	return e.createOf(ctx, d, ready)
}

func (e *Engine) createOf(ctx context.Context, d *creation, ready func(*Container) error) (_ *Container, err error) {
	// Containers' locks come before the store's.
	inherited, err := e.volumesFrom(ctx, d.opts.VolumesFrom)
	if err != nil {
		return nil, err
	}
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	img, err := e.Image(d.opts.Image)
	if err != nil {
		return nil, err
	}
	if err := checkPlatform(img, d.opts.Platform); err != nil {
		return nil, err
	}
	settings, err := newSettings(d, img, inherited)
	if err == nil {
		err = e.locateVolumes(settings.Mounts)
	}
	if err != nil {
		return nil, err
	}
	c := &Container{Settings: settings, State: ContainerState{Status: StatusCreated}, image: img.Config}
	if ready != nil {
		if err := ready(c); err != nil {
			return nil, err
		}
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		return nil, err
	}
	c.Container, err = e.createNamed(lock, d.opts.Name, store.ContainerRecord{
		ID: d.id, Manifest: img.Manifest, ImageID: img.ID, ImageName: d.opts.Image, Created: time.Now().UTC(), Config: raw,
	}, !d.host.AutoRemove)
	return c, err
}

// createNamed makes up a name if the user gave none.
func (e *Engine) createNamed(lock *store.Lock, name string, rec store.ContainerRecord, durable bool) (*store.Container, error) {
	rec.Name = name
	if name != "" {
		return e.Store.CreateContainer(lock, rec, durable)
	}
	for tries := range 20 {
		rec.Name = randomName()
		if tries >= 5 {
			rec.Name += "_" + rec.ID[:tries] // most of the names seem to be taken
		}
		c, err := e.Store.CreateContainer(lock, rec, durable)
		if !errors.Is(err, store.ErrExists) {
			return c, err
		}
	}
	return nil, fmt.Errorf("make up a name for the container: %w: use --name", store.ErrExists)
}

func checkPlatform(img *Image, wanted image.Platform) error {
	if has := img.Config.Platform(); wanted.OS != "" && !wanted.Runs(has) {
		return fmt.Errorf("%w: image %s is for %s, not for %s: use --pull always", ErrOption, img.Name, has, wanted)
	}
	platform, host := img.Config.Platform(), image.HostPlatform()
	if platform.OS != host.OS {
		return fmt.Errorf("image %s is for %s, this is %s", img.Name, platform.OS, host.OS)
	}
	return nil
}

// locateVolumes says where the volumes will be.
func (e *Engine) locateVolumes(mounts []MountPoint) error {
	for i, m := range mounts {
		if m.Type != mountVolume {
			continue
		}
		v, err := e.volume(m.Name)
		if errors.Is(err, ErrNoVolume) {
			mounts[i].Source, err = e.Store.VolumePath(m.Name)
		} else if err == nil {
			mounts[i].Source = v.source()
		}
		if err != nil {
			return err
		}
	}
	return nil
}
