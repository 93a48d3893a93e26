package engine

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
)

// idMaps are how the users and groups of a container are mapped to the host's. A nil *idMaps is for one that has the
// host's.
type idMaps struct{ uids, gids []specs.LinuxIDMapping }

// ids gives those of a running container.
func (c *Container) ids() (*idMaps, error) {
	if mode := c.Settings.Host.UsernsMode; mode == "" || mode == usernsHost || !c.Running() {
		return nil, nil //nolint:nilnil // documented
	}
	uids, gids, err := container.MappingsOf(c.State.Process.PID)
	if err == nil && !c.State.Process.alive() {
		err = fmt.Errorf("container %s ended: try again", c.Name)
	}
	return &idMaps{uids, gids}, err
}

// outside gives the host's number of a container's.
func outside(mappings []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return 0, false
}

// overflowID is nobody's: it stands for whoever has no number (/proc/sys/kernel/overflowuid).
const overflowID = 65534

// inside gives the container's number of a host's.
func inside(mappings []specs.LinuxIDMapping, id uint32) uint32 {
	i := slices.IndexFunc(mappings, func(m specs.LinuxIDMapping) bool { return id >= m.HostID && id-m.HostID < m.Size })
	if i < 0 {
		return overflowID
	}
	return mappings[i].ContainerID + (id - mappings[i].HostID)
}

// root gives the host's numbers of the container's root, if it has one.
func (m *idMaps) root() (uid, gid uint32, ok bool) {
	if m == nil {
		return 0, 0, true
	}
	uid, ok = outside(m.uids, 0)
	gid, okGroup := outside(m.gids, 0)
	return uid, gid, ok && okGroup
}

// insideFunc gives the function from owners on the host to those in the container; nil if they are the same.
func (m *idMaps) insideFunc() func(uid, gid uint32) (uint32, uint32) {
	if m == nil {
		return nil
	}
	return func(uid, gid uint32) (uint32, uint32) { return inside(m.uids, uid), inside(m.gids, gid) }
}

// outsideFunc gives the function from owners in the container to those on the host. Whom the container does not have
// becomes its root.
func (m *idMaps) outsideFunc() func(uid, gid uint32) (uint32, uint32) {
	if m == nil {
		return nil
	}
	rootUID, rootGID, _ := m.root()
	return func(uid, gid uint32) (uint32, uint32) {
		if id, ok := outside(m.uids, uid); ok {
			uid = id
		} else {
			uid = rootUID
		}
		if id, ok := outside(m.gids, gid); ok {
			gid = id
		} else {
			gid = rootGID
		}
		return uid, gid
	}
}

// asRoot does something as the container's root, as far as files are concerned: only who has a number in the
// container can make files there.
func (m *idMaps) asRoot(do func() error) (err error) {
	if m == nil {
		return do()
	}
	uid, gid, ok := m.root()
	if !ok {
		return fmt.Errorf("%w: the container has no root", ErrOption)
	}
	done := make(chan struct{})
	sys.OnOwnThread(func() {
		defer close(done)
		if err = sys.BeRootOf(uid, gid); err == nil {
			err = do()
		}
	})
	<-done
	return err
}
