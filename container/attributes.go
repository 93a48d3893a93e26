package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

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
	if policy := m.spec.Linux.MemoryPolicy; policy != nil {
		mode, nodes, err := memoryPolicy(policy)
		if err != nil {
			return err
		}
		p.SetMemoryPolicy(mode, nodes)
	}
	return nil
}

func memoryPolicy(policy *specs.LinuxMemoryPolicy) (mode int, nodes []int, err error) {
	mode, ok := sys.MemoryPolicyMode(string(policy.Mode))
	if !ok {
		return 0, nil, fmt.Errorf("%w: linux.memoryPolicy: mode %q", ErrSpec, policy.Mode)
	}
	for _, name := range policy.Flags {
		bit, ok := sys.MemoryPolicyFlag(string(name))
		if !ok {
			return 0, nil, fmt.Errorf("%w: linux.memoryPolicy: flag %q", ErrSpec, name)
		}
		mode |= bit
	}
	if policy.Nodes == "" {
		return mode, nil, nil
	}
	nodes, err = parseNodes(policy.Nodes)
	return mode, nodes, err
}

// parseNodes takes a list like "0-3,7".
func parseNodes(list string) (nodes []int, err error) {
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || from > to || to >= sys.MaxNodes {
			return nil, fmt.Errorf("%w: memory nodes %q", ErrSpec, list)
		}
		for n := from; n <= to; n++ {
			nodes = append(nodes, int(n))
		}
	}
	return nodes, nil
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

// needsRealtime tells whether the process is to be one for the kernel's realtime schedulers, and no limit says how much
// time such have: a new cgroup of version 1's cpu controller has none.
func (m *maker) needsRealtime() bool {
	s := m.spec.Process.Scheduler
	if s == nil || m.spec.Linux.Resources != nil && m.spec.Linux.Resources.CPU != nil {
		return false
	}
	return s.Policy == specs.SchedFIFO || s.Policy == specs.SchedRR || s.Policy == specs.SchedDeadline
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
	if seLinux != "" && !seLinuxEnabled() {
		return fmt.Errorf("process.selinuxLabel: %w: this host has no SELinux", ErrUnsupported)
	}
	return nil
}

func seLinuxEnabled() bool {
	_, err := os.Stat(seLinuxFile)
	return err == nil
}

func appArmorEnabled() bool {
	text, err := os.ReadFile(appArmorFile)
	return err == nil && len(text) > 0 && text[0] == 'Y'
}
