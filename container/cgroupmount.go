package container

import (
	"fmt"
	"os"
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// mountCgroups shows the container its cgroups. A cgroup file system mounted from inside a cgroup
// namespace has that namespace's root as its root; a bind mount of that directory from the host's
// mount is the same thing (the kernel has one superblock per hierarchy), costs less, and needs
// nobody in the namespace yet.
//
// Where there are hierarchies of version 1, the layout is the host's: a tmpfs with a directory
// for each, and "unified".
func (t *tree) mountCgroups(dest string, o mountOptions) error {
	target, err := mountPoint(t.root, dest, directory)
	if err != nil {
		return err
	}
	defer target.Close() //nolint:errcheck // O_PATH
	if len(t.host.legacy) == 0 {
		if t.host.unified.mount == "" {
			return nil // a host without cgroups
		}
		return t.bindHierarchy(t.host.unified, target, o)
	}
	// The tmpfs becomes read-only when it is filled.
	tmpfs, err := newFS("tmpfs", "tmpfs", [][2]string{{"mode", "755"}}, o.set&^sys.AttrReadOnly)
	if err != nil {
		return err
	}
	defer tmpfs.Close() //nolint:errcheck // attached
	if err := sys.MoveMount(tmpfs, target); err != nil {
		return err
	}
	all := t.host.legacy
	if t.host.unified.mount != "" {
		all = append(all, t.host.unified)
	}
	for _, h := range all {
		if err := t.bindHierarchyIn(tmpfs, h, o); err != nil {
			return err
		}
	}
	return sys.SetMountAttr(tmpfs, false, o.set, 0, 0)
}

func (t *tree) bindHierarchyIn(tmpfs *os.File, h hierarchy, o mountOptions) error {
	name := path.Base(h.mount)
	if err := sys.MakeDir(tmpfs, name, 0o755); err != nil {
		return err
	}
	target, err := sys.OpenEntry(tmpfs, name, sys.OpenDirectory)
	if err != nil {
		return err
	}
	defer target.Close() //nolint:errcheck // O_PATH
	return t.bindHierarchy(h, target, o)
}

// bindHierarchy attaches the part of a hierarchy that the container may see.
func (t *tree) bindHierarchy(h hierarchy, target *os.File, o mountOptions) error {
	source, err := sys.OpenSource(t.visible(h))
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // O_PATH
	mount, err := sys.CloneTree(source, false)
	if err != nil {
		return err
	}
	defer mount.Close() //nolint:errcheck // attached
	if err := sys.SetMountAttr(mount, false, o.set, o.clear, sys.PropagationPrivate); err != nil {
		return fmt.Errorf("cgroup %s: %w", h.mount, err)
	}
	return t.attach(mount, target, mountOptions{propagation: o.propagation})
}

// visible is the directory on the host that is the root of what the container sees of a hierarchy.
func (t *tree) visible(h hierarchy) string {
	if !hasNamespace(t.spec, specs.CgroupNamespace) {
		return h.mount
	}
	if h.mount == t.host.unified.mount && t.own != nil {
		return t.own.dir
	}
	return path.Join(h.mount, h.self)
}
