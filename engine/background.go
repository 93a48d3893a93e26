package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/monitor"
	"github.com/tarnfs/tarn/network"
)

// background is what a container is connected with that runs on its own: its monitor.
type background struct {
	interactive, terminal bool
	cols, rows            uint16 // of the terminal at first; 0 if nobody is attached

	wiring   *wiring      // its networks; nil for none
	kept     network.Kept // files that are passed on, which nobody may close before
	upstream []netip.AddrPort

	theirs                []*os.File // to be closed when the container has them
	stdin, stdout, stderr *os.File   // the monitor's ends
}

func (b *background) prepare(spec *specs.Spec, cfg *container.Config) (err error) {
	cfg.Heir = true
	if b.terminal {
		if b.cols > 0 {
			spec.Process.ConsoleSize = &specs.Box{Width: uint(b.cols), Height: uint(b.rows)}
		}
		return nil
	}
	if b.interactive {
		if cfg.Stdin, b.stdin, err = os.Pipe(); err != nil {
			return err
		}
		b.theirs = append(b.theirs, cfg.Stdin)
	}
	for _, stream := range []struct{ ours, theirs **os.File }{{&b.stdout, &cfg.Stdout}, {&b.stderr, &cfg.Stderr}} {
		if *stream.ours, *stream.theirs, err = os.Pipe(); err != nil {
			return err
		}
		b.theirs = append(b.theirs, *stream.theirs)
	}
	return nil
}

func (b *background) closeFiles() {
	for _, f := range b.theirs {
		_ = f.Close()
	}
	b.theirs = nil
}

// Descriptors that a monitor begins with.
const (
	reportFD = 3 // where it tells how the start went, see startReport
	clientFD = 4 // a socket of somebody who is attached from the beginning, if it says so
)

// BackgroundOptions say how a monitor is to start its container. They are passed on as arguments.
type BackgroundOptions struct {
	ID         string
	Attached   bool // clientFD is there
	Cols, Rows uint16
	StdinOnce  bool
}

// Background starts a container, and becomes its monitor: it does not return then. It is the start of
// the program that Start executes, whose descriptor 3 says how it went.
func (e *Engine) Background(ctx context.Context, opts BackgroundOptions) error {
	report := os.NewFile(reportFD, "report")
	syscall.CloseOnExec(reportFD)
	var client *os.File
	if opts.Attached {
		syscall.CloseOnExec(clientFD)
		client = os.NewFile(clientFD, "client")
	}
	err := e.startAndStay(ctx, opts, client, report)
	_ = writeReport(report, err)
	return err
}

func (e *Engine) startAndStay(ctx context.Context, opts BackgroundOptions, client, report *os.File) (err error) {
	c, err := e.containerByID(opts.ID)
	if err != nil {
		return err
	}
	lock, err := c.Lock(ctx)
	if err != nil {
		return err
	}
	unlock := func() error { return lock.Unlock() }
	if err := c.startable(); err != nil {
		return errors.Join(err, unlock())
	}
	if c.State.Status != StatusCreated {
		if err := e.release(c); err != nil { // of a start that was killed
			return errors.Join(err, unlock())
		}
	}
	c.State.Stopped, c.State.Kept, c.State.RestartCount, c.State.RestartDelay = false, false, 0, 0
	b := &background{interactive: c.Settings.Interactive, terminal: c.Settings.Terminal, cols: opts.Cols, rows: opts.Rows}
	return e.stay(ctx, c, b, unlock, func() error { return writeReport(report, nil) }, stayOptions{client, opts.StdinOnce})
}

type stayOptions struct {
	client    *os.File
	stdinOnce bool
}

// stay starts a container whose lock is held, and becomes its monitor. It returns if that fails, with the
// lock given up. started is called when the container runs and is recorded.
func (e *Engine) stay(ctx context.Context, c *Container, b *background, unlock, started func() error, opts stayOptions) error {
	before := c.State
	process, socket, err := e.startInBackground(ctx, c, b)
	if err != nil {
		return errors.Join(err, e.notStarted(ctx, c, before, err), unlock())
	}
	// From here on the container is recorded, and who finds its monitor dead ends it.
	err = errors.Join(unlock(), e.emit(c, "start"), started())
	if err == nil {
		err = e.becomeMonitorOf(c, process, b, socket, opts)
	}
	_ = process.Signal(killSignal)
	_, _ = process.Wait()
	return err
}

