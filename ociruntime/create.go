package ociruntime

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/container/seccomp"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sys"
)

// creation is how a container is created.
type creation struct {
	id           string
	bundle       string
	pidFile      string
	console      string // a socket that gets the terminal
	preserve     int
	keepKeyring  bool
	wait, detach bool // it waits for start; it is left alone
}

func (c *creation) addFlags(flags *flag.FlagSet) {
	flags.StringVar(&c.bundle, "bundle", ".", "`directory` of the bundle")
	flags.StringVar(&c.bundle, "b", ".", "`directory` of the bundle")
	flags.StringVar(&c.pidFile, "pid-file", "", "write the process ID to `file`")
	flags.StringVar(&c.console, "console-socket", "", "send the terminal to the Unix socket `path`")
	flags.IntVar(&c.preserve, "preserve-fds", 0, "pass on `n` descriptors from 3 on")
	flags.BoolVar(&c.keepKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	flags.BoolFunc("no-pivot", "not supported", func(string) error {
		return errors.New("a root that cannot be pivoted to (a ramfs) is not supported")
	})
}

func create(ctx context.Context, r *runtime, args []string) (int, error) {
	c := creation{wait: true, detach: true}
	flags := newFlags("create")
	c.addFlags(flags)
	rest, err := parse(flags, args, 1, 1)
	if err != nil {
		return 1, err
	}
	c.id = rest[0]
	h, _, err := r.create(ctx, &c)
	if err != nil {
		return 1, err
	}
	h.close()
	return 0, nil
}

// create makes a container, and gives it locked. Its process waits, or runs; when an error is
// returned nothing is left.
func (r *runtime) create(ctx context.Context, c *creation) (_ *held, p *container.Process, err error) {
	if c.bundle, err = filepath.Abs(c.bundle); err != nil {
		return nil, nil, err
	}
	spec, text, err := readSpec(filepath.Join(c.bundle, configFile))
	if err != nil {
		return nil, nil, err
	}
	if err := c.check(spec); err != nil {
		return nil, nil, err
	}
	h, err := r.add(c.id)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, abandon(p), h.remove())
			h.close()
		}
	}()
	h.record = record{
		Version: specs.Version, ID: c.id, Bundle: c.bundle, Cgroup: spec.Linux.CgroupsPath, Created: time.Now().UTC(),
		Owner: os.Geteuid(), Annotations: spec.Annotations,
	}
	if h.Rootfs, err = rootfs(c.bundle, spec); err != nil {
		return nil, nil, err
	}
	if p, err = c.start(ctx, h, spec); err != nil {
		return nil, nil, err
	}
	if err := c.publish(h, p, text); err != nil {
		return nil, p, err
	}
	return h, p, nil
}

// check completes a specification, and refuses what contradicts the command line.
func (c *creation) check(spec *specs.Spec) error {
	if spec.Process == nil || spec.Linux == nil {
		return errors.New("config.json: process or linux is missing")
	}
	switch terminal := spec.Process.Terminal; {
	case terminal && c.detach && c.console == "":
		return errors.New("the container has a terminal: --console-socket must say where it is to go")
	case c.console != "" && (!terminal || !c.detach):
		return errors.New("--console-socket is for a container that has a terminal and is not waited for")
	}
	if spec.Linux.CgroupsPath == "" {
		spec.Linux.CgroupsPath = "/tarn-" + c.id
	}
	fds, err := c.passedFiles(spec.Process)
	c.preserve = fds
	return err
}

// passedFiles gives how many descriptors the container gets: those of a service that systemd listens
// for (sd_listen_fds(3)), and --preserve-fds more. Only what we were started with may be passed on:
// our own files have the close-on-exec flag.
func (c *creation) passedFiles(process *specs.Process) (int, error) {
	n := c.preserve
	if listen, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err == nil && listen > 0 {
		n += listen
		process.Env = append(process.Env, "LISTEN_FDS="+strconv.Itoa(listen), "LISTEN_PID=1")
	}
	for fd := 3; fd < 3+n; fd++ {
		if !sys.IsInherited(fd) {
			return 0, fmt.Errorf("--preserve-fds: there is no descriptor %d", fd)
		}
	}
	return max(n, 0), nil
}

// start makes the container and its process.
func (c *creation) start(ctx context.Context, h *held, spec *specs.Spec) (p *container.Process, err error) {
	cfg := container.Config{KeepFiles: c.preserve, KeepKeyring: c.keepKeyring}
	if !spec.Process.Terminal {
		cfg.Stdin, cfg.Stdout, cfg.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	if cfg.Seccomp, err = compileSeccomp(spec); err != nil {
		return nil, err
	}
	if c.wait {
		if cfg.Hold, err = h.makeGate(); err != nil {
			return nil, err
		}
		defer cfg.Hold.Close()
	}
	made := container.New(spec)
	defer func() { err = errors.Join(err, made.Close()) }()
	if cfg.Root, err = container.OpenRoot(h.Rootfs); err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	defer cfg.Root.Close()
	return made.Start(ctx, cfg)
}

func compileSeccomp(spec *specs.Spec) ([]byte, error) {
	if spec.Linux.Seccomp == nil {
		return nil, nil
	}
	return seccomp.Compile(spec.Linux.Seccomp, goruntime.GOARCH)
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
	if c.console != "" {
		if err := sys.SendFile(c.console, p.Terminal()); err != nil {
			return fmt.Errorf("console socket: %w", err)
		}
		_ = p.Terminal().Close()
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
	if _, err := gate.Write([]byte{0}); err != nil {
		return 1, fmt.Errorf("start %s: %w", h.ID, err)
	}
	// The process has the fifo open until its exec.
	return 0, sys.AwaitNoReader(ctx, gate)
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
