package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/monitor"
)

// ExecOptions says what to execute in a running container.
type ExecOptions struct {
	Command    []string
	User       string // else the container's
	WorkDir    string // else the container's
	Env        []string
	EnvFiles   []string
	Terminal   bool
	Privileged bool // with all capabilities, and no filter of system calls
	Detach     bool // do not wait for its end

	Streams `json:"-"`
}

// SealExecutable keeps containers from this program's file, by executing it anew; it is to be called
// first of all where something is to be executed in a container that runs.
func SealExecutable() error { return container.SealExecutable() }

// Exec executes a program in a running container, and gives its exit status. With an error it is to be
// [ExitStatus] of that.
func (e *Engine) Exec(ctx context.Context, key string, opts ExecOptions) (status int, err error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return 0, err
	}
	if err := c.executable(); err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", c.Name, err)
	}
	env, err := readEntryFiles("environment file", opts.EnvFiles)
	if err != nil {
		return 0, err
	}
	opts.Env, opts.EnvFiles = append(env, opts.Env...), nil
	if opts.WorkDir != "" && !path.IsAbs(opts.WorkDir) {
		return 0, fmt.Errorf("%w: the working directory %q is not absolute", ErrOption, opts.WorkDir)
	}
	if opts.Terminal && !opts.Detach {
		return e.execInTerminal(ctx, c, opts)
	}
	return e.execIn(ctx, c, opts)
}

// executable refuses what nothing can be executed in.
func (c *Container) executable() error {
	switch {
	case c.Damaged != nil:
		return c.Damaged
	case !c.Running():
		return errNotRunning
	case c.State.Paused:
		return errors.New("it is paused: unpause it first")
	default:
		return nil
	}
}

// execIn executes a program as our child. It dies with this program.
func (e *Engine) execIn(ctx context.Context, c *Container, opts ExecOptions) (int, error) {
	if opts.Detach {
		_, err := e.join(ctx, c, opts, container.Config{Outlives: true}, &nowhere{})
		return 0, err
	}
	streams := &attachment{
		Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, interactive: opts.Input, terminal: opts.Terminal,
		sigProxy: opts.SigProxy,
	}
	defer streams.stop()
	p, err := e.join(ctx, c, opts, container.Config{DieWithParent: true}, streams)
	if err != nil {
		return 0, err
	}
	return streams.serve(ctx, p)
}

// nowhere is what a process is connected with that nobody hears of again.
type nowhere struct{}

func (nowhere) prepare(spec *specs.Spec, _ *container.Config) error {
	spec.Process.Terminal = false
	return nil
}

func (nowhere) closeFiles() {}

// join starts a process in a container.
func (e *Engine) join(ctx context.Context, c *Container, opts ExecOptions, cfg container.Config, streams connection) (*container.Process, error) {
	pidfd, err := sys.PidFD(c.State.Process.PID)
	if err != nil || !c.State.Process.alive() {
		return nil, fmt.Errorf("exec in container %s: %w", c.Name, errNotRunning)
	}
	defer pidfd.Close()
	spec := container.DefaultSpec()
	if err := beginSpec(spec, c.ID, c.Settings.Config.Hostname, &c.Settings.Host, nil); err != nil {
		return nil, err
	}
	if err := fillSpec(spec, c.Dir(), &c.Settings); err != nil {
		return nil, err
	}
	if err := c.execProcess(spec, opts, pidfd); err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.Name, err)
	}
	if !opts.Privileged {
		security, err := parseSecurity(c.Settings.Host.SecurityOpt)
		if err != nil {
			return nil, err
		}
		if cfg.Seccomp, err = c.Settings.Host.filter(&security, spec); err != nil {
			return nil, err
		}
	}
	defer streams.closeFiles()
	if err := streams.prepare(spec, &cfg); err != nil {
		return nil, err
	}
	p, err := container.Join(context.WithoutCancel(ctx), container.Target{Pid: c.State.Process.PID, PidFD: pidfd, Spec: spec}, spec.Process, cfg)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.Name, err)
	}
	return p, nil
}

// execProcess changes the container's own process into that which is to be executed.
func (c *Container) execProcess(spec *specs.Spec, opts ExecOptions, pidfd *os.File) error {
	process := spec.Process
	process.Args, process.Terminal, process.ConsoleSize = opts.Command, opts.Terminal, nil
	if opts.WorkDir != "" {
		process.Cwd = path.Clean(opts.WorkDir)
	}
	var err error
	for _, entry := range opts.Env {
		if process.Env, err = applyEnv(process.Env, entry); err != nil {
			return err
		}
	}
	if opts.Terminal && !hasEnv(process.Env, "TERM") {
		process.Env = append(process.Env, "TERM=xterm")
	}
	if opts.Privileged {
		all, err := allCapabilities()
		if err != nil {
			return err
		}
		process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
		process.NoNewPrivileges = false
	}
	root, err := sys.RootOf(pidfd, true)
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
		return errNotRunning
	}
	if err != nil {
		return err
	}
	defer root.Close()
	user := opts.User
	if user == "" {
		user = c.Settings.Config.User
	}
	return setUser(spec, root, user, c.Settings.Host.GroupAdd)
}

