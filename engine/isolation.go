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

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
)

// Isolation is what separates a container from the host and from others, with Docker's names.
type Isolation struct {
	CapAdd        []string
	CapDrop       []string
	CgroupnsMode  string // "private" or "host"
	GroupAdd      []string
	IpcMode       string // "private", "shareable", "none", "host", "container:NAME"
	OomScoreAdj   int
	PidMode       string // "", "host", "container:NAME"
	Privileged    bool
	UTSMode       string // "" or "host"
	UsernsMode    string
	IDMappings    *IDMappings `json:",omitempty"` // podman's
	ShmSize       int64
	Sysctls       map[string]string `json:",omitempty"`
	MaskedPaths   []string
	ReadonlyPaths []string
}

// IsolationOptions are what the command line says of isolation, as it is written there.
type IsolationOptions struct {
	CapAdd, CapDrop []string
	CgroupNS        string
	GroupAdd        []string
	IPC, PID, UTS   string
	OomScoreAdj     int
	Privileged      bool
	ShmSize         string
	Sysctls         []string
	Userns          UsernsOptions
}

const (
	modeHost      = "host"
	modePrivate   = "private"
	modeShareable = "shareable"
	modeNone      = "none"
	modeContainer = "container:"
)

const defaultShmSize = 64 << 20

// parse checks the options.
func (o *IsolationOptions) parse(hostname, network string, security *security) (i Isolation, err error) {
	i = Isolation{
		CgroupnsMode: o.CgroupNS, GroupAdd: o.GroupAdd, IpcMode: o.IPC, PidMode: o.PID, UTSMode: o.UTS,
		OomScoreAdj: o.OomScoreAdj, Privileged: o.Privileged, ShmSize: defaultShmSize,
		MaskedPaths: security.maskedPaths(), ReadonlyPaths: security.readonlyPaths(),
	}
	if i.CapAdd, err = normalCapabilities("cap-add", o.CapAdd); err != nil {
		return i, err
	}
	if i.CapDrop, err = normalCapabilities("cap-drop", o.CapDrop); err != nil {
		return i, err
	}
	if o.ShmSize != "" {
		if i.ShmSize, err = parseSize(o.ShmSize); err != nil {
			return i, optionError("shm-size", "%q: want a number of bytes, or with b, k, m or g", o.ShmSize)
		}
	}
	if i.OomScoreAdj < -1000 || i.OomScoreAdj > 1000 {
		return i, optionError("oom-score-adj", "%d: want -1000 to 1000", i.OomScoreAdj)
	}
	if i.UsernsMode, i.IDMappings, err = o.Userns.parse(); err != nil {
		return i, err
	}
	if err := i.checkModes(hostname); err != nil {
		return i, err
	}
	if i.Privileged {
		i.MaskedPaths, i.ReadonlyPaths = nil, nil
		if i.UsernsMode != "" && i.UsernsMode != usernsHost {
			return i, optionError("privileged", "it has no meaning with users of the container's own: leave out one or the other")
		}
	}
	i.Sysctls, err = parseSysctls(o.Sysctls, &i, network)
	return i, err
}

func (i *Isolation) checkModes(hostname string) error {
	if i.IpcMode == "" {
		i.IpcMode = modePrivate
	}
	if i.CgroupnsMode == "" {
		i.CgroupnsMode = modePrivate
	}
	for _, mode := range []struct {
		flag, value string
		allowed     []string
		others      bool
	}{
		{"ipc", i.IpcMode, []string{modePrivate, modeShareable, modeNone, modeHost}, true},
		{"pid", i.PidMode, []string{"", modePrivate, modeHost}, true},
		{"uts", i.UTSMode, []string{"", modePrivate, modeHost}, false},
		{"cgroupns", i.CgroupnsMode, []string{modePrivate, modeHost}, false},
	} {
		name, other := strings.CutPrefix(mode.value, modeContainer)
		if slices.Contains(mode.allowed, mode.value) || mode.others && other && name != "" {
			continue
		}
		allowed := strings.Join(slices.DeleteFunc(mode.allowed, func(s string) bool { return s == "" }), ", ")
		if mode.others {
			allowed += " or container:NAME"
		}
		return optionError(mode.flag, "%q: use %s", mode.value, allowed)
	}
	if i.PidMode == modePrivate {
		i.PidMode = ""
	}
	if i.UTSMode == modePrivate {
		i.UTSMode = ""
	}
	if i.UTSMode == modeHost && hostname != "" {
		return optionError("hostname", "with --uts host the name is the machine's")
	}
	return nil
}

