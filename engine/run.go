package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// RunOptions says what container to run.
type RunOptions struct {
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
	Volumes     []string // [SOURCE:]DEST[:OPTIONS]
	Tmpfs       []string // DEST[:OPTIONS]
	SecurityOpt []string
	Network     string // NetworkNone or NetworkHost

	Pull        PullPolicy // when to ask the registry for the image; "" is never
	PullOptions PullOptions

	ReadOnly    bool // the root file system
	Remove      bool // the container when it ends
	Interactive bool // it gets Stdin
	Terminal    bool // it gets a terminal of its own
	SigProxy    bool // it gets the signals that this process gets

	Stdin, Stdout, Stderr *os.File

	// Reserved is what Reserve has given, or nil. Run uses it up.
	Reserved *Reservation
}

// Reserve readies a thread for a container to be run, while it is being found out which.
func Reserve() *Reservation { return container.Reserve() }

// Reservation is a thread that waits for a container.
type Reservation = container.Container

// Run runs a container to its end and gives its exit status: that of its first process, or 128 and
// the number of the signal that ended it. With an error, the status is what tells why there is
// none of the container's: see [ExitStatus].
//
// The container ends with this process, whatever kills it.
func (e *Engine) Run(ctx context.Context, opts RunOptions) (status int, err error) {
	streams := &attachment{
		Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr,
		interactive: opts.Interactive, terminal: opts.Terminal,
	}
	stop := streams.catch(opts.SigProxy)
	defer stop()
	l, err := newLaunch(&opts)
	defer func() { err = errors.Join(err, l.made.Close()) }()
	if err != nil {
		return 0, err
	}
	if err := e.create(ctx, l, &opts); err != nil {
		return 0, err
	}
	process, lock, err := e.start(ctx, l, streams)
	// The container is to be cleaned up even if this is interrupted.
	cleanup := context.WithoutCancel(ctx)
	if err != nil {
		state := ContainerState{Status: StatusCreated, ExitCode: container.ExitCode(err), Error: err.Error()}
		return 0, errors.Join(err, e.finish(cleanup, l.Container, state))
	}
	// The container does not wait for its record, nor, if it is short, the record for its end.
	recorded := make(chan error, 1)
	go func() { recorded <- l.recordStart(process, lock) }()
	status, err = streams.serve(ctx, process)
	err = errors.Join(err, <-recorded)
	state := l.State
	state.Status, state.Process, state.ExitCode, state.FinishedAt = StatusExited, processID{}, status, time.Now().UTC()
	return status, errors.Join(err, e.finish(cleanup, l.Container, state))
}

// launch is a container on its way from a name to a process.
type launch struct {
	*Container
	id       string
	config   *image.Config
	security security
	spec     *specs.Spec          // as far as it is known
	made     *container.Container // being made from it
}

// newLaunch begins to make a container: its namespaces need not wait for its image.
func newLaunch(opts *RunOptions) (*launch, error) {
	l := &launch{id: newID(), spec: container.DefaultSpec(), made: opts.Reserved}
	if l.made == nil {
		l.made = container.Reserve()
	}
	err := checkNetwork(opts.Network)
	if err != nil {
		return l, err
	}
	if l.security, err = parseSecurity(opts.SecurityOpt); err != nil {
		return l, err
	}
	if l.spec.Hostname, err = hostname(l.id, opts); err != nil {
		return l, err
	}
	l.spec.Linux.CgroupsPath = cgroupPath(l.id)
	setNetwork(l.spec, opts.Network)
	l.made.Make(l.spec)
	return l, nil
}

// ExitStatus gives the exit status that stands for an error of Run, as Docker has it: 127 if the
// program was not found, 126 if it cannot be executed, otherwise 125.
func ExitStatus(err error) int { return container.ExitCode(err) }