// notStarted records why a container was not started.
func (e *Engine) notStarted(ctx context.Context, c *Container, before ContainerState, cause error) error {
	if c.Settings.Host.AutoRemove {
		return errors.Join(e.release(c), e.discard(ctx, c))
	}
	c.State = before
	c.State.Owner, c.State.ExitCode, c.State.Error = processID{}, container.ExitCode(cause), cause.Error()
	if c.State.Status != StatusCreated {
		c.State.Status, c.State.FinishedAt = StatusExited, time.Now().UTC()
	}
	return errors.Join(e.release(c), c.WriteState(c.State))
}

// startInBackground starts the container's process and records that. It is recorded before, too, who does so:
// should that be killed, it is known that there is something to clean up.
func (e *Engine) startInBackground(ctx context.Context, c *Container, b *background) (*container.Process, *os.File, error) {
	var err error
	if c.State.Owner, err = identifySelf(); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(c.WriteState(c.State), removeAll(c.exitPath(), c.healthPath())); err != nil {
		return nil, nil, err
	}
	if _, err := e.config(c); err != nil {
		return nil, nil, err
	}
	reserved := Reserve()
	defer reserved.Close() //nolint:errcheck // nothing is made any more when the container is started, and otherwise there is another error
	l, err := e.newLaunch(ctx, reserved, c.ID, c.Settings.Config.Hostname, &c.Settings.Host)
	if err != nil {
		return nil, nil, err
	}
	defer l.close()
	if err := l.complete(c.Dir(), c); err != nil {
		return nil, nil, err
	}
	socket, err := e.listen(c)
	if err != nil {
		return nil, nil, err
	}
	process, err := e.startLocked(ctx, l, b)
	if err != nil {
		return nil, nil, errors.Join(err, l.unwire(), socket.Close())
	}
	b.wiring, b.upstream = l.wiring, l.resolver.upstream
	c.State.Status, c.State.StartedAt, c.State.FinishedAt = StatusRunning, time.Now().UTC(), time.Time{}
	c.State.ExitCode, c.State.Error, c.State.OOMKilled = 0, "", false
	c.State.Process, err = identify(process.Pid())
	if err == nil {
		err = c.WriteState(c.State)
	}
	if err != nil {
		_ = process.Signal(killSignal)
		_, _ = process.Wait()
		return nil, nil, err
	}
	return process, socket, nil
}

func (e *Engine) becomeMonitorOf(c *Container, process *container.Process, b *background, socket *os.File, opts stayOptions) error {
	cfg, err := e.monitorConfig(c, process.Pid())
	if err != nil {
		return err
	}
	cfg.StdinOnce = opts.stdinOnce
	if err := b.keepNetworks(cfg); err != nil {
		return err
	}
	program, err := monitorProgram()
	if err != nil {
		return err
	}
	return become(program, cfg, process, b, socket, opts.client)
}

// keepNetworks has the monitor keep what the container has of networks: its file is locked, its ports are bound, and
// somebody answers when it asks for names, as long as the monitor lives.
func (b *background) keepNetworks(cfg *monitor.Config) error {
	if b.wiring == nil {
		return nil
	}
	kept, err := b.wiring.attachment.Files()
	if err != nil {
		return err
	}
	for _, f := range kept.Held {
		fd, err := sys.KeepOnExec(f)
		if err != nil {
			return err
		}
		cfg.Held = append(cfg.Held, fd)
	}
	for _, p := range kept.Proxied {
		fd, err := sys.KeepOnExec(p.Socket)
		if err != nil {
			return err
		}
		cfg.Proxied = append(cfg.Proxied, monitor.Proxied{Socket: fd, To: p.To})
	}
	b.kept = kept
	if kept.UDP == nil {
		return nil
	}
	cfg.NamesRun, cfg.NameServers = kept.Run, b.upstream
	if cfg.NamesUDP, err = sys.KeepOnExec(kept.UDP); err != nil {
		return err
	}
	cfg.NamesTCP, err = sys.KeepOnExec(kept.TCP)
	return err
}

