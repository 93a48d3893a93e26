package container

import (
	"fmt"
	"os"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// makeCgroups makes what shows the container its cgroups. A cgroup file system mounted from inside
// a cgroup namespace has that namespace's root as its root; a bind mount of that directory from the
// host's mount is the same thing (the kernel has one superblock per hierarchy), costs less, and
// needs nobody in the namespace yet.
//
// Where there are hierarchies of version 1, the layout is the host's: a tmpfs with a directory
// for each, and "unified". A host without cgroups gives an empty tmpfs.
func (t *tree) makeCgroups(m *mount) (err error) {
	unified := t.host.unified.mount != "" && t.host.own == nil
	if len(t.host.legacy) == 0 && unified {
		m.made, err = t.bindHierarchy(t.host.unified, m.options)
		return err
	}
	m.late = m.options.set & sys.AttrReadOnly
	if m.made, err = newFS("tmpfs", "tmpfs", [][2]string{{"mode", "755"}}, m.options.set&^m.late); err != nil {
		return err
	}
	t.keep(m.made)
	all := t.host.legacy
	if unified {
		all = append(all, t.host.unified)
	}
	for _, h := range all {
		name := path.Base(h.mount)
		if err := sys.MakeDir(m.made, name, 0o755); err != nil {
			return err
		}
		bind, err := t.bindHierarchy(h, m.options)
		if err != nil {
			return err
		}
		m.inside = append(m.inside, innerMount{name, bind})
	}
	return nil
}

// bindHierarchy gives the part of a hierarchy that the container may see.
func (t *tree) bindHierarchy(h hierarchy, o mountOptions) (*os.File, error) {
	source, err := sys.OpenSource(t.visible(h))
	if err != nil {
		return nil, err
	}
	defer source.Close()
	bind, err := sys.CloneTree(source, false)
	if err != nil {
		return nil, err
	}
	t.keep(bind)
	if err := sys.SetMountAttr(bind, false, o.set, o.clear, sys.PropagationPrivate); err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", h.mount, err)
	}
	return bind, nil
}

// visible is the directory on the host that is the root of what the container sees of a hierarchy. In version
// 1 that is its own cgroup also without a namespace, as in runc: programs look for their limits there.
func (t *tree) visible(h hierarchy) string {
	own := t.own.dirIn(h)
	unified := len(h.controllers) == 0
	switch {
	case own != "" && (!unified || hasNamespace(t.spec, specs.CgroupNamespace)):
		return own
	case strings.HasPrefix(h.self, "/.."), !hasNamespace(t.spec, specs.CgroupNamespace):
		return h.mount // what lies above the root of our own cgroup namespace has no name here
	default:
		return path.Join(h.mount, h.self)
	}
}
