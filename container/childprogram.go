package container

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// execStep names the last step of the child.
const execStep = "exec"

// defaultMaxFiles is a container's soft limit of open files, unless it has one of its own: what
// systemd gives its services. (Go raises this program's own at its start, which the container must
// not inherit: programs that use select(2) break, and others loop over all descriptors.)
const defaultMaxFiles = 1024

// writeBeginning writes down what the process does first: what takes rights on the host, if it will have
// none soon, and entering namespaces.
func (m *maker) writeBeginning(p *sys.Program) error {
	p.NotDumpable()
	if m.birth != nil {
		if err := m.writeEnter(p); err != nil {
			return err
		}
	}
	if m.namespaces.user != nil {
		// In its user namespace it has no right to these any more.
		if err := m.writeHost(p); err != nil {
			return err
		}
	}
	m.namespaces.write(p)
	return nil
}

// writeHost has the process take what takes rights on the host.
func (m *maker) writeHost(p *sys.Program) error {
	if m.cgroup != nil {
		for _, l := range m.cgroup.legacy {
			if slices.Contains(l.controllers, "cpu") && m.needsRealtime() {
				continue
			}
			p.Write("join cgroup "+l.dir, l.tasks, "0") // 0 is who writes
		}
	}
	return m.writeAttributes(p)
}

// writeProgram writes down the rest of what the process does before it executes the container's program.
// The order matters:
//   - mounts and the cgroup namespace need all capabilities;
//   - the working directory is entered as root, or else again as the user;
//   - a seccomp filter comes last, so that it need not allow what is done here, but needs CAP_SYS_ADMIN
//     or no_new_privs: without the latter, only giving that up comes after it, as in runc;
//   - a parent-death signal is forgotten when user IDs change.
func (m *maker) writeProgram(p *sys.Program) error {
	process := m.spec.Process
	p.ResetSignals()
	if m.namespaces.user == nil {
		if err := m.writeHost(p); err != nil {
			return err
		}
	}
	p.NewSession()
	if !m.cfg.KeepKeyring {
		p.NewSessionKeyring()
	}
	for i, f := range m.stdio {
		p.Dup(f, i)
	}
	if process.Terminal {
		p.ControllingTerminal(m.stdio[0])
	}
	if m.namespaces.cgroup {
		p.Unshare(sys.NewCgroup)
	}
	if err := m.tree.protectProc(p); err != nil {
		return err
	}
	m.stops.pivot.write(p)
	switch {
	case m.namespaces.hostMounts && m.joins, m.cfg.NoPivot:
		p.EnterRoot(m.cfg.Root)
	case m.namespaces.hostMounts:
		p.EnterWith(m.hostMounts, m.cfg.Root)
	}
	if err := m.writeLimits(p); err != nil {
		return err
	}
	if err := m.writeLabels(p); err != nil {
		return err
	}
	cwd := p.Chdir(process.Cwd)
	caps, err := m.capabilities()
	if err != nil {
		return err
	}
	p.BoundCaps(caps.kernel, caps.bounding)
	if len(process.User.AdditionalGids) > 0 || !m.nested || !sys.GroupsAreFixed(0) {
		p.SetGroups(process.User.AdditionalGids)
	}
	p.SetUser(process.User.UID, process.User.GID)
	filterFirst := len(m.cfg.Seccomp) > 0 && !process.NoNewPrivileges
	if filterFirst {
		p.SetCaps(caps.admin, caps.own, 0, 0)
	} else {
		caps.set(p)
	}
	p.ChdirAgain(process.Cwd, cwd)
	m.keepFiles(p)
	if m.stops.seccomp == nil {
		m.stops.exec.write(p)
	}
	if m.cfg.DieWithParent {
		p.DieWithParent(m.self)
	}
	for _, name := range append([]string{m.program.path}, m.program.interpreters...) {
		p.RefuseMagicLinks(execStep, name)
	}
	if process.NoNewPrivileges {
		p.NoNewPrivs()
	}
	m.loadFilter(p)
	if filterFirst {
		caps.set(p)
	}
	if m.stops.seccomp != nil {
		m.stops.exec.write(p) // after the filter: while the process waits there, who takes its listener may have gone
	}
	p.Exec(execStep, m.program.path, process.Args, process.Env)
	return nil
}

func (m *maker) writeLimits(p *sys.Program) error {
	umask := uint32(0o022)
	if m.spec.Process.User.Umask != nil {
		umask = *m.spec.Process.User.Umask
	}
	p.Umask(umask)
	if m.namespaces.user != nil {
		return nil // limitFromOutside
	}
	limits, err := limitsOfProcess(m.spec.Process)
	for _, l := range limits {
		p.Rlimit(l.resource, l.soft, l.hard)
	}
	return err
}

// rlimit is a resource limit.
type rlimit struct {
	resource   int
	soft, hard uint64
}

func limitsOfProcess(process *specs.Process) ([]rlimit, error) {
	hard, err := sys.MaxFiles()
	if err != nil {
		return nil, err
	}
	files, _ := sys.RlimitNumber("RLIMIT_NOFILE")
	limits := []rlimit{{files, min(defaultMaxFiles, hard), hard}}
	for _, l := range process.Rlimits {
		n, ok := sys.RlimitNumber(l.Type)
		if !ok {
			return nil, fmt.Errorf("%w: unknown resource limit %q", ErrSpec, l.Type)
		}
		limits = append(limits, rlimit{n, l.Soft, l.Hard})
	}
	return limits, nil
}

// capabilities are a container's, and those that its process has on its way there.
type capabilities struct {
	bounding, effective, permitted, inheritable, ambient sys.Caps

	kernel sys.Caps // all there are
	own    sys.Caps // permitted to the process until it gives them up
	admin  sys.Caps // CAP_SYS_ADMIN
}

func (m *maker) capabilities() (c capabilities, err error) {
	wanted := m.spec.Process.Capabilities
	if wanted == nil {
		wanted = &specs.LinuxCapabilities{}
	}
	if c.kernel, err = sys.KernelCaps(); err != nil {
		return c, err
	}
	if c.own = c.kernel; m.namespaces.user == nil {
		if c.own, err = sys.PermittedCaps(); err != nil {
			return c, err
		}
	}
	c.admin, _ = sys.ParseCaps([]string{"CAP_SYS_ADMIN"})
	allowed := c.own // what the kernel does not know, nobody has, and what we have not, we cannot give: see Warnings
	if m.tree.noDevices {
		// Who can make the node of a disk could read it.
		mknod, _ := sys.ParseCaps([]string{"CAP_MKNOD"})
		allowed &^= mknod
	}
	for _, set := range []struct {
		to    *sys.Caps
		names []string
	}{
		{&c.bounding, wanted.Bounding},
		{&c.effective, wanted.Effective},
		{&c.permitted, wanted.Permitted},
		{&c.inheritable, wanted.Inheritable},
		{&c.ambient, wanted.Ambient},
	} {
		caps, _ := sys.ParseCaps(set.names)
		*set.to = caps & allowed
	}
	// The kernel has no ambient capability that is not permitted and inheritable as well. The examples
	// of runc and crun have such, and both pass them over.
	c.ambient &= c.permitted & c.inheritable
	return c, nil
}

// set gives the process the capabilities of the container.
func (c *capabilities) set(p *sys.Program) {
	p.SetCaps(c.effective, c.permitted, c.inheritable, c.ambient)
}
