package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// live makes a container as it is ordered to. It runs on a thread of its own, because the mount namespace
// is the thread's. The thread stays until the process has ended: it is the parent whose death
// PR_SET_PDEATHSIG is about.
func (c *Container) live() {
	m := &maker{}
	m.do(m.look)
	for do := range c.orders {
		if do(m); m.over {
			return
		}
	}
	c.err = m.giveBack()
	close(c.gone)
}

// live tells how the start went, and stays with the process to its end.
func (m *maker) live(p *Process, result chan<- started) {
	m.over = true
	if m.err != nil {
		result <- started{nil, errors.Join(m.err, m.giveBack())}
		return
	}
	result <- started{p, nil}
	if p.heir != nil {
		p.awaitHeir()
	}
	p.reap(m.release)
}

// do does the next thing, unless one before has failed.
func (m *maker) do(next func() error) {
	if m.err == nil {
		m.err = next()
	}
}

// maker makes one container.
type maker struct {
	err  error // the first
	over bool  // there is nothing to be done any more

	spec *specs.Spec
	host hierarchies

	namespaces *namespaces
	hostMounts *os.File // the mount namespace to go back to
	cgroup     *cgroup
	tree       tree

	cfg      Config
	terminal *os.File // our end
	stdio    [3]*os.File
	self     *os.File // a pidfd of this process
	proc     *os.File // the host's /proc, once it was needed
	program  program
	todo     *sys.Program // what the process does
	child    *sys.Begun   // the process, once it has begun
	stops    stops
	joins    bool // a container that is there, see Join
	// filterFlags are seccomp(2)'s for Config.Seccomp.
	filterFlags uint
	nested      bool       // this program is root of a user namespace alone
	birth       birthplace // nil for the thread that makes the container
	files       []*os.File // to be closed when the process runs
}

// keep has the file closed when the process runs, or will not.
func (m *maker) keep(f *os.File) *os.File {
	m.files = append(m.files, f)
	return f
}

// look finds out what takes no specification.
func (m *maker) look() (err error) {
	if err := sys.HideProcess(); err != nil {
		return err
	}
	if m.nested = sys.InUserNamespace(); m.nested {
		m.birth = newBirthplace()
	}
	m.host, err = openHierarchies()
	return err
}

// prepare moves the thread into the container's namespaces, and makes all that needs no root.
func (m *maker) prepare() (err error) {
	if err := validateSpec(m.spec); err != nil {
		return err
	}
	if m.namespaces, err = openNamespaces(m.spec); err != nil {
		return err
	}
	// A cgroup is nothing of the thread's, and takes about as long as the rest.
	ready := make(chan error, 1)
	go func() { ready <- m.prepareCgroup() }()
	err = m.enter()
	if err = errors.Join(err, <-ready); err != nil {
		return err
	}
	m.tree.spec, m.tree.own, m.tree.host, m.tree.user = m.spec, m.cgroup, m.host, m.namespaces.user
	m.tree.makeProcs = m.makeProcs
	return nil
}

// enter moves the thread into the container's namespaces.
func (m *maker) enter() (err error) {
	if m.hostMounts, err = sys.ThreadMountNamespace(); err != nil {
		return err
	}
	if err := m.namespaces.enter(m.spec); err != nil {
		return err
	}
	// Nothing that happens here may reach the host. Bind mounts that are to see what the host mounts
	// later are made outside.
	if err := sys.SetPropagation(sys.PropagationPrivate, true); err != nil {
		return err
	}
	sys.Umask(0)
	return setSysctls(m.spec.Linux.Sysctl)
}

// giveBack takes away what was made. The thread leaves the container's mount namespace, which ends
// with that: a thread's own end would come later.
func (m *maker) giveBack() error {
	m.close()
	if m.terminal != nil {
		_ = m.terminal.Close()
	}
	if m.child != nil {
		m.child.End()
	}
	return m.release()
}

