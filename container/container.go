// Package container turns an OCI runtime specification into a running process: it is tarn's
// runtime. It knows no images; it is given the root as a mount.
//
// The process is cloned straight from this program, and executes the container's program as
// its first exec: there is no helper binary and no second start of ourselves. How, and what
// must hold for that to be safe, is in docs/adr/own-fork.md.
//
// Sources: the OCI runtime specification 1.2 (config.md, config-linux.md), and what runc and
// Docker do where it leaves things open.
package container

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

var (
	// ErrSpec is wrapped by every error about a specification that cannot be carried out.
	ErrSpec = errors.New("bad container specification")
	// ErrUnsupported is wrapped when the specification asks for what this runtime does not do.
	// Nothing in a specification is ignored in silence.
	ErrUnsupported = errors.New("not supported")
	// ErrNotFound is wrapped when the program is not in the container: exit status 127.
	ErrNotFound = errors.New("no such file")
	// ErrNotExecutable is wrapped when the program cannot be executed: exit status 126.
	ErrNotExecutable = errors.New("cannot be executed")
)

// Config says with what a container starts, besides its specification.
type Config struct {
	// Root is the root file system as a mount that is not attached anywhere (fsmount(2) or
	// open_tree(2) with OPEN_TREE_CLONE; see [OpenRoot]). It is attached in the container's mount
	// namespace only, and gone with it. The caller closes the file after Start.
	Root *os.File
	// Stdin, Stdout and Stderr become descriptors 0, 1 and 2; nil is the container's own /dev/null.
	// They should be pipes or sockets: what else they are, a container's root can open again for
	// writing, give other owners and modes, and so on, however it is opened here. A pipe is given to
	// the container's user. With Process.Terminal they must be nil: see [Process.Terminal].
	Stdin, Stdout, Stderr *os.File
	// Seccomp is a system call filter as the kernel takes it (an array of struct sock_filter), in place
	// of what the specification's Linux.Seccomp would be compiled to. Its flags and its listener are the
	// specification's in either case.
	Seccomp []byte
	// State is what hooks and a seccomp listener are told of the container: ID, Bundle and Annotations;
	// the rest is filled in.
	State specs.State
	// DieWithParent kills the container when this program dies.
	DieWithParent bool
	// Hold has the process wait, with all that can fail before done, until it reads a byte from this
	// file; at its end, the process ends. Start returns when it waits. The process then may outlive
	// this program. [ErrNotExecutable] and [ErrNotFound] come from Start still, unless the program
	// is another one by then.
	Hold *os.File
	// Failure is a file of this program's, to be found by who lets a process go on that is held: see [HeldFailure].
	Failure *os.File
	// Outlives leaves the process's status to who inherits the process when this program ends: it is
	// not reaped here. Its cgroup stays as well, see [RemoveCgroup].
	Outlives bool
	// Heir says that another program is to be the process's parent, see [Process.Become]. Nobody waits
	// for the process's end before that, or before [Process.Wait]. It implies Outlives.
	Heir bool
	// KeepFiles is how many descriptors from 3 on the process gets that this program was started with.
	KeepFiles int
	// NoPivot is for hosts whose root is a ramdisk, which cannot be pivoted away from: it stays below the container's,
	// where no path leads.
	NoPivot bool
	// SubCgroups are for [Join]: cgroups below the container's that the process is to be in, which are there, by the names
	// of controllers of version 1; that of "" is for version 2, and for all that are not named and have it.
	SubCgroups map[string]string
	// Ready are mounts that are attached nowhere, by the destinations of bind mounts in the specification: they
	// stand for the sources of those. [Container.Start] closes them.
	Ready map[string]*os.File
	// KeepKeyring leaves the process this program's session keyring.
	KeepKeyring bool
}

// Container is a container that is being made.
type Container struct {
	spec   *specs.Spec
	orders chan func(*maker) // what to do next; closed for nothing more
	known  bool              // the mounts are ordered
	used   bool              // the start is, or the end
	gone   chan struct{}     // closed when what was never to be started is given back
	err    error             // of that; valid then
}

// Process is a container's first process. When it ends, every process of its pid namespace ends.
type Process struct {
	pid      int
	mu       sync.Mutex
	pidfd    *os.File // nil when it has ended; under mu
	outlives bool
	heir     chan func()   // nil without Config.Heir
	birth    birthplace    // where the process was made
	waited   chan struct{} // closed when somebody waits
	waiting  sync.Once
	terminal *os.File
	done     chan struct{}
	status   syscall.WaitStatus
	err      error
}

// New begins to make a container: its namespaces, its cgroup and the kernel's file systems, all
// that needs no root file system. It does so on a thread of its own, while the caller gets the root
// ready; errors come out of Start. The caller closes the container.
//
// Of the specification, Root.Path is not read. A relative Linux.CgroupsPath is made below the root
// of the cgroup2 hierarchy; "" makes no cgroup. Process and Root may change until Start, and Mounts
// until Start or MakeMounts.
func New(spec *specs.Spec) *Container {
	c := Reserve()
	c.Make(spec)
	return c
}

// Reserve readies a thread for a container whose specification is not known yet, which is to be given to
// Make. A thread takes its time to be there.
func Reserve() *Container {
	c := &Container{orders: make(chan func(*maker), 5), gone: make(chan struct{})} // nobody waits to order
	sys.OnOwnThread(c.live)
	return c
}

// Beside has f executed on the thread that will be the parent of the container's process, before it is in any of the
// container's namespaces: a process that f makes, and that is to die with its parent, lives as long as the container's
// would, see [Process.Become]. It is called before Make, and waits for f.
func (c *Container) Beside(f func()) {
	done := make(chan struct{})
	c.orders <- func(m *maker) {
		m.birth.do(f)
		close(done)
	}
	<-done
}

