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

// userNamespace is the container's. The thread that builds the container stays in ours, with all
// rights, but in namespaces that belong to the container's; what it makes belongs to the container's
// root. Only the process enters it, as the last thing for which it needs rights on the host.
// docs/adr/user-namespaces.md.
type userNamespace struct {
	file       *os.File // nil until it is made
	uids, gids idMap
}

// ids are the numbers outside of the container's user namespace of a user and a group inside.
func (u *userNamespace) ids(uid, gid uint32) (int, int, error) {
	if u == nil {
		return int(uid), int(gid), nil
	}
	outerUID, ok := u.uids.outside(uid)
	if !ok {
		return 0, 0, fmt.Errorf("%w: user %d is not in linux.uidMappings", ErrSpec, uid)
	}
	outerGID, ok := u.gids.outside(gid)
	if !ok {
		return 0, 0, fmt.Errorf("%w: group %d is not in linux.gidMappings", ErrSpec, gid)
	}
	return int(outerUID), int(outerGID), nil
}

// own gives a file to the container's root.
func (u *userNamespace) own(f *os.File) error {
	uid, gid, err := u.ids(0, 0)
	if err != nil {
		return err
	}
	return sys.ChownHandle(f, uid, gid)
}

// beRoot has what the thread makes belong to the container's root.
func (u *userNamespace) beRoot() error {
	uid, gid, err := u.ids(0, 0)
	if err != nil {
		return err
	}
	return sys.BeRootOf(uint32(uid), uint32(gid))
}

func (n *namespaces) checkMappings(l *specs.Linux) error {
	if len(l.TimeOffsets) > 0 && n.held&sys.NewTime == 0 {
		return fmt.Errorf("%w: linux.timeOffsets need a new time namespace", ErrSpec)
	}
	switch {
	case n.user == nil && len(l.UIDMappings)+len(l.GIDMappings) > 0:
		return fmt.Errorf("%w: linux.uidMappings and gidMappings need a user namespace", ErrSpec)
	case n.user == nil || n.user.file != nil && len(l.UIDMappings)+len(l.GIDMappings) == 0:
		return nil
	}
	if err := idMap(l.UIDMappings).check("linux.uidMappings"); err != nil {
		return err
	}
	if err := idMap(l.GIDMappings).check("linux.gidMappings"); err != nil {
		return err
	}
	// The container is built by its root.
	_, _, err := (&userNamespace{uids: l.UIDMappings, gids: l.GIDMappings}).ids(0, 0)
	return err
}

// hold makes the namespaces that this program cannot make by itself, and enters or opens them.
func (n *namespaces) hold(l *specs.Linux) error {
	if n.held == 0 && n.user == nil {
		return nil
	}
	var user *os.File
	var uidMap, gidMap string
	if n.user != nil {
		if user = n.user.file; user == nil {
			uidMap, gidMap = idMap(l.UIDMappings).String(), idMap(l.GIDMappings).String()
		}
	}
	h, err := sys.HoldNamespaces(n.held, user, uidMap, gidMap, timeOffsets(l.TimeOffsets))
	if err != nil {
		return err
	}
	defer h.Close()
	if n.user != nil {
		if err := n.user.take(h, l); err != nil {
			return err
		}
	}
	if n.held&sys.NewTime != 0 {
		if n.time, err = h.Open(sys.NewTime); err != nil {
			return err
		}
	}
	for _, kind := range []int{sys.NewUTS, sys.NewIPC, sys.NewNet, sys.NewMount} {
		if n.held&kind == 0 {
			continue
		}
		f, err := h.Open(kind)
		if err != nil {
			return err
		}
		n.join = append(n.join, namespace{kind, f})
	}
	return nil
}

// take opens the user namespace and reads its mappings. Those of one that exists have to be those that
// the specification has, if it has any.
func (u *userNamespace) take(h *sys.Holder, l *specs.Linux) (err error) {
	existed := u.file != nil
	if !existed {
		if u.file, err = h.Open(sys.NewUser); err != nil {
			return err
		}
	}
	if u.uids, err = parseIDMap(h.UIDMap); err != nil {
		return err
	}
	if u.gids, err = parseIDMap(h.GIDMap); err != nil {
		return err
	}
	if existed && len(l.UIDMappings) > 0 && (!slices.Equal(u.uids, l.UIDMappings) || !slices.Equal(u.gids, l.GIDMappings)) {
		return fmt.Errorf("%w: the mappings are not those of the user namespace to be joined", ErrSpec)
	}
	return nil
}

func parseIDMap(text string) (idMap, error) {
	var m idMap
	for line := range strings.Lines(text) {
		var l specs.LinuxIDMapping
		if _, err := fmt.Sscan(line, &l.ContainerID, &l.HostID, &l.Size); err != nil {
			return nil, fmt.Errorf("mappings of the user namespace: %w", err)
		}
		m = append(m, l)
	}
	return m, nil
}

// timeOffsets gives them as the kernel takes them: time_namespaces(7).
func timeOffsets(offsets map[string]specs.LinuxTimeOffset) string {
	var b strings.Builder
	for clock, o := range offsets {
		b.WriteString(clock + " " + strconv.FormatInt(o.Secs, 10) + " " + strconv.FormatUint(uint64(o.Nanosecs), 10) + "\n")
	}
	return b.String()
}

// write has the process enter the namespaces that it enters alone. In a user namespace it is root
// from then on, and has no rights outside of it.
func (n *namespaces) write(p *sys.Program) {
	if n.time != nil {
		p.Enter("setns time", n.time, sys.NewTime)
	}
	if n.user == nil {
		return
	}
	p.Enter("setns user", n.user.file, sys.NewUser)
	if n.fork != 0 {
		p.ForkAgain(n.fork)
	}
	p.BeRoot(sys.GroupsAreFixed(0))
}

// forkFlags are the namespaces that the process is born in.
func (n *namespaces) forkFlags() uint64 {
	if n.user != nil {
		return 0
	}
	return n.fork
}

// mapOptions gives the IDs among a file system's options as they are outside of the user namespace,
// where the file system is made.
func (u *userNamespace) mapOptions(data [][2]string) ([][2]string, error) {
	if u == nil {
		return data, nil
	}
	data = slices.Clone(data)
	for i, o := range data {
		if o[0] != "uid" && o[0] != "gid" {
			continue
		}
		id, err := strconv.ParseUint(o[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%w: option %s=%s", ErrSpec, o[0], o[1])
		}
		m := u.uids
		if o[0] == "gid" {
			m = u.gids
		}
		outer, ok := m.outside(uint32(id))
		if !ok {
			return nil, fmt.Errorf("%w: option %s=%s: the user namespace has no such ID", ErrSpec, o[0], o[1])
		}
		data[i][1] = strconv.FormatUint(uint64(outer), 10)
	}
	return data, nil
}

// newUserNamespace makes a user namespace that nobody is in. It lives while somebody has it open.
func newUserNamespace(uids, gids idMap) (*os.File, error) {
	h, err := sys.HoldNamespaces(0, nil, uids.String(), gids.String(), "")
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return h.Open(sys.NewUser)
}

// MappingsOf gives how the users of a process's user namespace are mapped to ours.
func MappingsOf(pid int) (uids, gids []specs.LinuxIDMapping, err error) {
	for file, to := range map[string]*[]specs.LinuxIDMapping{"uid_map": &uids, "gid_map": &gids} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			return nil, nil, ended(err)
		}
		m, err := parseIDMap(string(text))
		if err != nil {
			return nil, nil, err
		}
		*to = m
	}
	return uids, gids, nil
}
