package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/rootfs"
)

// Modes of user namespaces.
const (
	usernsHost      = "host"
	usernsAuto      = "auto"
	usernsPrivate   = "private" // with the mappings that IDMappings has
	usernsContainer = "container:"
)

// IDMappings are how users of a container are mapped to the host's, as podman shows it: "CONTAINER:HOST:SIZE".
type IDMappings struct {
	UidMap []string
	GidMap []string
}

// UsernsOptions are what the command line says of a container's users.
type UsernsOptions struct {
	Mode       string   // "host" or "", "auto[:size=N]", "container:NAME"
	UIDMap     []string // "CONTAINER:HOST[:SIZE]"
	GIDMap     []string // else as UIDMap
	SubUIDName string   // whose ranges of /etc/subuid to take
	SubGIDName string   // of /etc/subgid; else as SubUIDName
}

// parse gives what is kept of the options: a mode, and mappings for those modes that have any.
func (o *UsernsOptions) parse() (mode string, mappings *IDMappings, err error) {
	explicit := len(o.UIDMap)+len(o.GIDMap) > 0
	named := o.SubUIDName != "" || o.SubGIDName != ""
	switch {
	case (explicit || named || o.Mode != "") && o.Mode != usernsHost && sys.InUserNamespace():
		return "", nil, fmt.Errorf("%w: users of a container's own are for root: only to the machine's root the kernel shows files with other owners (idmapped mounts). "+
			"Without --userns, root in the container is you, and all others are numbers that are yours", ErrOption)
	case explicit && named, (explicit || named) && o.Mode != "" && o.Mode != usernsPrivate:
		return "", nil, fmt.Errorf("%w: one of --userns, --uidmap and --subuidname says who the container's users are, not several", ErrOption)
	case explicit:
		mappings, err = parseMappings(o.UIDMap, o.GIDMap)
		return usernsPrivate, mappings, err
	case named:
		mappings, err = namedMappings(o.SubUIDName, o.SubGIDName)
		return usernsPrivate, mappings, err
	}
	name, rest, _ := strings.Cut(o.Mode, ":")
	switch {
	case o.Mode == "", o.Mode == usernsHost:
		return o.Mode, nil, nil
	case name == usernsAuto:
		_, err := parseAuto(o.Mode)
		return o.Mode, nil, err
	case name == "container" && rest != "":
		return o.Mode, nil, nil
	case name == "keep-id", name == "nomap":
		return "", nil, fmt.Errorf("%w: --userns %s is for users without root: root's own numbers are the host's", ErrOption, o.Mode)
	default:
		return "", nil, fmt.Errorf("%w: --userns %q: use host, auto[:size=NUMBER] or container:NAME", ErrOption, o.Mode)
	}
}

// defaultUsers is how many users a container has with "auto", unless it says so: all that images use.
const defaultUsers = 65536

// parseAuto gives the number of users that "auto[:size=N]" asks for.
func parseAuto(mode string) (uint32, error) {
	_, rest, found := strings.Cut(mode, ":")
	if !found {
		return defaultUsers, nil
	}
	text, ok := strings.CutPrefix(rest, "size=")
	size, err := strconv.ParseUint(text, 10, 32)
	if !ok || err != nil || size == 0 {
		return 0, fmt.Errorf("%w: --userns %s: want auto:size=NUMBER", ErrOption, mode)
	}
	return uint32(size), nil
}

func parseMappings(uids, gids []string) (*IDMappings, error) {
	if len(uids) == 0 {
		uids = gids
	}
	if len(gids) == 0 {
		gids = uids
	}
	m := &IDMappings{}
	for _, list := range []struct {
		from []string
		to   *[]string
	}{{uids, &m.UidMap}, {gids, &m.GidMap}} {
		for _, text := range list.from {
			mapping, err := parseMapping(text)
			if err != nil {
				return nil, err
			}
			*list.to = append(*list.to, formatMapping(mapping))
		}
	}
	return m, nil
}

func parseMapping(text string) (specs.LinuxIDMapping, error) {
	fields := strings.Split(text, ":")
	if len(fields) == 2 {
		fields = append(fields, "1")
	}
	var numbers [3]uint32
	ok := len(fields) == 3
	for i := 0; ok && i < 3; i++ {
		n, err := strconv.ParseUint(fields[i], 10, 32)
		numbers[i], ok = uint32(n), err == nil
	}
	if !ok || numbers[2] == 0 {
		return specs.LinuxIDMapping{}, fmt.Errorf("%w: mapping of IDs %q: want CONTAINER:HOST[:SIZE]", ErrOption, text)
	}
	return specs.LinuxIDMapping{ContainerID: numbers[0], HostID: numbers[1], Size: numbers[2]}, nil
}

func formatMapping(m specs.LinuxIDMapping) string {
	return fmt.Sprintf("%d:%d:%d", m.ContainerID, m.HostID, m.Size)
}

// specMappings are mappings as a specification has them.
func specMappings(list []string) ([]specs.LinuxIDMapping, error) {
	var mappings []specs.LinuxIDMapping
	for _, text := range list {
		m, err := parseMapping(text)
		if err != nil {
			return nil, err
		}
		mappings = append(mappings, m)
	}
	return mappings, nil
}

