package container

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// idMap is how the IDs inside a user namespace, or on an ID-mapped mount's file system, are mapped
// to others.
type idMap []specs.LinuxIDMapping

// String gives it as the kernel takes it: user_namespaces(7), uid_map.
func (m idMap) String() string {
	var b strings.Builder
	for _, l := range m {
		b.WriteString(strconv.FormatUint(uint64(l.ContainerID), 10) + " " + strconv.FormatUint(uint64(l.HostID), 10) +
			" " + strconv.FormatUint(uint64(l.Size), 10) + "\n")
	}
	return b.String()
}

// outside gives what an ID from inside is outside.
func (m idMap) outside(id uint32) (uint32, bool) {
	for _, l := range m {
		if id >= l.ContainerID && id-l.ContainerID < l.Size {
			return l.HostID + (id - l.ContainerID), true
		}
	}
	return 0, false
}

// maxMappings is how many lines the kernel takes.
const maxMappings = 340

// check refuses what would be another mapping than it looks like.
func (m idMap) check(name string) error {
	if len(m) == 0 || len(m) > maxMappings {
		return fmt.Errorf("%s: %w: %d mappings", name, ErrSpec, len(m))
	}
	for _, l := range m {
		if l.Size == 0 || uint64(l.ContainerID)+uint64(l.Size) >= 1<<32 || uint64(l.HostID)+uint64(l.Size) >= 1<<32 { // the last number is no ID
			return fmt.Errorf("%s: %w: %d IDs from %d on, as %d", name, ErrSpec, l.Size, l.ContainerID, l.HostID)
		}
	}
	return nil
}

// wantsUsers tells whether a mount is to have the owners of the container's users.
func wantsUsers(m specs.Mount) bool {
	return len(m.UIDMappings)+len(m.GIDMappings) == 0 && (slices.Contains(m.Options, "idmap") || slices.Contains(m.Options, "ridmap"))
}

// mapIDs gives a bind mount other owners (mount_setattr(2), MOUNT_ATTR_IDMAP): those of its own mappings, or
// those of the container's users.
func mapIDs(mount *os.File, m specs.Mount, o mountOptions, users *os.File) error {
	uids, gids := idMap(m.UIDMappings), idMap(m.GIDMappings)
	if len(uids)+len(gids) == 0 {
		if !o.idmap {
			return nil
		}
		if users == nil {
			return fmt.Errorf("%w: an idmap mount without mappings needs a user namespace with mappings", ErrSpec)
		}
		return sys.MapMountIDs(mount, o.idmapTree, users)
	}
	if err := uids.check("uidMappings"); err != nil {
		return err
	}
	if err := gids.check("gidMappings"); err != nil {
		return err
	}
	ns, err := newUserNamespace(uids, gids)
	if err != nil {
		return err
	}
	defer ns.Close()
	return sys.MapMountIDs(mount, o.idmapTree, ns)
}
