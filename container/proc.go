package container

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/tarnfs/tarn/internal/sys"
)

// procMount is a procfs to be mounted, with what will cover parts of it.
type procMount struct {
	target  *os.File
	options mountOptions
	covers  []cover
}

// cover is a mount to be attached at a path below a procfs.
type cover struct {
	path  string
	mount *os.File
}

// addProc prepares a procfs mount.
func (t *tree) addProc(m *mount) error {
	target, err := plainDirectory(t.root, m.dest)
	if err != nil {
		return err
	}
	p := t.proc
	if m.dest != "/proc" || p == nil || p.target != nil {
		p = &procMount{}
		t.procs = append(t.procs, p)
	}
	p.target, p.options = t.keep(target), m.options
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
	if from.kind == directory {
		return fmt.Errorf("%w: %s is a directory", ErrSpec, m.Source)
	}
	t.proc.covers = append(t.proc.covers, cover{m.dest[len("/proc/"):], from.mount})
	return nil
}

// mountProcs has the child mount procfs and protect its files: it is the one who is in the pid
// namespace. It gives /proc, or 0.
func (t *tree) mountProcs(p *sys.Program) error {
	var proc sys.Reg
	for _, m := range t.procs {
		mount := p.MountProc(m.target, int(m.options.set), m.options.data)
		for _, c := range m.covers {
			p.Attach("mount /proc/"+c.path, c.mount, mount, c.path, true)
		}
		if m == t.proc {
			proc = mount
		}
	}
	if t.proc == nil {
		return nil
	}
	for _, name := range t.spec.Linux.ReadonlyPaths {
		if rel, ok := inProc(name); ok {
			p.ReadOnly("make "+name+" read-only", proc, rel)
		}
	}
	return t.maskProc(p, proc)
}

func (t *tree) maskProc(p *sys.Program, proc sys.Reg) error {
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
