package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// starter is one start of a container.
type starter struct {
	cfg  Config
	spec *specs.Spec
	host hierarchies

	namespaces *namespaces
	cgroup     *cgroup
	noDevices  bool // no device filter could be put in place
	tree       tree
	terminal   *os.File // our end
	stdio      [3]*os.File
	self       *os.File // a pidfd of this process
	program    program
	files      []*os.File // to be closed when the process runs
}

func newStarter(cfg Config) (*starter, error) {
	if err := validate(cfg); err != nil {
		return nil, err
	}
	return &starter{cfg: cfg, spec: cfg.Spec}, nil
}

// start runs the container from a thread of its own, because the mount namespace is the thread's.
// The thread stays until the process has ended: it is the parent whose death PR_SET_PDEATHSIG is
// about.
func (s *starter) start(ctx context.Context) (*Process, error) {
	type started struct {
		p   *Process
		err error
	}
	result := make(chan started)
	onOwnThread(func() {
		p, err := s.create(ctx)
		result <- started{p, err}
		if err == nil {
			p.reap(s.cgroup)
		}
	})
	r := <-result
	return r.p, r.err
}

// onOwnThread runs f in a goroutine on a thread that ends with it.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends
		if !sys.OnMainThread() {
			f()
			return
		}
		// The main thread cannot end. While it is held, the next goroutine gets another one.
		other := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(other)
			f()
		}()
		<-other
		runtime.UnlockOSThread()
	}()
}

// create makes everything and starts the process. On failure it takes all of it away again.
func (s *starter) create(ctx context.Context) (_ *Process, err error) {
	defer s.closeFiles()
	if err := sys.HideProcess(); err != nil {
		return nil, err
	}
	if s.namespaces, err = openNamespaces(s.spec); err != nil {
		return nil, err
	}
	defer s.namespaces.close()
	if err := s.prepareCgroup(); err != nil {
		return nil, err
	}
	child, err := s.build(ctx)
	if err != nil {
		if child != nil {
			_ = sys.SignalPidFD(child.PidFD, syscall.SIGKILL)
			_, _ = sys.WaitPidFD(child.PidFD)
			_ = child.PidFD.Close()
		}
		if s.terminal != nil {
			_ = s.terminal.Close()
		}
		return nil, errors.Join(err, s.cgroup.remove())
	}
	return &Process{pid: child.Pid, pidfd: child.PidFD, terminal: s.terminal, done: make(chan struct{})}, nil
}

func (s *starter) closeFiles() {
	s.tree.close()
	for _, f := range s.files {
		_ = f.Close()
	}
}

// keep has the file closed at the end of create.
func (s *starter) keep(f *os.File) *os.File {
	s.files = append(s.files, f)
	return f
}

func (s *starter) prepareCgroup() (err error) {
	if s.host, err = findHierarchies(); err != nil {
		return err
	}
	if s.spec.Linux.CgroupsPath != "" {
		if s.cgroup, err = makeCgroup(s.host, s.spec.Linux.CgroupsPath); err != nil {
			return err
		}
	}
	var rules []specs.LinuxDeviceCgroup
	if s.spec.Linux.Resources != nil {
		rules = s.spec.Linux.Resources.Devices
	}
	if len(rules) == 0 {
		return nil
	}
	if s.cgroup == nil {
		s.noDevices = true
		return nil
	}
	filter, err := deviceFilter(append(rules[:len(rules):len(rules)], builtinDeviceRules()...))
	if err == nil {
		err = sys.LoadDeviceFilter(s.cgroup.fd, filter)
	}
	if err != nil {
		return errors.Join(err, s.cgroup.remove())
	}
	return nil
}