// release takes away what the process needed.
func (m *maker) release() error {
	defer m.host.close()
	if m.birth != nil {
		defer close(m.birth)
	}
	if m.child != nil {
		m.child.Close()
		m.todo.Close()
	}
	return m.cgroup.remove()
}

// close lets go of all that the process does not need.
func (m *maker) close() {
	m.tree.close()
	for _, f := range m.files {
		_ = f.Close()
	}
	m.files = nil
	if m.namespaces != nil {
		m.namespaces.close()
	}
	if m.hostMounts != nil {
		// It fails if the thread never left, for threads of one program share a working directory.
		_ = sys.Setns(m.hostMounts, sys.NewMount)
		_ = m.hostMounts.Close()
		m.hostMounts = nil
	}
}

func (m *maker) prepareCgroup() (err error) {
	if m.spec.Linux.CgroupsPath != "" {
		if m.cgroup, err = makeCgroup(m.host, m.spec.Linux); err != nil {
			return err
		}
	} else if l, err := sortLimits(m.host, m.spec.Linux.Resources); err != nil {
		return err
	} else if !l.empty() {
		return fmt.Errorf("%w: limits need linux.cgroupsPath", ErrSpec)
	}
	return m.limitDevices()
}

// limitDevices has the kernel refuse the devices that the specification's rules do. Without a cgroup to
// put the filter on, all are refused but the container's own.
func (m *maker) limitDevices() error {
	if m.spec.Linux.Resources == nil || len(m.spec.Linux.Resources.Devices) == 0 {
		return nil
	}
	rules := append(slices.Clip(m.spec.Linux.Resources.Devices), builtinDeviceRules()...)
	filter, err := deviceFilter(rules)
	if err != nil {
		return err
	}
	if m.cgroup == nil || m.cgroup.fd == nil {
		m.tree.noDevices = true
		return nil
	}
	if namesDevices(m.spec.Linux.Resources.Devices) {
		if err := m.cgroup.listDevices(m.host, m.spec.Linux.CgroupsPath, rules); err != nil {
			return err
		}
	}
	err = sys.LoadDeviceFilter(m.cgroup.fd, filter)
	if mayNot(err) {
		m.tree.noDevices = true // root of a user namespace alone may load no filter
		return nil
	}
	return err
}

// makeMounts makes the mounts that need no root. Who enters a user namespace needs the process's
// attributes before, which may still change: that waits for start.
func (m *maker) makeMounts() error {
	if m.namespaces.user != nil {
		return nil
	}
	return m.tree.make()
}

// begin makes the process, which does the first part of its program, whose end is first, and waits.
func (m *maker) begin(first func(*sys.Program)) (err error) {
	if m.self, err = sys.PidFD(os.Getpid()); err != nil {
		return err
	}
	m.keep(m.self)
	m.todo = &sys.Program{}
	if err := m.writeBeginning(m.todo); err != nil {
		m.todo.Close()
		return err
	}
	m.todo.DieWithParent(m.self)
	first(m.todo)
	var into *os.File
	if m.cgroup != nil {
		into = m.cgroup.fd
	}
	share := m.namespaces.user == nil && m.namespaces.time == nil
	m.birth.do(func() {
		if m.birth != nil {
			err = m.namespaces.enterPID()
		}
		if err == nil {
			m.child, err = sys.Begin(m.namespaces.forkFlags(), into, m.todo, share)
		}
	})
	if err != nil {
		m.todo.Close()
		return err
	}
	return m.child.Wait()
}

// start completes the file system and has the process execute the program. When it returns, the thread is
// back in the host's mount namespace: the container's is the process's alone, and gone when that is.
func (m *maker) start(ctx context.Context, cfg Config, binds sources) (*Process, error) {
	m.cfg = cfg
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if m.namespaces.user != nil {
		if err := m.tree.make(); err != nil {
			return nil, err
		}
	}
	if err := m.complete(binds); err != nil {
		return nil, err
	}
	if m.child == nil { // it has no procfs to make
		if err := m.begin(func(*sys.Program) {}); err != nil {
			return nil, err
		}
	}
	if err := m.prepareSeccomp(); err != nil {
		return nil, err
	}
	if err := m.prepareStops(); err != nil {
		return nil, err
	}
	if err := m.writeProgram(m.todo); err != nil {
		return nil, err
	}
	if m.stops.pivot == nil {
		if err := m.pivot(); err != nil {
			return nil, err
		}
	}
	if err := m.finish(ctx); err != nil {
		return nil, m.explainChild(err)
	}
	m.close()
	return m.process(&m.child.Child), nil
}

