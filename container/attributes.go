package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// writeAttributes has the process take what it is to be for the kernel's schedulers, the killer of
// processes when memory is short, and security modules. Most of it takes the host's privileges.
func (m *maker) writeAttributes(p *sys.Program) error {
	process := m.spec.Process
	if process.OOMScoreAdj != nil {
		if err := m.writeProc(p, "oom_score_adj", strconv.Itoa(*process.OOMScoreAdj)); err != nil {
			return err
		}
	}
	if s := process.Scheduler; s != nil && m.namespaces.user == nil { // else limitFromOutside
		attributes, err := scheduling(s)
		if err != nil {
			return err
		}
		p.SetScheduling(attributes)
	}
	if io := process.IOPriority; io != nil {
		class, ok := sys.IOPriorityClass(string(io.Class))
		if !ok || io.Priority < 0 || io.Priority > 7 {
			return fmt.Errorf("%w: I/O priority %d of class %q", ErrSpec, io.Priority, io.Class)
		}
		p.SetIOPriority(class, io.Priority)
	}
	if domain := m.spec.Linux.Personality; domain != nil {
		number, err := personality(domain)
		if err != nil {
			return err
		}
		p.SetPersonality(number)
	}
	return nil
}

// writeProc writes to a file of the process's own in the host's procfs: the container's may not be
// there, or be anything.
func (m *maker) writeProc(p *sys.Program, file, content string) error {
	if m.proc == nil {
		proc, err := sys.OpenPath("/proc")
		if err != nil {
			return err
		}
		m.keep(proc)
		if magic, err := sys.FSType(proc); err != nil || magic != sys.MagicProc {
			return fmt.Errorf("%s: /proc of the host is not procfs: %w", file, err)
		}
		m.proc = proc
	}
	p.WriteFile(file, m.proc, "self/"+file, content)
	return nil
}

func scheduling(s *specs.Scheduler) (a sys.Scheduling, err error) {
	var ok bool
	if a.Policy, ok = sys.SchedulingPolicy(string(s.Policy)); !ok {
		return a, fmt.Errorf("%w: scheduler policy %q", ErrSpec, s.Policy)
	}
	for _, name := range s.Flags {
		bit, ok := sys.SchedulingFlag(string(name))
		if !ok {
			return a, fmt.Errorf("%w: scheduler flag %q", ErrSpec, name)
		}
		a.Flags |= bit
	}
	a.Nice, a.Priority, a.Runtime, a.Deadline, a.Period = s.Nice, s.Priority, s.Runtime, s.Deadline, s.Period
	return a, nil
}

func personality(l *specs.LinuxPersonality) (sys.Personality, error) {
	if len(l.Flags) > 0 {
		return 0, fmt.Errorf("%w: there is no personality flag %q", ErrSpec, l.Flags[0])
	}
	switch l.Domain {
	case specs.PerLinux:
		return sys.PersonalityLinux, nil
	case specs.PerLinux32:
		return sys.PersonalityLinux32, nil
	default:
		return 0, fmt.Errorf("%w: personality %q", ErrSpec, l.Domain)
	}
}

// Files that are there when a security module is.
const (
	appArmorFile = "/sys/module/apparmor/parameters/enabled"
	seLinuxFile  = "/sys/fs/selinux/enforce"
)

// writeLabels has the exec give the process its labels of security modules; they are about the
// container's program, so they come just before it.
func (m *maker) writeLabels(p *sys.Program) error {
	if profile := m.spec.Process.ApparmorProfile; profile != "" {
		file := "attr/apparmor/exec"
		if _, err := os.Stat("/proc/self/" + file); errors.Is(err, fs.ErrNotExist) {
			file = "attr/exec" // before Linux 5.8
		}
		if err := m.writeProc(p, file, "exec "+profile); err != nil {
			return err
		}
	}
	if label := m.spec.Process.SelinuxLabel; label != "" {
		return m.writeProc(p, "attr/exec", label)
	}
	return nil
}

// checkLabels refuses labels of modules that the host has not: a container must not run with less
// protection than it was meant to have.
func checkLabels(appArmor, seLinux string) error {
	if appArmor != "" && !appArmorEnabled() {
		return fmt.Errorf("process.apparmorProfile: %w: this host has no AppArmor", ErrUnsupported)
	}
	if seLinux == "" {
		return nil
	}
	if _, err := os.Stat(seLinuxFile); err != nil {
		return fmt.Errorf("SELinux label %q: %w: this host has no SELinux", seLinux, ErrUnsupported)
	}
	return nil
}

func appArmorEnabled() bool {
	text, err := os.ReadFile(appArmorFile)
	return err == nil && len(text) > 0 && text[0] == 'Y'
}