// users are a container's, in a user namespace of their own. A nil *users are the host's.
type users struct {
	idMaps
	file  *os.File // the namespace, if it is another container's
	lease *os.File // locked while nobody else can know that the numbers are in use
}

func (u *users) close() {
	if u == nil {
		return
	}
	for _, f := range []*os.File{u.file, u.lease} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// openUsers makes or opens the user namespace for a start of the container with that ID; nil if it has none
// of its own. The caller closes it when the container runs.
func (e *Engine) openUsers(ctx context.Context, id string, host *HostConfig) (_ *users, err error) {
	u := &users{}
	defer func() {
		if err != nil {
			u.close()
			err = fmt.Errorf("user namespace: %w", err)
		}
	}()
	mode := host.UsernsMode
	switch {
	case mode == "", mode == usernsHost:
		return nil, nil //nolint:nilnil // documented
	case strings.HasPrefix(mode, usernsContainer):
		return u, e.joinUsers(ctx, u, strings.TrimPrefix(mode, usernsContainer))
	case mode == usernsPrivate && host.IDMappings != nil:
		if u.uids, err = specMappings(host.IDMappings.UidMap); err != nil {
			return u, err
		}
		if u.gids, err = specMappings(host.IDMappings.GidMap); err != nil {
			return u, err
		}
	default:
		size, err := parseAuto(mode)
		if err != nil {
			return u, err
		}
		if u.uids, u.gids, u.lease, err = e.leaseUsers(ctx, id, size); err != nil {
			return u, err
		}
	}
	return u, nil
}

// joinUsers takes those of another container, which must run.
func (e *Engine) joinUsers(ctx context.Context, u *users, key string) error {
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	if !c.Running() {
		return fmt.Errorf("container %s is not running", c.Name)
	}
	ids, err := c.ids()
	if err != nil {
		return err
	}
	if ids == nil {
		return fmt.Errorf("%w: container %s has the host's users: leave out --userns", ErrOption, c.Name)
	}
	u.idMaps = *ids
	u.file, err = c.namespace(specs.UserNamespace)
	return err
}

// addTo has a specification use the namespace.
func (u *users) addTo(spec *specs.Spec) {
	if u == nil {
		return
	}
	ns := specs.LinuxNamespace{Type: specs.UserNamespace}
	if u.file != nil {
		ns.Path = sys.FDPath(u.file)
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, ns)
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = u.uids, u.gids
}

// owners are the container's users as those to whom the files of layers belong; nil for the host's. The caller closes
// it, and the namespace.
func (l *launch) owners() (*rootfs.Owners, error) {
	u := l.around.users
	if u == nil {
		return nil, nil //nolint:nilnil // documented
	}
	uid, gid, ok := u.root()
	if !ok {
		return nil, fmt.Errorf("%w: the user namespace has no root: map 0, too", ErrOption)
	}
	file, err := l.made.UserNamespace()
	if err != nil {
		return nil, err
	}
	return &rootfs.Owners{Users: file, UID: uid, GID: gid}, nil
}

// mapMounts has what is on the host's disk for the container alone belong to its users: volumes, its own files
// in /etc, and paths for which that was asked.
func (s *surroundings) mapMounts(spec *specs.Spec, settings *ContainerSettings) {
	if s.users == nil {
		return
	}
	for n, m := range spec.Mounts {
		if m.Type != mountBind {
			continue
		}
		i := slices.IndexFunc(settings.Mounts, func(p MountPoint) bool { return p.Destination == m.Destination })
		mine := slices.ContainsFunc(networkFiles(), func(name string) bool { return m.Destination == "/etc/"+name })
		if i < 0 && mine || i >= 0 && (settings.Mounts[i].Type == mountVolume || settings.Mounts[i].IDMap) {
			spec.Mounts[n].Options = append(slices.Clip(m.Options), "idmap")
		}
	}
}

// mountForStart gives the container's root file system, as its users see it, and makes what its mounts need.
func (e *Engine) mountForStart(ctx context.Context, l *launch) (*os.File, error) {
	fresh, volatile := l.State.StartedAt.IsZero(), l.Settings.Host.AutoRemove
	owners, err := l.owners()
	if err != nil {
		return nil, err
	}
	if owners != nil {
		defer owners.Users.Close()
		defer owners.Close()
		if slices.ContainsFunc(l.Settings.Mounts, func(m MountPoint) bool { return m.Type == mountVolume }) {
			// Volumes begin with what the image has, and its owners.
			if err := e.prepareFromImage(ctx, l); err != nil {
				return nil, err
			}
		}
	}
	root, err := e.mountContainer(ctx, l.Container.Container, l.image, mountOptions{fresh: fresh, volatile: volatile, owners: owners})
	if err != nil || owners != nil && l.around.prepared {
		return root, err
	}
	if err := e.prepareMounts(l.Container, root); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// prepareFromImage makes what the mounts need while the root file system's owners are those of the disk.
func (e *Engine) prepareFromImage(ctx context.Context, l *launch) error {
	stack, err := e.openStack(ctx, l.image)
	if err != nil {
		return err
	}
	defer stack.close()
	view, err := rootfs.Overlay(stack, nil, nil, e.overlayOptions())
	if err != nil {
		return err
	}
	defer view.Close()
	l.around.prepared = true
	return e.prepareMounts(l.Container, view)
}
