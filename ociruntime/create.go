package ociruntime

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sys"
)

// creation is how a container is created.
type creation struct {
	output
	id           string
	bundle       string
	keepKeyring  bool
	noPivot      bool
	systemd      bool   // its cgroup is systemd's to name
	wait, detach bool   // it waits for start; it is left alone
	ready        func() // called before there is a process
}

func (c *creation) addFlags(flags *flag.FlagSet) {
	c.output.addFlags(flags)
	flags.StringVar(&c.bundle, "bundle", ".", "`directory` of the bundle")
	flags.StringVar(&c.bundle, "b", ".", "`directory` of the bundle")
	flags.BoolVar(&c.keepKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	flags.BoolVar(&c.noPivot, "no-pivot", false, "for hosts that run from a ramdisk: do not pivot to the root")
}

func create(ctx context.Context, r *runtime, args []string) (int, error) {
	c := creation{wait: true, detach: true, ready: func() {}}
	flags := newFlags("create")
	c.addFlags(flags)
	rest, err := parse(flags, args, 1, 1)
	if err != nil {
		return 1, err
	}
	if status, done, err := r.asRoot(ctx, 0); done {
		return status, err
	}
	c.id = rest[0]
	h, _, _, err := r.create(ctx, &c)
	if err != nil {
		return 1, err
	}
	h.close()
	return 0, nil
}

// create makes a container, and gives it locked. Its process waits, or runs; when an error is
// returned nothing is left.
func (r *runtime) create(ctx context.Context, c *creation) (_ *held, spec *specs.Spec, p *container.Process, err error) {
	if c.bundle, err = filepath.Abs(c.bundle); err != nil {
		return nil, nil, nil, err
	}
	made := container.Reserve() // its thread finds its way while the specification is read
	defer func() { err = errors.Join(err, made.Close()) }()
	spec, text, err := readSpec(filepath.Join(c.bundle, configFile))
	if err != nil {
		return nil, nil, nil, err
	}
	c.systemd = r.systemd
	if err := c.check(spec); err != nil {
		return nil, nil, nil, err
	}
	unit, err := r.makeScope(ctx, c.id, spec)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() { r.log.warn(unit.close()) }()
	for _, warning := range container.Warnings(spec) {
		r.log.warn(warning)
	}
	h, err := r.add(c.id)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, abandon(p), h.discard(p != nil))
			h.close()
		}
	}()
	h.record = record{
		Version: specs.Version, ID: c.id, Bundle: c.bundle, Cgroup: spec.Linux.CgroupsPath, Created: time.Now().UTC(),
		Owner: owner(), Annotations: spec.Annotations,
	}
	if h.Rootfs, err = rootfs(c.bundle, spec); err != nil {
		return nil, nil, nil, err
	}
	if p, err = c.start(ctx, h, spec, made); err != nil {
		return nil, nil, nil, err
	}
	if err := c.publish(h, p, text); err != nil {
		return nil, nil, p, err
	}
	if _, ok := rootlessUser(); ok {
		r.log.warn(checkCgroup(h.Cgroup))
	}
	return h, spec, p, nil
}

// check completes a specification.
func (c *creation) check(spec *specs.Spec) error {
	if spec.Process == nil || spec.Linux == nil {
		return errors.New("config.json: process or linux is missing")
	}
	if spec.Linux.CgroupsPath == "" && !c.systemd {
		// Beside the own one, where who is not root may have some.
		spec.Linux.CgroupsPath = "tarn-" + c.id
		if _, ok := rootlessUser(); !ok {
			spec.Linux.CgroupsPath = "/" + spec.Linux.CgroupsPath
		}
	}
	return fitRootless(spec)
}

