package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

var (
	// ErrNoContainer is wrapped by errors about a container that is not there.
	ErrNoContainer = errors.New("no such container")
	// ErrRunning is wrapped when something cannot be done to a container that runs.
	ErrRunning = errors.New("container is running")
	// ErrNotRunning is wrapped when something can be done only to a container that runs.
	ErrNotRunning = errors.New("container is not running")
)

// Container is a container with what is known of it.
type Container struct {
	*store.Container
	Settings ContainerSettings
	State    ContainerState

	image *image.Config // nil if it was not needed yet, see Engine.config
}

// ContainerSettings is what a container was made with. Only an update changes it.
type ContainerSettings struct {
	Config image.RunConfig // the image's, as the command line changed it
	Path   string          // the program
	Args   []string        // its arguments
	Host   HostConfig
	Mounts []MountPoint
	// Networks are those that Host.NetworkMode names, with what it is in them.
	Networks []NetworkSetting `json:",omitempty"`

	Terminal    bool // the process has a terminal of its own
	Interactive bool // the process reads the input of who ran it
	// Owner is the process that makes and runs the container, if that is one. When it is gone, so is
	// a container that was to be removed at its end.
	Owner processID
}

// HostConfig is the part of a container's settings that does not come from an image, with
// Docker's names.
type HostConfig struct {
	ContainerIDFile string `json:",omitempty"`
	NetworkMode     string // NetworkNone, NetworkHost, "container:ID", or the first network
	RestartPolicy   RestartPolicy
	LogConfig       LogConfig
	Init            bool `json:",omitempty"` // a small program is the first process, and the container's its child
	AutoRemove      bool
	ReadonlyRootfs  bool
	Binds           []string          `json:",omitempty"`
	Tmpfs           map[string]string `json:",omitempty"`
	SecurityOpt     []string          `json:",omitempty"`
	VolumesFrom     []string          `json:",omitempty"`

	PortBindings    map[string][]PortBinding `json:",omitempty"` // by the container's ports ("80/tcp")
	PublishAllPorts bool
	DNS             []string `json:"Dns,omitempty"`
	DNSSearch       []string `json:"DnsSearch,omitempty"`
	DNSOptions      []string `json:"DnsOptions,omitempty"`
	ExtraHosts      []string `json:",omitempty"`
	Resources
	Isolation
}

// MountPoint is a volume, a directory or file of the host, or a tmpfs in a container, with Docker's
// names.
type MountPoint struct {
	Type        string // "bind", "volume" or "tmpfs"
	Name        string `json:",omitempty"` // of a volume
	Source      string // on the host; "" for a tmpfs
	Destination string // in the container
	Mode        string // as the user wrote the options
	RW          bool
	Propagation string
	Anonymous   bool `json:",omitempty"` // a volume without a name of its own: it goes with the container
	NoCopy      bool `json:",omitempty"` // a new volume does not begin with what the image has there
	MountTuning
}

// Statuses of containers.
const (
	StatusCreated    = "created"
	StatusRunning    = "running"
	StatusPaused     = "paused" // running, but its processes stand still
	StatusRestarting = "restarting"
	StatusExited     = "exited"
	StatusDamaged    = "damaged" // its record cannot be read: it can only be removed
)

// Statuses lists those that a filter knows.
func Statuses() []string {
	return []string{StatusCreated, StatusRunning, StatusPaused, StatusRestarting, StatusExited, StatusDamaged}
}

// exitLost is the exit status of a container whose end nobody saw, because tarn was killed or the
// machine went down; Docker's is the same.
const exitLost = 255

// ContainerState is how a container is.
type ContainerState struct {
	Status     string
	Process    processID // the first process, if Status is StatusRunning
	Owner      processID // who waits for that, or is about to start it; none if nobody does
	ExitCode   int
	Error      string    `json:",omitempty"` // why it could not be started
	StartedAt  time.Time // zero: never
	FinishedAt time.Time // zero: not yet, or it is not known
	OOMKilled  bool      `json:",omitempty"` // the kernel killed a process of it for want of memory

	Paused bool `json:",omitempty"`
	// Stopped says that somebody has asked for its end: then it is not started again.
	Stopped bool `json:",omitempty"`
	// Kept says that it stays although it is to be removed at its end: it is about to be started again.
	Kept bool `json:",omitempty"`

	RestartCount int           `json:",omitempty"` // since somebody started it
	RestartDelay time.Duration `json:",omitempty"` // before the latest of these starts

	recorded bool // this was read from the disk
}

// container finds a container by name, ID, or the beginning of an ID.
func (e *Engine) container(ctx context.Context, key string) (*Container, error) {
	record, err := e.Store.Container(key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noContainer(key)
	}
	if err != nil {
		return nil, err
	}
	return e.loadContainer(ctx, record)
}