// parseSysctls refuses those that are the host's, before anything is made.
func parseSysctls(options []string, i *Isolation, network string) (map[string]string, error) {
	if len(options) == 0 {
		return nil, nil //nolint:nilnil // none is no error
	}
	sysctls := make(map[string]string)
	for _, text := range options {
		name, value, found := strings.Cut(text, "=")
		if !found || name == "" {
			return nil, optionError("sysctl", "%q: want NAME=VALUE", text)
		}
		kind, known := container.NamespaceOfSysctl(name)
		switch {
		case !known:
			return nil, optionError("sysctl", "%s: it belongs to the machine, not to a container", name)
		case kind == specs.NetworkNamespace && network == NetworkHost,
			kind == specs.IPCNamespace && i.IpcMode == modeHost,
			kind == specs.UTSNamespace && i.UTSMode == modeHost:
			return nil, optionError("sysctl", "%s: the container has the host's %s namespace", name, kind)
		}
		sysctls[name] = value
	}
	return sysctls, nil
}

// addTo writes what a specification needs no other container for.
func (i *Isolation) addTo(spec *specs.Spec) error {
	l := spec.Linux
	if i.UTSMode == modeHost {
		dropNamespace(spec, specs.UTSNamespace)
		spec.Hostname = ""
	}
	if i.CgroupnsMode == modeHost {
		dropNamespace(spec, specs.CgroupNamespace)
	}
	if i.OomScoreAdj != 0 {
		spec.Process.OOMScoreAdj = &i.OomScoreAdj
	}
	for name, value := range i.Sysctls {
		if l.Sysctl == nil {
			l.Sysctl = make(map[string]string)
		}
		l.Sysctl[name] = value
	}
	l.MaskedPaths, l.ReadonlyPaths = i.MaskedPaths, i.ReadonlyPaths
	i.addShm(spec)
	if i.Privileged {
		if err := openUp(spec); err != nil {
			return err
		}
	}
	return i.setCapabilities(spec.Process)
}

func dropNamespace(spec *specs.Spec, kind specs.LinuxNamespaceType) {
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind })
}

func dropMount(spec *specs.Spec, dest string) {
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == dest })
}

// addShm says what /dev/shm is, and POSIX message queues: they go with the IPC namespace.
func (i *Isolation) addShm(spec *specs.Spec) {
	switch {
	case i.IpcMode == modeHost:
		dropNamespace(spec, specs.IPCNamespace)
		for _, dest := range []string{"/dev/shm", "/dev/mqueue"} {
			dropMount(spec, dest)
			if _, err := os.Stat(dest); err == nil {
				spec.Mounts = append(spec.Mounts, specs.Mount{Destination: dest, Type: mountBind, Source: dest, Options: []string{"rbind", propagationPrivate, "nosuid", "noexec", "nodev"}})
			}
		}
	case i.IpcMode == modeNone:
		dropMount(spec, "/dev/shm")
	case i.ShmSize != defaultShmSize:
		for n, m := range spec.Mounts {
			if m.Destination == "/dev/shm" {
				options := slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return strings.HasPrefix(o, "size=") })
				spec.Mounts[n].Options = append(options, "size="+strconv.FormatInt(i.ShmSize, 10))
			}
		}
	}
}

// openUp gives a container all that the host has: devices, and the kernel's file systems for writing.
func openUp(spec *specs.Spec) error {
	spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	for n, m := range spec.Mounts {
		if m.Type == "sysfs" || m.Type == "cgroup" {
			spec.Mounts[n].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
		}
	}
	have := []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"}
	err := eachDevice("/dev", func(d specs.LinuxDevice) {
		if !slices.Contains(have, d.Path) {
			spec.Linux.Devices = append(spec.Linux.Devices, d)
		}
	})
	return err
}

// surroundings are the namespaces of others that a container gets, and its users, opened for one start.
type surroundings struct {
	users *users
	files []*os.File
	ns    []specs.LinuxNamespace
	// network is another container's network namespace, or nil.
	network *os.File
	shm     *os.File // of the container whose IPC namespace is joined
	// prepared says that what the mounts need is there.
	prepared bool
}