// create records a new container of the image, which is fetched if that is wanted. From then on the image
// and its layers stay.
func (e *Engine) create(ctx context.Context, l *launch, opts *RunOptions) error {
	if opts.Pull == PullAlways && !isBase(opts.Image) {
		if _, err := e.Pull(ctx, opts.Image, opts.PullOptions); err != nil {
			return err
		}
	}
	err := e.createOf(ctx, l, opts)
	if !errors.Is(err, ErrNoImage) {
		return err
	}
	switch {
	case isBase(opts.Image):
		_, err = e.imageOrBase(ctx, opts.Image)
	case opts.Pull == PullMissing:
		if _, pullErr := e.Pull(ctx, opts.Image, opts.PullOptions); pullErr != nil {
			err = fmt.Errorf("%w: %s is not here, and cannot be pulled: %w", ErrNoImage, opts.Image, pullErr)
		} else {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	return e.createOf(ctx, l, opts)
}

func (e *Engine) createOf(ctx context.Context, l *launch, opts *RunOptions) (err error) {
	lock, err := e.Store.Shared(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	img, err := e.Image(opts.Image)
	if err != nil {
		return err
	}
	if err := checkPlatform(img); err != nil {
		return err
	}
	settings, err := newSettings(l.spec.Hostname, img, opts)
	if err == nil {
		err = e.locateVolumes(settings.Mounts)
	}
	if err != nil {
		return err
	}
	fillSpec(l.spec, e.Store.ContainerDir(l.id), &settings)
	l.spec.Process.NoNewPrivileges = l.security.noNewPrivileges
	l.made.MakeMounts()
	raw, err := json.Marshal(settings)
	if err != nil {
		return err
	}
	record, err := e.createNamed(lock, opts.Name, store.ContainerRecord{
		ID: l.id, Manifest: img.Manifest, ImageID: img.ID, ImageName: opts.Image, Created: time.Now().UTC(), Config: raw,
	}, !opts.Remove)
	if err != nil {
		return err
	}
	l.config = img.Config
	l.Container = &Container{Container: record, Settings: settings, State: ContainerState{Status: StatusCreated}}
	return nil
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

func checkPlatform(img *Image) error {
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

// start starts a new container's process. Without an error the container is locked until that is
// recorded; with one, nothing of it runs.
func (e *Engine) start(ctx context.Context, l *launch, streams *attachment) (*container.Process, *store.Lock, error) {
	lock, err := l.Lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	process, err := e.startLocked(ctx, l, streams)
	if err != nil {
		return nil, nil, errors.Join(err, lock.Unlock())
	}
	return process, lock, nil
}

func (e *Engine) startLocked(ctx context.Context, l *launch, streams *attachment) (*container.Process, error) {
	root, err := e.mountContainer(ctx, l.Container.Container, l.config, true, l.Settings.Host.AutoRemove)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := e.prepareMounts(l.Container, root); err != nil {
		return nil, err
	}
	if err := writeNetworkFiles(l.Container.Container, &l.Settings); err != nil {
		return nil, err
	}
	if err := setUser(l.spec, root, l.Settings.Config.User); err != nil {
		return nil, err
	}
	return l.startProcess(ctx, root, streams)
}

func (l *launch) startProcess(ctx context.Context, root *os.File, streams *attachment) (_ *container.Process, err error) {
	cfg := container.Config{Root: root, DieWithParent: true}
	if cfg.Seccomp, err = l.security.filter(l.spec); err != nil {
		return nil, err
	}
	defer streams.closeFiles()
	if err := streams.prepare(l.spec, &cfg); err != nil {
		return nil, err
	}
	// A signal that comes now is for the container: a moment later it would be passed on.
	return l.made.Start(context.WithoutCancel(ctx), cfg)
}

// recordStart writes down that the container runs, and unlocks it. One that cannot be recorded is
// killed: nobody would find it.
func (l *launch) recordStart(process *container.Process, lock *store.Lock) (err error) {
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	l.State = ContainerState{Status: StatusRunning, StartedAt: time.Now().UTC()}
	l.State.Process, err = identify(process.Pid())
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err == nil {
		err = l.WriteState(l.State)
	}
	if err != nil {
		err = errors.Join(err, ignoreDone(process.Signal(killSignal)))
	}
	return err
}

func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// finish records how a container ended, or removes it.
func (e *Engine) finish(ctx context.Context, c *Container, state ContainerState) (err error) {
	lock, err := c.Lock(ctx)
	if errors.Is(err, os.ErrNotExist) {
		return nil // removed by someone else, who ended it
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	c.State = state
	switch {
	case c.gone():
		return nil
	case c.Settings.Host.AutoRemove:
		return e.discard(ctx, c)
	default:
		return c.WriteState(state)
	}
}
