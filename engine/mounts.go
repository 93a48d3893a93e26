package engine

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/store"
)

// Types of mount points.
const (
	mountBind   = "bind"
	mountVolume = "volume"
	mountTmpfs  = "tmpfs"
)

const propagationPrivate = "rprivate"

// mountPoints lists what is mounted in the container besides what every container has: what the
// command line asks for, then what other containers have (inherited), and new volumes for those of the image's
// that nobody mentions. Parents come before what lies in them.
func mountPoints(imageVolumes map[string]struct{}, opts *CreateOptions, inherited []MountPoint) ([]MountPoint, error) {
	mounts, err := askedMounts(opts)
	if err != nil {
		return nil, err
	}
	taken := make(map[string]bool)
	for _, m := range mounts {
		if taken[m.Destination] {
			return nil, fmt.Errorf("%w: two mounts at %s", ErrOption, m.Destination)
		}
		taken[m.Destination] = true
	}
	for _, dest := range slices.Sorted(maps.Keys(imageVolumes)) {
		m, err := newVolume("", dest)
		if err != nil {
			return nil, fmt.Errorf("volume %q of image %s: %w", dest, opts.Image, err)
		}
		inherited = append(inherited, m)
	}
	for _, m := range inherited {
		if !taken[m.Destination] {
			taken[m.Destination] = true
			mounts = append(mounts, m)
		}
	}
	slices.SortStableFunc(mounts, func(a, b MountPoint) int { return cmp.Compare(depth(a.Destination), depth(b.Destination)) })
	return mounts, nil
}

// askedMounts are those of the command line.
func askedMounts(opts *CreateOptions) ([]MountPoint, error) {
	var mounts []MountPoint
	for _, text := range opts.Volumes {
		m, err := parseVolume(text)
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", text, err)
		}
		mounts = append(mounts, m)
	}
	for _, text := range opts.Tmpfs {
		m, err := parseTmpfs(text)
		if err != nil {
			return nil, fmt.Errorf("tmpfs %q: %w", text, err)
		}
		mounts = append(mounts, m)
	}
	for _, text := range opts.Mounts {
		m, err := parseMount(text)
		if err != nil {
			return nil, fmt.Errorf("mount %q: %w", text, err)
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

func depth(dest string) int { return strings.Count(dest, "/") }

// parseVolume reads a -v option: DEST for a new volume, NAME:DEST for a volume with a name,
// /PATH:DEST for a path of the host, each with ":OPTIONS" behind it if there are any.
func parseVolume(text string) (MountPoint, error) {
	fields := strings.Split(text, ":")
	switch len(fields) {
	case 1:
		return newVolume("", fields[0])
	case 2, 3:
	default:
		return MountPoint{}, fmt.Errorf("%w: want [SOURCE:]DEST[:OPTIONS]", ErrOption)
	}
	var m MountPoint
	var err error
	if source := fields[0]; strings.HasPrefix(source, "/") || strings.HasPrefix(source, ".") {
		m, err = newBind(source, fields[1])
	} else {
		m, err = newVolume(source, fields[1])
	}
	if err != nil || len(fields) == 2 {
		return m, err
	}
	m.Mode = fields[2]
	return m, m.apply(strings.Split(fields[2], ","))
}

func newBind(source, dest string) (MountPoint, error) {
	source, err := filepath.Abs(source)
	if err != nil {
		return MountPoint{}, err
	}
	dest, err = destination(dest)
	return MountPoint{Type: mountBind, Source: source, Destination: dest, RW: true, Propagation: propagationPrivate}, err
}

// newVolume makes up a name for a volume that has none.
func newVolume(name, dest string) (MountPoint, error) {
	dest, err := destination(dest)
	if err != nil {
		return MountPoint{}, err
	}
	m := MountPoint{Type: mountVolume, Name: name, Destination: dest, RW: true, Anonymous: name == ""}
	if name == "" {
		m.Name = newID()
	} else if !store.ValidVolumeName(name) {
		return MountPoint{}, fmt.Errorf("%w: %q is no name for a volume, and a path of the host begins with '/' or '.'", ErrOption, name)
	}
	return m, nil
}

// destination checks a path of the container.
func destination(dest string) (string, error) {
	clean := path.Clean(dest)
	switch {
	case !path.IsAbs(dest):
		return "", fmt.Errorf("%w: the path in the container, %q, is not absolute", ErrOption, dest)
	case clean == "/":
		return "", fmt.Errorf("%w: nothing can be mounted at /", ErrOption)
	}
	return clean, nil
}

// apply applies Docker's options of volumes.
func (m *MountPoint) apply(options []string) error {
	for _, option := range options {
		switch option {
		case "rw":
			m.RW = true
		case "ro":
			m.RW = false
		case "z", "Z":
			// A label for SELinux: hosts without it have nothing to do, as in Docker.
		case "consistent", "cached", "delegated":
			// Of Docker on other systems than Linux.
		case "private", "rprivate", "slave", "rslave", "shared", "rshared":
			if m.Type != mountBind {
				return fmt.Errorf("%w: %s is for paths of the host", ErrOption, option)
			}
			m.Propagation = option
		case "idmap":
			m.IDMap = true
		case "nocopy":
			if m.Type != mountVolume {
				return fmt.Errorf("%w: nocopy is for volumes", ErrOption)
			}
			m.NoCopy = true
		default:
			return fmt.Errorf("%w: option %q: use ro, rw, z, Z, nocopy, idmap, [r]private, [r]shared or [r]slave", ErrOption, option)
		}
	}
	return nil
}

// tmpfsOptions are the options of mount(8) that Docker lets a tmpfs have.
func tmpfsOptions() []string {
	return []string{
		"ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime", "diratime", "nodiratime",
		"relatime", "norelatime", "strictatime", "nostrictatime",
	}
}

// parseTmpfs reads a --tmpfs option: DEST[:OPTIONS].
func parseTmpfs(text string) (MountPoint, error) {
	dest, options, _ := strings.Cut(text, ":")
	dest, err := destination(dest)
	if err != nil {
		return MountPoint{}, err
	}
	m := MountPoint{Type: mountTmpfs, Destination: dest, Mode: options, RW: true}
	if options == "" {
		return m, nil
	}
	for option := range strings.SplitSeq(options, ",") {
		key, value, hasValue := strings.Cut(option, "=")
		switch {
		case !hasValue && slices.Contains(tmpfsOptions(), option):
			m.RW = m.RW && option != "ro"
		case hasValue && value != "" && slices.Contains([]string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"}, key):
		default:
			return m, fmt.Errorf("%w: option %q", ErrOption, option)
		}
	}
	return m, nil
}

// tmpfsMountOptions are Docker's defaults, then what was asked for: the last of two that contradict
// each other counts.
func (m *MountPoint) tmpfsMountOptions() []string {
	options := []string{"noexec", "nosuid", "nodev"}
	if m.Mode != "" {
		options = append(options, strings.Split(m.Mode, ",")...)
	}
	return options
}
