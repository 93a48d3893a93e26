package ociruntime

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
)

// failedExec is the status of an exec that did not come to its program, runc's.
const failedExec = 255

// joining is how a process is started in a running container.
type joining struct {
	output
	id           string
	process      string // a file with the whole process
	cwd, user    string
	groups       []uint32
	env, caps    []string
	tty, detach  bool
	noNewPrivs   bool
	label, armor string
	paused       bool
	cgroups      map[string]string // container.Config.SubCgroups
}

func (j *joining) addCgroup(text string) error {
	controllers, path, ok := strings.Cut(text, ":")
	if !ok {
		controllers, path = "", text
	}
	if j.cgroups == nil {
		j.cgroups = make(map[string]string)
	}
	for name := range strings.SplitSeq(controllers, ",") {
		j.cgroups[name] = path
	}
	return nil
}

func (j *joining) addFlags(flags *flag.FlagSet) {
	j.output.addFlags(flags)
	flags.StringVar(&j.process, "process", "", "`file` with the process, as in config.json")
	flags.StringVar(&j.process, "p", "", "`file` with the process, as in config.json")
	flags.StringVar(&j.cwd, "cwd", "", "working `directory`")
	flags.StringVar(&j.user, "user", "", "`uid[:gid]` to run as")
	flags.StringVar(&j.user, "u", "", "`uid[:gid]` to run as")
	addGroup := func(text string) error {
		gid, err := strconv.ParseUint(text, 10, 32)
		j.groups = append(j.groups, uint32(gid))
		return err
	}
	flags.Func("additional-gids", "`gid` of one more group", addGroup)
	flags.Func("g", "`gid` of one more group", addGroup)
	flags.Func("cgroup", "a `cgroup` that the container has made in its own, of a controller if that is named before: [controller,...:]path", j.addCgroup)
	appendTo := func(list *[]string) func(string) error {
		return func(text string) error {
			*list = append(*list, text)
			return nil
		}
	}
	flags.Func("env", "`NAME=value` in the environment", appendTo(&j.env))
	flags.Func("e", "`NAME=value` in the environment", appendTo(&j.env))
	flags.Func("cap", "`capability` to have as well", appendTo(&j.caps))
	flags.Func("c", "`capability` to have as well", appendTo(&j.caps))
	flags.BoolVar(&j.tty, "tty", false, "have a terminal")
	flags.BoolVar(&j.tty, "t", false, "have a terminal")
	flags.BoolVar(&j.detach, "detach", false, "do not wait for the process's end")
	flags.BoolVar(&j.detach, "d", false, "do not wait for the process's end")
	flags.BoolVar(&j.noNewPrivs, "no-new-privs", false, "an exec gains no privileges")
	flags.StringVar(&j.label, "process-label", "", "SELinux `label`")
	flags.StringVar(&j.armor, "apparmor", "", "AppArmor `profile`")
	flags.BoolVar(&j.paused, "ignore-paused", false, "wait, if the container is paused")
}

func execute(ctx context.Context, r *runtime, args []string) (int, error) {
	// Before all else: what the container could see of this program until its exec.
	isRoot := os.Geteuid() == 0
	if isRoot {
		if err := container.SealExecutable(); err != nil {
			return failedExec, err
		}
	}
	var j joining
	flags := newFlags("exec")
	j.addFlags(flags)
	rest, err := parse(flags, args, 1, -1)
	if err != nil {
		return failedExec, err
	}
	j.id = rest[0]
	if !isRoot {
		return r.executeAsRoot(ctx, j.id)
	}
	proxy := proxy{wanted: !j.detach}
	proxy.ready()
	p, err := r.join(ctx, &j, rest[1:])
	if err != nil || j.detach {
		return statusOf(err), err
	}
	return proxy.serve(p)
}

func (r *runtime) executeAsRoot(ctx context.Context, id string) (int, error) {
	rec, err := r.read(id)
	if err != nil {
		return failedExec, err
	}
	if alive, err := isAlive(rec.Pid, rec.PidStarted); err != nil || !alive {
		return failedExec, errors.Join(err, errNotRunning(id))
	}
	status, _, err := r.asRoot(ctx, rec.Pid)
	return max(status, statusOf(err)), err
}

func statusOf(err error) int {
	if err != nil {
		return failedExec
	}
	return 0
}

// join starts the process, and tells of it whom it is to be told to.
func (r *runtime) join(ctx context.Context, j *joining, args []string) (*container.Process, error) {
	rec, err := r.read(j.id)
	if err != nil {
		return nil, err
	}
	status, err := r.status(rec)
	if err != nil {
		return nil, err
	}
	if status != specs.StateRunning && (status != statePaused || !j.paused) {
		return nil, fmt.Errorf("cannot exec in container %s: it is %s", j.id, status)
	}
	spec, _, err := readSpec(filepath.Join(r.root, j.id, configFile))
	if err != nil {
		return nil, err
	}
	spec.Linux.CgroupsPath = rec.Cgroup
	process, err := j.read(spec, args)
	if err != nil {
		return nil, err
	}
	cfg, err := j.prepare(process, j.detach)
	if err != nil {
		return nil, err
	}
	cfg.Outlives, cfg.State, cfg.SubCgroups = j.detach, rec.hookState(""), j.cgroups
	pidfd, err := openProcess(rec)
	if errors.Is(err, os.ErrProcessDone) {
		return nil, errNotRunning(j.id)
	}
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	p, err := container.Join(ctx, container.Target{Pid: rec.Pid, PidFD: pidfd, Spec: spec}, process, cfg)
	if err != nil {
		return nil, err
	}
	if err := j.publish(p); err != nil {
		return nil, errors.Join(err, abandon(p))
	}
	return p, nil
}

