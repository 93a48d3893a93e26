package engine

import (
	"context"
	"errors"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/network"
	"github.com/tarnfs/tarn/network/pasta"
	"github.com/tarnfs/tarn/store"
)

// launch is a container on its way to a process. Each start is a new one; all that it needs is in the
// container's settings.
type launch struct {
	*Container                      // nil as long as it is not recorded
	spec       *specs.Spec          // as far as it is known
	made       *container.Container // being made from it

	networks *network.Networks
	resolver resolver
	wiring   *wiring      // nil if it is in no network
	beside   *pasta.Child // that is to connect it; nil if none is
	around   *surroundings
}

// connection is what a container's standard files, or its terminal, are connected with: this process
// (attachment), or its monitor (background).
type connection interface {
	// prepare fills in the standard files, and what else the connection wants of the start.
	prepare(spec *specs.Spec, cfg *container.Config) error
	// closeFiles closes what only the container needs, which has it by then.
	closeFiles()
}

// newLaunch begins to make a container: its namespaces and its cgroup need not wait for its image.
// The caller closes reserved, and then the launch.
func (e *Engine) newLaunch(ctx context.Context, reserved *Reservation, id, hostname string, host *HostConfig) (_ *launch, err error) {
	l := &launch{spec: container.DefaultSpec(), made: reserved, networks: e.networks}
	if l.around, err = e.surround(ctx, id, host); err != nil {
		return nil, err
	}
	if err := beginSpec(l.spec, id, hostname, host, l.around.network); err != nil {
		l.close()
		return nil, err
	}
	l.around.addTo(l.spec)
	if isPasta(host.NetworkMode) {
		l.made.Beside(func() { l.beside, err = pasta.Begin() })
		if err != nil {
			l.close()
			return nil, err
		}
	}
	l.made.Make(l.spec)
	return l, nil
}

// close lets go of what only the start needed.
func (l *launch) close() {
	l.around.close()
	if l.wiring == nil {
		l.beside.Discard()
	}
}

// complete goes on when all is known of the container; its record may not be there yet. dir is its
// directory.
func (l *launch) complete(dir string, c *Container) error {
	l.Container = c
	if err := fillSpec(l.spec, dir, &c.Settings); err != nil {
		return err
	}
	l.around.mapMounts(l.spec, &c.Settings)
	l.made.MakeMounts()
	return nil
}

// start starts a container's process. Without an error the container is locked until that is
// recorded; with one, nothing of it runs.
func (e *Engine) start(ctx context.Context, l *launch, streams connection) (*container.Process, *store.Lock, error) {
	lock, err := l.Lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	process, err := e.startLocked(ctx, l, streams)
	if err != nil {
		return nil, nil, errors.Join(err, l.unwire(), lock.Unlock())
	}
	return process, lock, nil
}

func (e *Engine) startLocked(ctx context.Context, l *launch, streams connection) (*container.Process, error) {
	if err := l.wire(ctx); err != nil {
		return nil, err
	}
	root, err := e.mountForStart(ctx, l)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := l.writeNetworkFiles(); err != nil {
		return nil, err
	}
	if err := setUser(l.spec, root, l.Settings.Config.User, l.Settings.Host.GroupAdd); err != nil {
		return nil, err
	}
	return l.startProcess(ctx, root, streams)
}

func (l *launch) startProcess(ctx context.Context, root *os.File, streams connection) (_ *container.Process, err error) {
	cfg := container.Config{Root: root, DieWithParent: true, Ready: l.around.ready()}
	security, err := parseSecurity(l.Settings.Host.SecurityOpt)
	if err != nil {
		return nil, err
	}
	if cfg.Seccomp, err = l.Settings.Host.filter(&security, l.spec); err != nil {
		return nil, err
	}
	if err := l.awaitLinks(); err != nil {
		return nil, err
	}
	defer streams.closeFiles()
	if err := streams.prepare(l.spec, &cfg); err != nil {
		return nil, err
	}
	// A signal that comes now is for the container: a moment later it would be passed on.
	process, err := l.made.Start(context.WithoutCancel(ctx), cfg)
	return process, l.Settings.Host.explainLimits(err)
}

// recordStart writes down that the container runs, and unlocks it. One that cannot be recorded is
// killed: nobody would find it.
func (l *launch) recordStart(process *container.Process, lock *store.Lock) (err error) {
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	l.State = ContainerState{Status: StatusRunning, StartedAt: time.Now().UTC(), Owner: l.Settings.Owner}
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