// allCapabilities lists those that this program has to give.
func allCapabilities() ([]string, error) {
	ours, err := sys.PermittedCaps()
	if err != nil {
		return nil, err
	}
	var names []string
	for n, name := range sys.CapNames() {
		if ours&(1<<n) != 0 {
			names = append(names, name)
		}
	}
	return names, nil
}

func hasEnv(env []string, name string) bool {
	for _, entry := range env {
		if strings.HasPrefix(entry, name+"=") {
			return true
		}
	}
	return false
}

// MonitorExec is the verb of MonitorCommand for [Engine.ExecInBackground].
const MonitorExec = "exec"

// execInTerminal executes a program with a terminal. It can be left alone, so it has a monitor.
func (e *Engine) execInTerminal(ctx context.Context, c *Container, opts ExecOptions) (int, error) {
	session, err := newSession(opts.Streams, true)
	if err != nil {
		return 0, err
	}
	defer session.close()
	request := execRequest{ExecOptions: opts}
	if request.Monitor, err = monitorProgram(); err != nil {
		return 0, err
	}
	text, err := json.Marshal(request)
	if err != nil {
		return 0, err
	}
	ours, theirs, err := sys.SocketPair()
	if err != nil {
		return 0, err
	}
	defer ours.Close()
	cols, rows := session.size()
	background := BackgroundOptions{ID: c.ID, Attached: true, Cols: cols, Rows: rows}
	err = e.execute(MonitorExec, append(background.args(), string(text)), theirs)
	_ = theirs.Close()
	if err != nil {
		return 0, err
	}
	return session.serve(ctx, c, ours)
}

// execRequest is what a monitor is to execute.
type execRequest struct {
	ExecOptions
	Monitor []string // its program: one whose file is sealed does not know where it lies
}

// ExecInBackground executes a program in a container, and becomes its monitor. text is the JSON of an
// execRequest.
func (e *Engine) ExecInBackground(ctx context.Context, opts BackgroundOptions, text string) error {
	report := os.NewFile(reportFD, "report")
	client := os.NewFile(clientFD, "client")
	syscall.CloseOnExec(reportFD)
	syscall.CloseOnExec(clientFD)
	err := e.execAndStay(ctx, opts, text, client, report)
	_ = writeReport(report, err)
	return err
}

func (e *Engine) execAndStay(ctx context.Context, opts BackgroundOptions, text string, client, report *os.File) error {
	var request execRequest
	if err := json.Unmarshal([]byte(text), &request); err != nil {
		return err
	}
	c, err := e.containerByID(opts.ID)
	if err != nil {
		return err
	}
	if err := c.executable(); err != nil {
		return fmt.Errorf("exec in container %s: %w", c.Name, err)
	}
	b := &background{terminal: true, cols: opts.Cols, rows: opts.Rows}
	p, err := e.join(ctx, c, request.ExecOptions, container.Config{DieWithParent: true}, b)
	if err != nil {
		return err
	}
	cfg := &monitor.Config{ID: c.ID, PID: p.Pid(), StopSignal: int(killSignal)}
	err = writeReport(report, nil)
	if err == nil {
		err = become(request.Monitor, cfg, p, b, nil, client)
	}
	_ = p.Signal(killSignal)
	_, _ = p.Wait()
	return err
}

// initProgram is where a container finds the program that is its first process with --init.
const initProgram = "/dev/init"

// initMount gives the mount of that program.
func initMount() (specs.Mount, error) {
	program, err := monitorProgram()
	if err != nil {
		return specs.Mount{}, err
	}
	return specs.Mount{
		Destination: initProgram, Type: mountBind, Source: program[0], Options: []string{"bind", "ro", propagationPrivate},
	}, nil
}

// initArgs gives the arguments of that program, for the container's own.
func initArgs(args []string) ([]string, error) {
	program, err := monitorProgram()
	if err != nil {
		return nil, err
	}
	first := []string{initProgram}
	if filepath.Base(program[0]) != monitorName {
		first = append(first, MonitorCommand)
	}
	return append(append(first, "init", "--"), args...), nil
}