// read gives the process to start: the one of the file, or else the container's own with another
// command.
func (j *joining) read(spec *specs.Spec, args []string) (*specs.Process, error) {
	if j.process != "" {
		if len(args) > 0 {
			return nil, fmt.Errorf("%w: a command, and --process", errUsage)
		}
		text, err := readFile(j.process)
		if err != nil {
			return nil, err
		}
		process := &specs.Process{}
		if err := json.Unmarshal(text, process); err != nil {
			return nil, fmt.Errorf("%s: %w", j.process, err)
		}
		process.Terminal = process.Terminal || j.tty
		return process, nil
	}
	if len(args) == 0 {
		return nil, fmt.Errorf("%w: no command", errUsage)
	}
	process := spec.Process
	process.Args, process.Terminal = args, j.tty
	process.Env = append(process.Env, j.env...)
	if j.tty {
		process.ConsoleSize = nil
	}
	return process, j.change(process)
}

// change changes what the flags say.
func (j *joining) change(process *specs.Process) error {
	for text, to := range map[string]*string{j.cwd: &process.Cwd, j.label: &process.SelinuxLabel, j.armor: &process.ApparmorProfile} {
		if text != "" {
			*to = text
		}
	}
	process.NoNewPrivileges = process.NoNewPrivileges || j.noNewPrivs
	process.User.AdditionalGids = append(process.User.AdditionalGids, j.groups...)
	if j.user != "" {
		uid, gid, both := strings.Cut(j.user, ":")
		for text, to := range map[string]*uint32{uid: &process.User.UID, gid: &process.User.GID} {
			if text == gid && !both {
				continue
			}
			id, err := strconv.ParseUint(text, 10, 32)
			if err != nil {
				return fmt.Errorf("%w: user %q: want numbers", errUsage, j.user)
			}
			*to = uint32(id)
		}
	}
	if len(j.caps) == 0 {
		return nil
	}
	caps := process.Capabilities
	if caps == nil {
		caps = &specs.LinuxCapabilities{}
		process.Capabilities = caps
	}
	for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
		*set = slices.Concat(*set, j.caps)
	}
	return nil
}

// output is where a new process's ID and terminal go, and which of our files it gets.
type output struct {
	pidFile  string
	console  string // a socket that gets the terminal
	preserve int
}

func (o *output) addFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.pidFile, "pid-file", "", "write the process ID to `file`")
	flags.StringVar(&o.console, "console-socket", "", "send the terminal to the Unix socket `path`")
	flags.IntVar(&o.preserve, "preserve-fds", 0, "pass on `n` descriptors from 3 on")
}

// prepare gives the files that the process gets, and refuses what contradicts the command line.
func (o *output) prepare(process *specs.Process, detach bool) (cfg container.Config, err error) {
	switch {
	case process.Terminal && detach && o.console == "":
		return cfg, errors.New("the process has a terminal: --console-socket must say where it is to go")
	case o.console != "" && (!process.Terminal || !detach):
		return cfg, errors.New("--console-socket is for a process that has a terminal and is not waited for")
	}
	if !process.Terminal {
		cfg.Stdin, cfg.Stdout, cfg.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	cfg.KeepFiles, err = o.passedFiles(process)
	return cfg, err
}

// passedFiles gives how many descriptors the process gets: those of a service that systemd listens
// for (sd_listen_fds(3)), and --preserve-fds more. Only what we were started with may be passed on:
// our own files have the close-on-exec flag.
func (o *output) passedFiles(process *specs.Process) (int, error) {
	n := max(o.preserve, 0)
	if listen, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err == nil && listen > 0 {
		n += listen
		process.Env = append(process.Env, "LISTEN_FDS="+strconv.Itoa(listen), "LISTEN_PID=1")
	}
	for fd := 3; fd < 3+n; fd++ {
		if !sys.IsInherited(fd) {
			return 0, fmt.Errorf("--preserve-fds: there is no descriptor %d", fd)
		}
	}
	return n, nil
}

// publish sends the terminal and writes the pid file.
func (o *output) publish(p *container.Process) error {
	if err := o.sendTerminal(p); err != nil {
		return err
	}
	return writePidFile(o.pidFile, p.Pid())
}

func (o *output) sendTerminal(p *container.Process) error {
	if o.console == "" {
		return nil
	}
	defer p.Terminal().Close()
	if err := sys.SendFile(o.console, p.Terminal()); err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	return nil
}
