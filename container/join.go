package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// ErrEnded is wrapped when a container that is to be joined has ended.
var ErrEnded = errors.New("the container has ended")

// ErrNotSealed is returned by [Join] when this program's own file could be written to from the
// container. See [SealExecutable].
var ErrNotSealed = errors.New("this program's file is not sealed")

// Target is a running container that a process is to join.
type Target struct {
	// Pid is its first process, in the pid namespace of this program, and PidFD means that process.
	Pid   int
	PidFD *os.File
	// Spec is the specification that it was made by.
	Spec *specs.Spec
}

// Join starts another process in a running container: in its namespaces, its cgroup, and with its
// limits. Of cfg, Root is not read. Process has no bearing on the container's end. When Join returns
// without error, the program is running.
//
// What runs in the container is hostile and can act at every moment. So the program's paths are
// looked up below the container's root by descriptor; the process cannot be looked into until its
// exec; and what it is until then, this very program, must have been sealed: while the exec of a
// path is under way, the container can replace that path by a link to /proc/self/exe, and so get
// hold of this program's file (CVE-2019-5736).
func Join(ctx context.Context, t Target, process *specs.Process, cfg Config) (*Process, error) {
	spec := *t.Spec
	spec.Process, spec.Hooks = process, nil
	cfg.Root = t.PidFD // validate wants one
	if err := validate(&spec, cfg); err != nil {
		return nil, err
	}
	sealed, err := sys.IsExecutableSealed()
	if err != nil {
		return nil, err
	}
	if !sealed {
		return nil, ErrNotSealed
	}
	result := make(chan started)
	sys.OnOwnThread(func() {
		m := &maker{spec: &spec, cfg: cfg, namespaces: &namespaces{hostMounts: !hasNamespace(&spec, specs.MountNamespace)}, joins: true, nested: sys.InUserNamespace()}
		p, err := m.join(ctx, t)
		m.close()
		if err != nil {
			if m.terminal != nil {
				_ = m.terminal.Close()
			}
			m.host.close()
		}
		result <- started{p, err}
		if err == nil {
			if p.heir != nil {
				p.awaitHeir()
			}
			p.reap(m.releaseHost)
		}
	})
	s := <-result
	return s.process, explainUnsupported(s.err)
}

// SealExecutable has this program run from a read-only mount of its own file, that nobody else has,
// by executing itself again unless it does so already: /proc/PID/exe leads there, and cannot be
// opened for writing. It is called first of all by programs that use [Join], with their own
// arguments in [os.Args].
func SealExecutable() error {
	sealed, err := sys.IsExecutableSealed()
	if err != nil || sealed {
		return err
	}
	return sys.ExecReadOnly()
}

// join forks the process. The thread is in the container's namespaces from then on.
func (m *maker) join(ctx context.Context, t Target) (*Process, error) {
	if err := sys.HideProcess(); err != nil {
		return nil, err
	}
	kinds, err := sys.ForeignNamespaces(t.Pid)
	if err != nil {
		return nil, ended(err)
	}
	// If it still is that process now, those were its namespaces.
	if err := sys.SignalPidFD(t.PidFD, 0); err != nil {
		return nil, ended(err)
	}
	if err := m.openAlone(t.Pid, kinds); err != nil {
		return nil, err
	}
	if err := m.lookIn(t, kinds); err != nil {
		return nil, err
	}
	p := &sys.Program{}
	defer p.Close()
	if err := m.prepareSeccomp(); err != nil {
		return nil, err
	}
	if err := m.prepareJoinStops(); err != nil {
		return nil, err
	}
	if err := errors.Join(m.writeBeginning(p), m.writeProgram(p)); err != nil {
		return nil, err
	}
	if err := sys.JoinNamespaces(t.PidFD, kinds&^(sys.NewUser|sys.NewTime)); err != nil {
		return nil, ended(err)
	}
	child, err := m.forkInto(ctx, t.Pid, p)
	if err != nil {
		return nil, ended(m.explainChild(err))
	}
	return m.process(child), nil
}

// releaseHost lets go of what only this program needed: the cgroup is the container's.
func (m *maker) releaseHost() error {
	m.host.close()
	return nil
}

// openAlone opens the namespaces that a program with several threads cannot enter, but its child.
func (m *maker) openAlone(pid, kinds int) (err error) {
	n := m.namespaces
	if kinds&sys.NewTime != 0 {
		if n.time, err = sys.OpenNamespace(fmt.Sprintf("/proc/%d/ns/time", pid), sys.NewTime); err != nil {
			return ended(err)
		}
	}
	if kinds&sys.NewUser == 0 {
		return nil
	}
	n.user = &userNamespace{}
	if n.user.file, err = sys.OpenNamespace(fmt.Sprintf("/proc/%d/ns/user", pid), sys.NewUser); err != nil {
		return ended(err)
	}
	for file, to := range map[string]*idMap{"uid_map": &n.user.uids, "gid_map": &n.user.gids} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			return ended(err)
		}
		if *to, err = parseIDMap(string(text)); err != nil {
			return err
		}
	}
	return nil
}

// lookIn opens and finds out all that is needed of the container.
func (m *maker) lookIn(t Target, kinds int) (err error) {
	if err := checkLabels(m.spec.Process.ApparmorProfile, m.spec.Process.SelinuxLabel); err != nil {
		return err
	}
	if m.self, err = sys.PidFD(os.Getpid()); err != nil {
		return err
	}
	m.keep(m.self)
	if err := m.findJoined(); err != nil {
		return err
	}
	root, err := openRootOf(t, m.namespaces.hostMounts, kinds&sys.NewMount != 0)
	if err != nil {
		return ended(err)
	}
	m.cfg.Root = m.keep(root)
	m.tree.spec, m.tree.root, m.tree.user = m.spec, root, m.namespaces.user
	if m.tree.dev, err = sys.OpenInRoot(root, "/dev", sys.OpenDirectory); err != nil {
		return fmt.Errorf("/dev of the container: %w", err)
	}
	m.keep(m.tree.dev)
	if m.spec.Process.Terminal {
		if err := m.findPts(); err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
	}
	if err := m.openStdio(); err != nil {
		return err
	}
	process := m.spec.Process
	m.program, err = findProgram(root, process.Args[0], process.Cwd, process.Env)
	return err
}

