package container

import (
	"fmt"
	"strings"

	"github.com/tarnfs/tarn/internal/sys"
)

// mountOptions are the options of one mount of the specification, sorted by who takes them.
type mountOptions struct {
	// set and clear are the attributes of the mount itself, treeSet and treeClear also of those
	// below it.
	set, clear, treeSet, treeClear uint64
	bind, recursive                bool
	propagation                    uint64
	propagateTree                  bool
	// data goes to the file system; the value of an option without one is "".
	data [][2]string
}

func (o *mountOptions) readOnly() bool { return o.set&sys.AttrReadOnly != 0 }

// attribute is what an option of mount(8) means for mount_setattr(2).
type attribute struct{ set, clear uint64 }

// attributes gives the options that are attributes of a mount. Each also exists with an "r" before
// it, for the mount and all below (config.md, "Linux mount options").
func attributes() map[string]attribute {
	flag := func(bit uint64) attribute { return attribute{set: bit} }
	off := func(bit uint64) attribute { return attribute{clear: bit} }
	// The access time settings are one field: to set one, the field must be cleared.
	atime := func(bits uint64) attribute { return attribute{set: bits, clear: sys.AttrAtimeMask} }
	return map[string]attribute{
		"ro": flag(sys.AttrReadOnly), "rw": off(sys.AttrReadOnly),
		"nosuid": flag(sys.AttrNoSuid), "suid": off(sys.AttrNoSuid),
		"nodev": flag(sys.AttrNoDev), "dev": off(sys.AttrNoDev),
		"noexec": flag(sys.AttrNoExec), "exec": off(sys.AttrNoExec),
		"nosymfollow": flag(sys.AttrNoSymFollow), "symfollow": off(sys.AttrNoSymFollow),
		"nodiratime": flag(sys.AttrNoDirAtime), "diratime": off(sys.AttrNoDirAtime),
		"noatime": atime(sys.AttrNoAtime), "atime": atime(sys.AttrRelAtime),
		"relatime": atime(sys.AttrRelAtime), "norelatime": atime(sys.AttrStrictAtime),
		"strictatime": atime(sys.AttrStrictAtime), "nostrictatime": atime(sys.AttrRelAtime),
	}
}

// propagations gives the propagation types. Each also exists with an "r" before it.
func propagations() map[string]uint64 {
	return map[string]uint64{
		"private": sys.PropagationPrivate, "slave": sys.PropagationSlave,
		"shared": sys.PropagationShared, "unbindable": sys.PropagationUnbindable,
	}
}

func parseOptions(options []string) (mountOptions, error) {
	attrs, props := attributes(), propagations()
	var o mountOptions
	for _, option := range options {
		tree, isTree := strings.CutPrefix(option, "r")
		switch {
		case option == "" || option == "defaults":
		case option == "bind":
			o.bind = true
		case option == "rbind":
			o.bind, o.recursive = true, true
		case option == "tmpcopyup", option == "copy-symlink", option == "idmap", option == "ridmap", option == "remount":
			return o, fmt.Errorf("mount option %q: %w", option, ErrUnsupported)
		case props[option] != 0:
			o.propagation, o.propagateTree = props[option], false
		case isTree && props[tree] != 0:
			o.propagation, o.propagateTree = props[tree], true
		case attrs[option] != attribute{}:
			apply(attrs[option], &o.set, &o.clear)
		case isTree && attrs[tree] != attribute{}:
			apply(attrs[tree], &o.treeSet, &o.treeClear)
		default:
			key, value, _ := strings.Cut(option, "=")
			o.data = append(o.data, [2]string{key, value})
		}
	}
	return o, nil
}

// apply has the last of contradicting options win.
func apply(a attribute, set, clearBits *uint64) {
	*set = *set&^a.clear | a.set
	*clearBits = *clearBits&^a.set | a.clear
}