func (m *maker) process(child *sys.Child) *Process {
	p := &Process{
		pid: child.Pid, pidfd: child.PidFD, outlives: m.cfg.Outlives || m.cfg.Heir, terminal: m.terminal, birth: m.birth,
		done: make(chan struct{}), waited: make(chan struct{}),
	}
	if m.cfg.Heir {
		p.heir = make(chan func())
	}
	return p
}

// complete attaches the root and all that is mounted in it.
func (m *maker) complete(binds sources) (err error) {
	if err := m.delegateCgroup(); err != nil {
		return err
	}
	if err := checkLabels(m.spec.Process.ApparmorProfile, m.spec.Process.SelinuxLabel); err != nil {
		return err
	}
	if err := attachRoot(m.cfg.Root); err != nil {
		return err
	}
	if err := m.tree.attachAll(m.cfg.Root, binds); err != nil {
		return err
	}
	if err := m.openStdio(); err != nil {
		return err
	}
	if err := m.tree.protect(); err != nil {
		return err
	}
	process := m.spec.Process
	if err := makeDirectory(m.cfg.Root, process.Cwd); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	if err := m.tree.seal(); err != nil {
		return err
	}
	m.program, err = findProgram(m.cfg.Root, process.Args[0], process.Cwd, process.Env)
	return err
}

// makeDirectory makes a directory, if it can be made: what is in procfs is there for the process alone.
func makeDirectory(root *os.File, dir string) error {
	f, err := mountPoint(root, dir, directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = f.Close()
	}
	return err
}

// attachRoot mounts the container's root over the host's root in our copy of the mount namespace: a
// place that always exists. The thread does not see it there, because it stands below.
func attachRoot(root *os.File) error {
	slash, err := sys.OpenPath("/")
	if err != nil {
		return err
	}
	defer slash.Close()
	if err := sys.MoveMount(root, slash); err != nil {
		return fmt.Errorf("attach the root: %w", err)
	}
	return sys.SetMountAttr(root, true, 0, 0, sys.PropagationPrivate)
}

func setRootPropagation(root *os.File, mode string) error {
	if mode == "" {
		return nil
	}
	name, recursive := strings.CutPrefix(mode, "r")
	propagation := propagationOf(name)
	if propagation == 0 {
		return fmt.Errorf("%w: root propagation %q", ErrSpec, mode)
	}
	return sys.SetMountAttr(root, recursive, 0, 0, propagation)
}

// explainChild says what a step of the child's that failed means.
func (m *maker) explainChild(err error) error {
	step, ok := errors.AsType[*sys.StepError](err)
	if !ok || step.Step != execStep {
		return err
	}
	return execError(m.spec.Process.Args[0], step.Errno)
}

func execError(name string, errno syscall.Errno) error {
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR:
		// The file was there before: what is missing is what it needs to be loaded.
		return fmt.Errorf("exec %s: %w (or its loader is missing)", name, ErrNotFound)
	default:
		return fmt.Errorf("exec %s: %w: %w", name, ErrNotExecutable, errno)
	}
}

// HeldFailure gives why a process that was held ([Config.Hold]) could not execute its program when it was let go on:
// [ErrNotFound] or [ErrNotExecutable], nil if it could. It is asked when the process has closed what it was held by.
// failure is [Config.Failure] opened again.
func HeldFailure(failure *os.File, program string) error {
	errno, err := sys.ReadFailure(failure)
	if err == nil && errno != 0 {
		err = execError(program, errno)
	}
	return err
}
