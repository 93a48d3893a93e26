package container

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// mountOptions are the options of one mount of the specification, sorted by who takes them.
type mountOptions struct {
	// set and clear are the attributes of the mount itself, treeSet and treeClear also of those
	// below it.
	set, clear, treeSet, treeClear uint64
	bind, recursive                bool
	// remount changes what is mounted already; copyUp fills a tmpfs with what it covers.
	remount, copyUp bool
	// copySymlink makes the same symbolic link in place of a bind mount of what it leads to, as in crun.
	copySymlink bool
	// idmap gives a bind mount other owners: of the mount itself, with idmapTree also of those below.
	idmap, idmapTree bool
	propagation      uint64
	propagateTree    bool
	// data goes to the file system; the value of an option without one is "".
	data [][2]string
}

// attribute is what an option of mount(8) means for mount_setattr(2).
type attribute struct{ set, clear uint64 }

// attributeOf gives what an option means that is an attribute of a mount; false if it is none. Each
// also exists with an "r" before it, for the mount and all below (config.md, "Linux mount
// options").
func attributeOf(option string) (attribute, bool) {
	flag := func(bit uint64) (attribute, bool) { return attribute{set: bit}, true }
	off := func(bit uint64) (attribute, bool) { return attribute{clear: bit}, true }
	// The access time settings are one field: to set one, the field must be cleared.
	atime := func(bits uint64) (attribute, bool) { return attribute{set: bits, clear: sys.AttrAtimeMask}, true }
	switch option {
	case "ro":
		return flag(sys.AttrReadOnly)
	case "rw":
		return off(sys.AttrReadOnly)
	case "nosuid":
		return flag(sys.AttrNoSuid)
	case "suid":
		return off(sys.AttrNoSuid)
	case "nodev":
		return flag(sys.AttrNoDev)
	case "dev":
		return off(sys.AttrNoDev)
	case "noexec":
		return flag(sys.AttrNoExec)
	case "exec":
		return off(sys.AttrNoExec)
	case "nosymfollow":
		return flag(sys.AttrNoSymFollow)
	case "symfollow":
		return off(sys.AttrNoSymFollow)
	case "nodiratime":
		return flag(sys.AttrNoDirAtime)
	case "diratime":
		return off(sys.AttrNoDirAtime)
	case "noatime":
		return atime(sys.AttrNoAtime)
	case "relatime", "atime", "nostrictatime":
		return atime(sys.AttrRelAtime)
	case "strictatime", "norelatime":
		return atime(sys.AttrStrictAtime)
	}
	return attribute{}, false
}

// propagationOf gives a propagation type by its name, 0 if it is none. Each also exists with an "r"
// before it, for the mount and all below.
func propagationOf(option string) uint64 {
	switch option {
	case "private":
		return sys.PropagationPrivate
	case "slave":
		return sys.PropagationSlave
	case "shared":
		return sys.PropagationShared
	case "unbindable":
		return sys.PropagationUnbindable
	}
	return 0
}

// has tells whether the file system is given an option of that name.
func (o *mountOptions) has(key string) bool {
	return slices.ContainsFunc(o.data, func(d [2]string) bool { return d[0] == key })
}

func parseOptions(options []string) (o mountOptions) {
	for _, option := range options {
		o.add(option)
	}
	return o
}

func (o *mountOptions) add(option string) {
	switch option {
	case "", "defaults":
		return
	case "bind":
		o.bind = true
		return
	case "rbind":
		o.bind, o.recursive = true, true
		return
	case "remount":
		o.remount = true
		return
	case "tmpcopyup":
		o.copyUp = true
		return
	case "idmap":
		o.idmap, o.idmapTree = true, false
		return
	case "ridmap":
		o.idmap, o.idmapTree = true, true
		return
	case "silent", "loud": // what the kernel's log has of it
		return
	case "copy-symlink":
		o.copySymlink = true
		return
	}
	if p := propagationOf(option); p != 0 {
		o.propagation, o.propagateTree = p, false
		return
	}
	if a, ok := attributeOf(option); ok {
		apply(a, &o.set, &o.clear)
		return
	}
	if tree, ok := strings.CutPrefix(option, "r"); ok {
		if p := propagationOf(tree); p != 0 {
			o.propagation, o.propagateTree = p, true
			return
		}
		if a, ok := attributeOf(tree); ok {
			apply(a, &o.treeSet, &o.treeClear)
			return
		}
	}
	key, value, _ := strings.Cut(option, "=")
	o.data = append(o.data, [2]string{key, value})
}

// ofSuperblock tells whether an option is about a whole file system, whatever its type: a bind mount
// has that of its source, and mount(2) passes such options over.
func ofSuperblock(option string) bool {
	list := []string{
		"sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand", "iversion", "noiversion", "acl", "noacl",
	}
	return slices.Contains(list, option)
}

// apply has the last of contradicting options win.
func apply(a attribute, set, clearBits *uint64) {
	*set = *set&^a.clear | a.set
	*clearBits = *clearBits&^a.set | a.clear
}

// isBind tells whether a mount is a bind mount: its options say so, whatever its type is.
func isBind(m specs.Mount) bool {
	return slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// destination is the clean absolute path of a mount in the container.
func destination(m specs.Mount) string { return path.Clean("/" + m.Destination) }
