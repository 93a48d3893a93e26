package container

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/tarnfs/tarn/internal/sys"
)

// cover is a mount to be attached at a path below a procfs.
type cover struct {
	path  string
	mount *os.File
}

// isProc tells whether a mount is procfs, which shows the pid namespace of who makes it: only the
// container's process can.
func (m *mount) isProc() bool { return m.Type == "proc" && !m.options.bind && !m.options.remount }

// procs are the mounts of procfs.
func (t *tree) procs() []*mount {
	var all []*mount
	for i := range t.mounts {
		if t.mounts[i].isProc() {
			all = append(all, &t.mounts[i])
		}
	}
	return all
}

// makeProcs has the container's process make procfs.
func (m *maker) makeProcs() error {
	procs := m.tree.procs()
	made := make([]sys.Reg, len(procs))
	if err := m.begin(func(p *sys.Program) {
		for i, proc := range procs {
			made[i] = p.MakeProc(int(proc.options.set), proc.options.data)
		}
	}); err != nil {
		return err
	}
	for i, proc := range procs {
		proc.made = m.tree.keep(m.child.File(made[i], "proc"))
	}
	return nil
}

// coverable are the files of procfs that a mount may hide, as in runc: those that tell of a
// machine's size, which lxcfs fakes. Anything else could make the kernel's own files lie to the
// container's programs, or to us.
func coverable() []string {
	return []string{
		"cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev",
		"sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
	}
}

// coverProc prepares a bind mount onto a file of /proc.
func (t *tree) coverProc(m *mount, from *source) error {
	if m.dest == "/proc" || from == nil || !slices.Contains(coverable(), m.dest[len("/proc/"):]) {
		return fmt.Errorf("%w: this cannot be mounted over inside /proc", ErrSpec)
	}
	if from.kind == directory || from.link != "" {
		return fmt.Errorf("%w: %s is no file", ErrSpec, m.Source)
	}
	t.covers = append(t.covers, cover{m.dest[len("/proc/"):], from.mount})
	return nil
}

// protectProc has the container's process cover, protect and hide what is in /proc: some of its paths mean
// what they should in the pid namespace only.
func (t *tree) protectProc(p *sys.Program) error {
	if t.proc == nil {
		return nil
	}
	proc := t.proc.made
	for _, c := range t.covers {
		p.Attach("mount /proc/"+c.path, c.mount, proc, c.path, true)
	}
	for _, name := range t.spec.Linux.ReadonlyPaths {
		if rel, ok := inProc(name); ok {
			p.ReadOnly("make "+name+" read-only", proc, rel)
		}
	}
	if len(t.spec.Linux.MaskedPaths) == 0 {
		return nil
	}
	null, err := t.null()
	if err != nil {
		return fmt.Errorf("mask with /dev/null: %w", err)
	}
	t.keep(null)
	for _, name := range t.spec.Linux.MaskedPaths {
		if rel, ok := inProc(name); ok {
			p.Mask("mask "+name, null, proc, rel)
		}
	}
	return nil
}

// inProc gives the part of a path below /proc.
func inProc(name string) (rel string, ok bool) {
	rel, err := filepath.Rel("/proc", path.Clean("/"+name))
	return rel, err == nil && filepath.IsLocal(rel)
}