func (s *surroundings) close() {
	if s == nil {
		return
	}
	s.users.close()
	for _, f := range append(s.files, s.shm, s.network) {
		if f != nil {
			_ = f.Close()
		}
	}
}

// ready are mounts that the container gets from others.
func (s *surroundings) ready() map[string]*os.File {
	if s.shm == nil {
		return nil
	}
	return map[string]*os.File{"/dev/shm": s.shm}
}

// surround opens what a container's isolation says of others. The caller closes it when the container runs,
// or will not.
func (e *Engine) surround(ctx context.Context, id string, host *HostConfig) (s *surroundings, err error) {
	s = &surroundings{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.users, err = e.openUsers(ctx, id, host); err != nil {
		return s, err
	}
	if s.network, err = e.joinedNetwork(ctx, host.NetworkMode); err != nil {
		return s, err
	}
	for _, mode := range []struct {
		value string
		kind  specs.LinuxNamespaceType
	}{{host.PidMode, specs.PIDNamespace}, {host.IpcMode, specs.IPCNamespace}} {
		key, other := strings.CutPrefix(mode.value, modeContainer)
		if !other {
			continue
		}
		if err := e.joinOther(ctx, s, key, mode.kind); err != nil {
			return s, fmt.Errorf("%s namespace of %s: %w", mode.kind, key, err)
		}
	}
	return s, nil
}

func (e *Engine) joinOther(ctx context.Context, s *surroundings, key string, kind specs.LinuxNamespaceType) error {
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	if kind == specs.IPCNamespace {
		switch c.Settings.Host.IpcMode {
		case modeHost:
			return fmt.Errorf("%w: it has the host's", ErrOption)
		case modePrivate, modeNone, "":
			return fmt.Errorf("%w: it is not to be shared: start that container with --ipc shareable", ErrOption)
		}
	}
	f, err := c.namespace(kind)
	if err != nil {
		return err
	}
	s.files = append(s.files, f)
	s.ns = append(s.ns, specs.LinuxNamespace{Type: kind, Path: sys.FDPath(f)})
	if kind == specs.IPCNamespace {
		if s.shm, err = c.shm(); err != nil {
			return err
		}
	}
	return nil
}

// namespace opens a namespace of a running container.
func (c *Container) namespace(kind specs.LinuxNamespaceType) (*os.File, error) {
	if !c.Running() {
		return nil, fmt.Errorf("container %s is not running", c.Name)
	}
	f, err := container.OpenNamespace(c.State.Process.PID, kind)
	if err != nil {
		return nil, err
	}
	if !c.State.Process.alive() {
		// It may have been another process's, of the same number.
		return nil, errors.Join(fmt.Errorf("container %s ended: try again", c.Name), f.Close())
	}
	return f, nil
}

// shm gives the /dev/shm of a running container, which decides what that is: a link leads to something else
// of its own, and what is no tmpfs is refused.
func (c *Container) shm() (*os.File, error) {
	process, err := sys.PidFD(c.State.Process.PID)
	if err != nil {
		return nil, err
	}
	defer process.Close()
	if !c.State.Process.alive() {
		return nil, fmt.Errorf("container %s ended: try again", c.Name)
	}
	shm, err := sys.CloneFrom(process, "/dev/shm")
	if err != nil {
		return nil, err
	}
	magic, err := sys.FSType(shm)
	if err == nil && magic != sys.MagicTmpfs {
		err = fmt.Errorf("the /dev/shm of container %s is no tmpfs", c.Name)
	}
	if err != nil {
		return nil, errors.Join(err, shm.Close())
	}
	return shm, nil
}

// addTo has a specification use them.
func (s *surroundings) addTo(spec *specs.Spec) {
	s.users.addTo(spec)
	for _, ns := range s.ns {
		dropNamespace(spec, ns.Type)
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, ns)
	}
	if s.shm != nil {
		dropMount(spec, "/dev/shm")
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: "/dev/shm", Type: mountBind, Source: "/dev/shm", Options: []string{"bind", propagationPrivate, "nosuid", "noexec", "nodev"},
		})
	}
}

// addPid says whose processes the container sees.
func (i *Isolation) addPid(spec *specs.Spec) {
	if i.PidMode == modeHost {
		dropNamespace(spec, specs.PIDNamespace)
	}
}