// openRootOf opens the root of the container's mount namespace, or of its first process if it has none of its
// own.
func openRootOf(t Target, hostMounts, foreign bool) (*os.File, error) {
	if !hostMounts {
		return sys.RootOf(t.PidFD, foreign)
	}
	root, err := sys.OpenSource(fmt.Sprintf("/proc/%d/root", t.Pid))
	if err != nil {
		return nil, err
	}
	// If it still is that process now, that was its root.
	if err := sys.SignalPidFD(t.PidFD, 0); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// findPts finds the container's terminals. That is devpts for certain, whatever the container has
// put there: in anything else, a link called ptmx could lead to a file of the host.
func (m *maker) findPts() error {
	pts, err := sys.OpenInRoot(m.cfg.Root, "/dev/pts", sys.OpenDirectory)
	if err != nil {
		return err
	}
	m.tree.pts = m.keep(pts)
	magic, err := sys.FSType(pts)
	if err == nil && magic != sys.MagicDevpts {
		err = fmt.Errorf("%w: the container's /dev/pts is no devpts", ErrSpec)
	}
	return err
}

// findJoined finds the container's cgroup, and what it means for devices that it has none.
func (m *maker) findJoined() (err error) {
	if m.host, err = findHierarchies(); err != nil {
		return err
	}
	if m.spec.Linux.CgroupsPath != "" {
		m.cgroup, err = findCgroup(m.host, m.spec.Linux.CgroupsPath)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := m.cgroup.enterSub(m.cfg.SubCgroups); err != nil {
		return err
	}
	limited := m.spec.Linux.Resources != nil && len(m.spec.Linux.Resources.Devices) > 0
	if m.cgroup == nil {
		m.tree.noDevices = limited
		return nil
	}
	m.tree.noDevices = limited && m.cgroup.dir == ""
	if m.cgroup.dir != "" {
		if m.cgroup.fd, err = sys.OpenPath(m.cgroup.dir); err != nil {
			return err
		}
		m.keep(m.cgroup.fd)
	}
	for i, l := range m.cgroup.legacy {
		if m.cgroup.legacy[i].tasks, err = openTasks(l.dir); err != nil {
			return err
		}
		m.keep(m.cgroup.legacy[i].tasks)
	}
	return nil
}

// enterSub replaces a container's cgroups by some below them.
func (c *cgroup) enterSub(subs map[string]string) error {
	if len(subs) > 0 && c == nil {
		return fmt.Errorf("cgroup %v: %w: the container has none", subs, ErrUnsupported)
	}
	for controller, name := range subs {
		rel := strings.TrimPrefix(name, "/")
		if rel != "" && !filepath.IsLocal(rel) {
			return fmt.Errorf("%w: cgroup %q is not below the container's", ErrSpec, name)
		}
		found := false
		enter := func(dir *string) {
			if sub := filepath.Join(*dir, rel); isDir(sub) {
				*dir, found = sub, true
			}
		}
		if controller == "" && c.dir != "" {
			enter(&c.dir)
		}
		for i, l := range c.legacy {
			_, named := firstOf(subs, l.controllers)
			if controller == "" && !named || slices.Contains(l.controllers, controller) {
				enter(&c.legacy[i].dir)
			}
		}
		if !found {
			return fmt.Errorf("cgroup %q: %w below the container's", name, fs.ErrNotExist)
		}
	}
	return nil
}

func firstOf(subs map[string]string, controllers []string) (name string, ok bool) {
	for _, c := range controllers {
		if name, ok = subs[c]; ok {
			return name, true
		}
	}
	return "", false
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// forkInto forks the process into the container's cgroup. If there can be none any more, since the
// container has made cgroups for its own processes in it, it goes where the first process is.
func (m *maker) forkInto(ctx context.Context, pid int, p *sys.Program) (*sys.Child, error) {
	if m.cgroup == nil || m.cgroup.fd == nil {
		return m.fork(ctx, nil, p)
	}
	child, err := m.fork(ctx, m.cgroup.fd, p)
	if !errors.Is(err, syscall.EBUSY) || len(m.cfg.SubCgroups) > 0 {
		return child, err
	}
	inner, cgroupErr := openCgroupOf(pid, m.host.unified.mount)
	if cgroupErr != nil {
		return nil, cgroupErr
	}
	defer inner.Close()
	return m.fork(ctx, inner, p)
}

// openCgroupOf opens the cgroup2 cgroup that a process is in.
func openCgroupOf(pid int, mount string) (*os.File, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::/")
		if ok && (name == "" || filepath.IsLocal(name)) {
			return sys.OpenPath(filepath.Join(mount, name))
		}
	}
	return nil, fmt.Errorf("process %d: %w: its cgroup is not one of ours", pid, ErrUnsupported)
}

// ended tells by ErrEnded of what only a process that has ended gives.
func ended(err error) error {
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) || errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrEnded, err)
	}
	// A pid namespace whose first process has ended takes no other one.
	if errors.Is(err, syscall.ENOMEM) {
		return fmt.Errorf("%w, or there is no memory: %w", ErrEnded, err)
	}
	return err
}