// build moves the calling thread into the container's namespaces, builds its file system there,
// and forks the process. When it returns, the thread is back in the host's mount namespace: the
// container's is the process's alone, and gone when that is. With an error, a child that is not
// nil is to be killed.
func (s *starter) build(ctx context.Context) (_ *sys.Child, err error) {
	hostMounts, err := sys.ThreadMountNamespace()
	if err != nil {
		return nil, err
	}
	defer hostMounts.Close() //nolint:errcheck // a namespace
	if s.self, err = sys.PidFD(os.Getpid()); err != nil {
		return nil, err
	}
	s.keep(s.self)
	if err := s.namespaces.enter(s.spec); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.Setns(hostMounts, sys.NewMount)) }()
	if err := s.buildTree(); err != nil {
		return nil, err
	}
	p := &sys.Program{}
	defer p.Close()
	if err := s.writeProgram(p); err != nil {
		return nil, err
	}
	if err := sys.PivotRoot(s.cfg.Root); err != nil {
		return nil, err
	}
	if err := setRootPropagation(s.spec.Linux.RootfsPropagation); err != nil {
		return nil, err
	}
	var into *os.File
	if s.cgroup != nil {
		into = s.cgroup.fd
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	child, err := sys.Fork(s.namespaces.fork, into, p)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = sys.SignalPidFD(child.PidFD, syscall.SIGKILL) })
	err = child.AwaitExec()
	if !stop() {
		return child, ctx.Err()
	}
	return child, s.explainChild(err)
}

func (s *starter) buildTree() error {
	// Nothing that happens here may reach the host; what the host mounts later may come in, for bind
	// mounts that ask for it.
	if err := sys.SetPropagation(sys.PropagationSlave, true); err != nil {
		return err
	}
	sys.Umask(0)
	if err := setSysctls(s.spec.Linux.Sysctl); err != nil {
		return err
	}
	s.tree = tree{spec: s.spec, root: s.cfg.Root, own: s.cgroup, host: s.host, noDevices: s.noDevices}
	if hasProcMount(s.spec.Mounts) {
		s.tree.proc = &procMount{}
		s.tree.procs = append(s.tree.procs, s.tree.proc)
	}
	if err := s.attachRoot(); err != nil {
		return err
	}
	if err := s.tree.build(); err != nil {
		return err
	}
	if err := s.openStdio(); err != nil {
		return err
	}
	if err := s.tree.protect(); err != nil {
		return err
	}
	process := s.spec.Process
	cwd, err := mountPoint(s.cfg.Root, process.Cwd, directory)
	if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	_ = cwd.Close()
	if err := s.tree.seal(); err != nil {
		return err
	}
	s.program, err = findProgram(s.cfg.Root, process.Args[0], process.Cwd, process.Env)
	return err
}

// attachRoot mounts the container's root over the host's root in our copy of the mount namespace: a
// place that always exists. The thread does not see it there, because it stands below.
func (s *starter) attachRoot() error {
	slash, err := sys.OpenPath("/")
	if err != nil {
		return err
	}
	defer slash.Close() //nolint:errcheck // O_PATH
	if err := sys.MoveMount(s.cfg.Root, slash); err != nil {
		return fmt.Errorf("attach the root: %w", err)
	}
	return sys.SetMountAttr(s.cfg.Root, true, 0, 0, sys.PropagationPrivate)
}

func setRootPropagation(mode string) error {
	if mode == "" {
		return nil
	}
	name, recursive := strings.CutPrefix(mode, "r")
	propagation, ok := propagations()[name]
	if !ok {
		return fmt.Errorf("%w: root propagation %q", ErrSpec, mode)
	}
	return sys.SetPropagation(uintptr(propagation), recursive)
}

// explainChild says what a step of the child's that failed means.
func (s *starter) explainChild(err error) error {
	step, ok := errors.AsType[*sys.StepError](err)
	if !ok || step.Step != execStep {
		return err
	}
	name := s.spec.Process.Args[0]
	switch step.Errno {
	case syscall.ENOENT, syscall.ENOTDIR:
		// The file was there before: what is missing is what it needs to be loaded.
		return fmt.Errorf("exec %s: %w (or its loader is missing)", name, ErrNotFound)
	default:
		return fmt.Errorf("exec %s: %w: %w", name, ErrNotExecutable, step.Errno)
	}
}
