package container

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// execStep names the last step of the child.
const execStep = "exec"

// defaultMaxFiles is a container's soft limit of open files, unless it has one of its own: what
// systemd gives its services. (Go raises this program's own at its start, which the container must
// not inherit: programs that use select(2) break, and others loop over all descriptors.)
const defaultMaxFiles = 1024

// writeProgram writes down what the process does before it executes the container's program. The
// order matters:
//   - mounts and the cgroup namespace need all capabilities;
//   - the working directory is entered as root, or else again as the user;
//   - a seccomp filter needs CAP_SYS_ADMIN or no_new_privs: with the latter it comes last, so that
//     it need not allow what is done here;
//   - a parent-death signal is forgotten when user IDs change.
func (m *maker) writeProgram(p *sys.Program) error {
	process := m.spec.Process
	p.NotDumpable()
	if m.cgroup != nil {
		for _, l := range m.cgroup.legacy {
			p.Write("join cgroup "+l.dir, l.procs, "0") // 0 is who writes
		}
	}
	p.ResetSignals()
	if err := m.writeAttributes(p); err != nil {
		return err
	}
	m.namespaces.write(p)
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
	if err := m.tree.mountProcs(p); err != nil {
		return err
	}
	m.stops.pivot.write(p)
	if err := m.writeLimits(p); err != nil {
		return err
	}
	if err := m.writeLabels(p); err != nil {
		return err
	}
	cwd := p.Chdir(process.Cwd)
	if !process.NoNewPrivileges {
		m.loadFilter(p)
	}
	if err := m.writeCredentials(p); err != nil {
		return err
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
		m.loadFilter(p)
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

// writeCredentials makes root the container's user with the container's capabilities.
func (m *maker) writeCredentials(p *sys.Program) error {
	caps := m.spec.Process.Capabilities
	if caps == nil {
		caps = &specs.LinuxCapabilities{}
	}
	all, err := sys.KernelCaps()
	if err != nil {
		return err
	}
	allowed := all
	if m.tree.noDevices {
		// Who can make the node of a disk could read it.
		mknod, err := sys.ParseCaps([]string{"CAP_MKNOD"})
		if err != nil {
			return err
		}
		allowed &^= mknod
	}
	var sets [5]sys.Caps
	for i, names := range [][]string{caps.Bounding, caps.Effective, caps.Permitted, caps.Inheritable, caps.Ambient} {
		set, err := sys.ParseCaps(names)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSpec, err)
		}
		// What an older kernel does not know, nobody has.
		sets[i] = set & allowed
	}
	p.BoundCaps(all, sets[0])
	user := m.spec.Process.User
	p.SetGroups(user.AdditionalGids)
	p.SetUser(user.UID, user.GID)
	// The kernel has no ambient capability that is not permitted and inheritable as well. The examples
	// of runc and crun have such, and both pass them over.
	p.SetCaps(sets[1], sets[2], sets[3], sets[4]&sets[2]&sets[3])
	return nil
}