// Make is what [New] does, with a thread that was reserved.
func (c *Container) Make(spec *specs.Spec) {
	c.spec = spec
	c.orders <- func(m *maker) {
		m.spec = spec
		m.do(m.prepare)
	}
	runtime.Gosched() // the thread goes on now, and this on another processor: the other way round it takes 0.7 ms
}

// NetworkNamespace has the container's network namespace opened as soon as it is there, before the
// rest of the container is, and gives a function that waits for it: to be set up meanwhile. It is called after Make, once,
// and not after Start. The caller closes the file; as long as it is open, so is the namespace.
func (c *Container) NetworkNamespace() func() (*os.File, error) {
	result := make(chan namespaceResult, 1)
	c.orders <- func(m *maker) {
		var r namespaceResult
		m.do(func() (err error) {
			r.file, err = sys.ThreadNetworkNamespace()
			return err
		})
		r.err = m.err
		result <- r
	}
	return func() (*os.File, error) {
		r := <-result
		return r.file, r.err
	}
}

type namespaceResult struct {
	file *os.File
	err  error
}

// MakeMounts says that the specification's mounts will not change any more: those of the kernel's file
// systems are made. Whoever knows them only shortly before Start need not say so.
func (c *Container) MakeMounts() {
	if !c.known {
		c.known = true
		c.orders <- func(m *maker) { m.do(m.makeMounts) }
	}
}

// UserNamespace gives the container's user namespace, when it is made; nil if it has none of its own. What
// belongs to the container's users can be made with it before Start. The caller closes it.
func (c *Container) UserNamespace() (*os.File, error) {
	type made struct {
		file *os.File
		err  error
	}
	result := make(chan made, 1)
	c.orders <- func(m *maker) {
		if m.err != nil || m.namespaces.user == nil {
			result <- made{nil, m.err}
			return
		}
		file, err := os.Open(sys.FDPath(m.namespaces.user.file))
		result <- made{file, err}
	}
	r := <-result
	return r.file, r.err
}

// Start puts the file system together, runs the hooks that come before the program (all but poststart
// and poststop, and startContainer's if Config.Hold is set), and executes the program. When it returns without error,
// the program is running (execve has succeeded). When it fails or ctx ends first, nothing is left
// behind. ctx has no bearing on the process once it runs. Start is called once, in the mount
// namespace in which the sources of bind mounts are meant.
//
// [ExitCode] tells which exit status a failure stands for.
func (c *Container) Start(ctx context.Context, cfg Config) (*Process, error) {
	if c.used {
		return nil, errors.New("a container is started once")
	}
	if err := validate(c.spec, cfg); err != nil {
		return nil, err
	}
	c.MakeMounts()
	if slices.ContainsFunc(c.spec.Mounts, isBind) {
		c.awaitOrders()
	}
	sources, err := c.cloneSources(cfg)
	if err != nil {
		return nil, err
	}
	defer sources.close()
	c.used = true
	result := make(chan started)
	c.orders <- func(m *maker) {
		var p *Process
		m.do(func() (err error) {
			p, err = m.start(ctx, cfg, sources)
			return err
		})
		m.live(p, result)
	}
	s := <-result
	return s.process, explainUnsupported(s.err)
}

// awaitOrders waits until all is done that was ordered. mountinfo lists mounts in the order in which they were made, not
// in which they were attached: bind mounts, which mostly come last, are made last.
func (c *Container) awaitOrders() {
	done := make(chan struct{})
	c.orders <- func(*maker) { close(done) }
	<-done
}

func (c *Container) cloneSources(cfg Config) (sources, error) {
	var users *os.File
	if slices.ContainsFunc(c.spec.Mounts, wantsUsers) {
		var err error
		if users, err = c.UserNamespace(); err != nil {
			return nil, err
		}
		if users != nil {
			defer users.Close()
		}
	}
	return cloneSources(c.spec, cfg.Ready, users)
}

type started struct {
	process *Process
	err     error
}

// Close gives back what was made, unless a process was started. It must not be called while Start
// runs; a second call does nothing.
func (c *Container) Close() error {
	if !c.used {
		c.used = true
		close(c.orders)
		<-c.gone
		return c.err
	}
	return nil
}

// Pid is the process's ID in the pid namespace of this program.
func (p *Process) Pid() int { return p.pid }

// Terminal is this program's end of the container's terminal, nil if it has none. Reads give
// EIO when the last process has closed its end. It is closed by the caller.
func (p *Process) Terminal() *os.File { return p.terminal }

// Done is closed when the process has ended and what it needed is taken away.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits until the process has ended, and its mounts, cgroup and namespaces are gone. It gives
// the exit status as a shell has it: 128 and the signal's number when a signal ended it. The
// error is about taking away what the container needed, and comes with a valid status, unless
// that is -1. Any number of goroutines may wait.
func (p *Process) Wait() (int, error) {
	p.waiting.Do(func() { close(p.waited) })
	<-p.done
	switch {
	case p.status.Exited():
		return p.status.ExitStatus(), p.err
	case p.status.Signaled():
		return 128 + int(p.status.Signal()), p.err
	default:
		return -1, p.err
	}
}

// ExitCode gives the exit status that Docker gives for an error of [Start]: 127 when the program
// was not found, 126 when it cannot be executed, otherwise 125.
func ExitCode(err error) int {
	switch {
	case errors.Is(err, ErrNotFound):
		return 127
	case errors.Is(err, ErrNotExecutable):
		return 126
	default:
		return 125
	}
}
