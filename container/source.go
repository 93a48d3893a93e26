package container

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// sources are what is bind-mounted, by the mount's place in the specification; nil for others.
type sources []*source

// source is a file or a directory of the host, with all that the mount's options want of it, as a
// mount that is attached nowhere.
type source struct {
	mount *os.File
	kind  kind
	link  string // what is to be a symbolic link to this, and no mount
}

func (s sources) close() {
	for _, source := range s {
		if source != nil && source.mount != nil {
			_ = source.mount.Close()
		}
	}
}

// cloneSources makes the bind mounts of a specification, in the caller's mount namespace: only
// there are they related to the host's mounts, whose events those that propagate are to see. users is the
// container's user namespace, or nil.
func cloneSources(spec *specs.Spec, ready map[string]*os.File, users *os.File) (_ sources, err error) {
	all := make(sources, len(spec.Mounts))
	for i, m := range spec.Mounts {
		if !isBind(m) || slices.Contains(m.Options, "remount") {
			continue
		}
		if f := ready[m.Destination]; f != nil {
			all[i], err = readySource(m, f)
		} else {
			all[i], err = cloneSource(m, users)
		}
		if err != nil {
			all.close()
			return nil, fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	return all, nil
}

func cloneSource(m specs.Mount, users *os.File) (*source, error) {
	o := parseOptions(m.Options)
	if !filepath.IsAbs(m.Source) {
		return nil, fmt.Errorf("%w: the source %q is not an absolute path", ErrSpec, m.Source)
	}
	if link, err := os.Readlink(m.Source); err == nil && o.copySymlink {
		return &source{link: link}, nil
	}
	path, err := sys.OpenSource(m.Source)
	if err != nil {
		return nil, err
	}
	defer path.Close()
	node, err := sys.StatNode(path)
	if err != nil {
		return nil, err
	}
	mount, err := sys.CloneTree(path, o.recursive)
	if err != nil {
		return nil, err
	}
	err = mapIDs(mount, m, o, users)
	if err == nil {
		err = applyOptions(mount, o)
	}
	if err != nil {
		_ = mount.Close()
		return nil, err
	}
	return &source{mount: mount, kind: node.Type == sys.TypeDir}, nil
}

// readySource takes a mount that is attached nowhere as it is. It is not the caller's to close any more.
func readySource(m specs.Mount, mount *os.File) (*source, error) {
	o := parseOptions(m.Options)
	node, err := sys.StatNode(mount)
	if err == nil {
		err = applyOptions(mount, o)
	}
	return &source{mount: mount, kind: node.Type == sys.TypeDir}, err
}

// applyOptions gives a bind mount its attributes and propagation.
func applyOptions(mount *os.File, o mountOptions) error {
	if o.propagation == 0 {
		// What happens on the host later is the host's, unless it is asked for.
		o.propagation, o.propagateTree = sys.PropagationPrivate, true
	}
	if err := sys.SetMountAttr(mount, o.propagateTree, 0, 0, o.propagation); err != nil {
		return err
	}
	if o.treeSet|o.treeClear != 0 {
		if err := sys.SetMountAttr(mount, true, o.treeSet, o.treeClear, 0); err != nil {
			return err
		}
	}
	if o.set|o.clear == 0 {
		return nil
	}
	return sys.SetMountAttr(mount, false, o.set, o.clear, 0)
}