// containerByID finds a container, and takes its state as it is: for its monitor.
func (e *Engine) containerByID(id string) (*Container, error) {
	record, err := e.Store.Container(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noContainer(id)
	}
	if err != nil {
		return nil, err
	}
	c := &Container{Container: record, State: ContainerState{Status: StatusCreated}}
	if c.readSettings(); c.Damaged != nil {
		return nil, c.Damaged
	}
	return c, errors.Join(e.relocateVolumes(c), c.reload())
}

// loadContainer reads the state, and corrects what it says if that is not so any more.
func (e *Engine) loadContainer(ctx context.Context, record *store.Container) (*Container, error) {
	c := &Container{Container: record, State: ContainerState{Status: StatusCreated}}
	if c.readSettings(); c.State.Status == StatusDamaged {
		return c, nil
	}
	if err := errors.Join(e.relocateVolumes(c), c.reload()); err != nil {
		return nil, err
	}
	return c, errors.Join(c.settleFrozen(), c.settle(ctx))
}

// settleTime bounds how long a look at a container waits for what is about to be written down.
const settleTime = time.Second

// settle lets the container's own tarn write down what has just happened: that it runs, for which it
// has the container's lock, or how it ended. Otherwise who is told by a container that it is there
// would not find it.
func (c *Container) settle(ctx context.Context) error {
	if c.State.Status != StatusCreated && !c.lost() || !c.owner().alive() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if c.lost() {
		c.awaitRecord(ctx)
		return c.reload()
	}
	lock, err := c.Lock(ctx)
	if err != nil {
		return nil // it takes its time, or was removed: then it is as it was seen
	}
	return errors.Join(c.reload(), lock.Unlock())
}

// awaitRecord waits until the end of a process that was recorded is recorded, or nobody is there to do
// so.
func (c *Container) awaitRecord(ctx context.Context) {
	for pause := time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 50*time.Millisecond) {
		var state ContainerState
		if err := c.ReadState(&state); err != nil || state.Status != StatusRunning || !c.owner().alive() {
			return // also if it is gone
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (c *Container) readSettings() {
	if c.Damaged == nil {
		if err := json.Unmarshal(c.Config, &c.Settings); err != nil {
			c.Damaged = fmt.Errorf("container %s: its settings: %w: %w", c.Name, store.ErrDamaged, err)
		}
	}
	// Which networks it is in can change afterwards.
	var changed changedNetworks
	if c.Damaged == nil && c.ReadNetworks(&changed) == nil {
		c.Settings.Networks = changed.Networks
	}
	if c.Damaged != nil {
		c.State.Status = StatusDamaged
	}
}

// reload reads the state again.
func (c *Container) reload() error {
	state := ContainerState{Status: StatusCreated}
	err := c.ReadState(&state)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	state.recorded = err == nil
	if state.Status == StatusRunning && !state.Process.alive() {
		state.Status, state.Process, state.ExitCode, state.Paused = StatusExited, processID{}, exitLost, false
	}
	c.State = state
	return nil
}

// Status gives what Docker says of a container's state, in one word.
func (c *Container) Status() string {
	if c.Running() && c.State.Paused {
		return StatusPaused
	}
	return c.State.Status
}

// Running tells whether the container's first process is there.
func (c *Container) Running() bool { return c.State.Status == StatusRunning }

// lost tells whether the container has ended and nobody has written down how.
func (c *Container) lost() bool {
	return c.State.Status == StatusExited && c.State.ExitCode == exitLost && c.State.FinishedAt.IsZero()
}

// owner is the process that waits for the container's end, or is about to start it; no process if
// there is none.
func (c *Container) owner() processID {
	if c.State.recorded {
		return c.State.Owner
	}
	return c.Settings.Owner
}

// orphaned tells whether there is something left to do for the container, and those who were to do it
// are gone.
func (c *Container) orphaned() bool {
	owner := c.owner()
	switch {
	case c.State.Status == StatusDamaged || owner.alive():
		return false
	case c.Running() || c.lost() || c.State.Status == StatusRestarting:
		return true
	default:
		return owner != processID{} // it was killed before it could start or remove the container
	}
}

// gone tells whether the container was removed since it was found.
func (c *Container) gone() bool {
	_, err := os.Stat(c.Dir())
	return errors.Is(err, os.ErrNotExist)
}

// config gives the config of the container's image.
func (e *Engine) config(c *Container) (*image.Config, error) {
	if c.Damaged != nil {
		return nil, c.Damaged
	}
	if c.image != nil {
		return c.image, nil
	}
	config, err := e.Store.Config(c.ImageID)
	if errors.Is(err, store.ErrNotFound) && c.gone() {
		return nil, noContainer(c.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.Name, err)
	}
	c.image = config
	return config, nil
}