// become executes the monitor's program. socket and client may be nil.
func become(program []string, cfg *monitor.Config, process *container.Process, b *background, socket, client *os.File) (err error) {
	for fd, f := range map[*int]*os.File{
		&cfg.Stdin: b.stdin, &cfg.Stdout: b.stdout, &cfg.Stderr: b.stderr, &cfg.TTY: process.Terminal(),
		&cfg.Socket: socket, &cfg.Client: client,
	} {
		if f == nil {
			continue
		}
		if *fd, err = sys.KeepOnExec(f); err != nil {
			return err
		}
	}
	args := append(program[1:], append([]string{"serve"}, cfg.Args()...)...)
	err = process.Become(func() error {
		return fmt.Errorf("exec %s: %w", program[0], syscall.Exec(program[0], args, os.Environ()))
	})
	runtime.KeepAlive(b) // until the exec its files must not be closed
	return err
}

// monitorName is the small program's name. It lies beside ours.
const monitorName = "tarn-monitor"

// monitorProgram gives the file of the monitor's program and its first arguments. Where the small one is
// missing it is this one, which has the same in it.
func monitorProgram() ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	small := filepath.Join(filepath.Dir(self), monitorName)
	_, err = os.Stat(small)
	switch {
	case err == nil:
		return []string{small, monitorName}, nil
	case errors.Is(err, fs.ErrNotExist):
		return []string{self, os.Args[0], MonitorCommand}, nil
	default:
		return nil, err
	}
}

// MonitorCommand is the command of tarn that monitors use, and that is not for people. [Engine.MonitorArgs]
// gives its arguments.
const MonitorCommand = "monitor"

// Verbs of MonitorCommand, besides those of the monitor's own program.
const (
	MonitorStart  = "start"  // [Engine.Background]
	MonitorFinish = "finish" // [Engine.Finish]
	MonitorHealth = "health" // [Engine.CheckHealth]
)

// monitorCommand gives the file of this program, and the arguments with which it does something for a
// monitor with this engine's store.
func (e *Engine) monitorCommand(verb string, args ...string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return slices.Concat([]string{self, os.Args[0], MonitorCommand, verb, e.Store.Root(), e.Store.Run(), e.driver}, args), nil
}

func (e *Engine) monitorConfig(c *Container, pid int) (*monitor.Config, error) {
	then, err := e.monitorCommand(MonitorFinish, c.ID)
	if err != nil {
		return nil, err
	}
	stop, err := c.stopSignal("")
	if err != nil {
		return nil, err
	}
	cfg := &monitor.Config{ID: c.ID, PID: pid, StopSignal: int(stop), Exit: c.exitPath(), Then: then}
	if cfg.Format = c.logFormat(); cfg.Format != LogNone {
		if cfg.Log, err = c.logFiles(); err != nil {
			return nil, err
		}
	}
	if check := c.healthcheck(); check != nil {
		cfg.HealthInterval, cfg.HealthStart, cfg.HealthStartInterval = check.Interval, check.StartPeriod, check.StartInterval
		if cfg.Health, err = e.monitorCommand(MonitorHealth, c.ID); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// ParseBackground reads the arguments that [BackgroundOptions.args] gives.
func ParseBackground(args []string) (opts BackgroundOptions, err error) {
	if len(args) != 5 {
		return opts, fmt.Errorf("%w: monitor: %d arguments", ErrOption, len(args))
	}
	opts.ID = args[0]
	var cols, rows uint64
	for i, set := range []func(text string) error{
		func(text string) (err error) { opts.Attached, err = strconv.ParseBool(text); return err },
		func(text string) (err error) { opts.StdinOnce, err = strconv.ParseBool(text); return err },
		func(text string) (err error) { cols, err = strconv.ParseUint(text, 10, 16); return err },
		func(text string) (err error) { rows, err = strconv.ParseUint(text, 10, 16); return err },
	} {
		if err := set(args[i+1]); err != nil {
			return opts, fmt.Errorf("monitor: %w", err)
		}
	}
	opts.Cols, opts.Rows = uint16(cols), uint16(rows)
	return opts, nil
}

func (o *BackgroundOptions) args() []string {
	return []string{
		o.ID, strconv.FormatBool(o.Attached), strconv.FormatBool(o.StdinOnce),
		strconv.Itoa(int(o.Cols)), strconv.Itoa(int(o.Rows)),
	}
}