// start makes the container and its process.
func (c *creation) start(ctx context.Context, h *held, spec *specs.Spec, made *container.Container) (p *container.Process, err error) {
	cfg, err := c.prepare(spec.Process, c.detach)
	if err != nil {
		return nil, err
	}
	cfg.KeepKeyring, cfg.Outlives, cfg.NoPivot = c.keepKeyring, c.detach, c.noPivot
	cfg.State = h.hookState("")
	if c.wait {
		if cfg.Hold, err = h.makeGate(); err != nil {
			return nil, err
		}
		defer cfg.Hold.Close()
		if cfg.Failure, err = os.OpenFile(h.file(failedFile), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
			return nil, err
		}
		defer cfg.Failure.Close()
	}
	made.Make(spec)
	if cfg.Root, err = container.OpenRoot(h.Rootfs); err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	defer cfg.Root.Close()
	c.ready()
	return made.Start(ctx, cfg)
}

// makeGate makes the fifo the container's process waits at, and opens it for it: for reading and
// writing, so that who waits is not woken by nobody being at the other end.
func (h *held) makeGate() (*os.File, error) {
	const perm = 0o600
	if err := sys.MakeNode(h.lock, startFile, sys.TypeFifo|perm, 0, 0); err != nil {
		return nil, err
	}
	return os.OpenFile(h.file(startFile), os.O_RDWR, 0)
}

// publish makes a container known whose process is there.
func (c *creation) publish(h *held, p *container.Process, config []byte) error {
	h.Pid = p.Pid()
	st, err := readStat(h.Pid)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it has ended already, as "run" may see it
		return fmt.Errorf("the container's process %d: %w", h.Pid, err)
	}
	h.PidStarted = st.started
	if err := c.sendTerminal(p); err != nil {
		return err
	}
	if err := h.save(config); err != nil {
		return err
	}
	return writePidFile(c.pidFile, h.Pid)
}

func writePidFile(path string, pid int) error {
	if path == "" {
		return nil
	}
	if err := atomicfile.Replace(path, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("pid file: %w", err)
	}
	return nil
}

// abandon ends a process that nobody is to know of.
func abandon(p *container.Process) error {
	if p == nil {
		return nil
	}
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_, err := p.Wait()
	return err
}

// discard removes a container that was not created after all.
func (h *held) discard(started bool) error {
	if started {
		return h.destroy()
	}
	return h.remove()
}

func start(ctx context.Context, r *runtime, args []string) (int, error) {
	rest, err := parse(newFlags("start"), args, 1, 1)
	if err != nil {
		return 1, err
	}
	h, err := r.hold(rest[0])
	if err != nil {
		return 1, err
	}
	defer h.close()
	gate, err := openGate(h.file(startFile))
	if err != nil {
		return 1, h.cannotStart(r, err)
	}
	defer gate.Close()
	spec, _, err := readSpec(h.file(configFile))
	if err != nil {
		return 1, err
	}
	if spec.Hooks != nil && len(spec.Hooks.StartContainer) > 0 && os.Geteuid() != 0 {
		h.close() // for the one that is root
		status, _, err := r.asRoot(ctx, h.Pid)
		return status, err
	}
	if err := container.StartContainerHooks(ctx, spec, h.hookState(specs.StateCreated)); err != nil {
		return 1, errors.Join(err, h.end(ctx))
	}
	if _, err := gate.Write([]byte{0}); err != nil {
		return 1, fmt.Errorf("start %s: %w", h.ID, err)
	}
	// The process has the fifo open until its exec.
	if err := sys.AwaitNoReader(ctx, gate); err != nil {
		return 1, err
	}
	failure, err := os.Open(h.file(failedFile))
	if err != nil {
		return 1, err
	}
	defer failure.Close()
	if err := container.HeldFailure(failure, spec.Process.Args[0]); err != nil {
		return 1, fmt.Errorf("start %s: %w", h.ID, err)
	}
	r.log.warn(container.PoststartHooks(ctx, spec, h.hookState(specs.StateRunning)))
	return 0, nil
}

// cannotStart says why nobody waits for start.
func (h *held) cannotStart(r *runtime, cause error) error {
	status, err := r.status(h.record)
	if err != nil {
		return errors.Join(cause, err)
	}
	if status == specs.StateCreated {
		return fmt.Errorf("start %s: %w", h.ID, cause)
	}
	return fmt.Errorf("cannot start %s: it is %s", h.ID, status)
}
