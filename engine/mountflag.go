package engine

import (
	"context"
	"encoding/csv"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// MountTuning is what --mount can say of a mount besides what -v can.
type MountTuning struct {
	MustExist         bool              `json:",omitempty"` // of a path of the host: it is not made
	NotRecursive      bool              `json:",omitempty"` // without what is mounted below
	SubmountsWritable bool              `json:",omitempty"` // read-only is the mount itself alone
	IDMap             bool              `json:",omitempty"` // files belong to the container's users, as on the disk
	VolumeLabels      map[string]string `json:",omitempty"` // of a volume that is made for it
}

// parseMount reads a --mount option: "type=KIND,KEY=VALUE,...", a line of CSV, with Docker's keys.
func parseMount(text string) (MountPoint, error) {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return MountPoint{}, fmt.Errorf("%w: %w", ErrOption, err)
	}
	p := mountParser{kind: mountVolume}
	for _, field := range fields {
		key, value, found := strings.Cut(field, "=")
		if !found && !slices.Contains([]string{"readonly", "ro", "volume-nocopy", "bind-nonrecursive", "idmap"}, key) {
			return MountPoint{}, fmt.Errorf("%w: %q: want KEY=VALUE", ErrOption, field)
		}
		if !found {
			value = "true"
		}
		if err := p.set(strings.ToLower(key), value); err != nil {
			return MountPoint{}, err
		}
	}
	return p.mount()
}

// mountParser collects what a --mount option says.
type mountParser struct {
	kind, source, dest string
	readOnly           bool
	readOnlyTree       bool // readonly, and all below it: what it is anyway
	propagation        string
	create             bool // the source, if it is missing
	noCopy             bool
	tmpfs              []string
	tuning             MountTuning
	used               []string // keys of one kind of mounts
}

func (p *mountParser) set(key, value string) (err error) {
	if kind, _, found := strings.Cut(key, "-"); found {
		p.used = append(p.used, kind)
	}
	switch key {
	case "type":
		p.kind = strings.ToLower(value)
	case "source", "src":
		p.source = value
	case "target", "dst", "destination":
		p.dest = value
	case "readonly", "ro":
		p.readOnly, err = parseBool(value)
	case "consistency":
		// Of Docker on other systems than Linux.
	case "idmap":
		p.tuning.IDMap, err = parseBool(value)
	case "bind-propagation":
		p.propagation = value
	case "bind-nonrecursive":
		p.tuning.NotRecursive, err = parseBool(value)
	case "bind-recursive":
		err = p.setRecursive(value)
	case "bind-create-src":
		p.create, err = parseBool(value)
	case "volume-nocopy":
		p.noCopy, err = parseBool(value)
	case "volume-label":
		p.tuning.VolumeLabels, err = mergeLabels(p.tuning.VolumeLabels, []string{value})
	case "volume-driver":
		if value != volumeDriver {
			err = fmt.Errorf("%w: volume driver %q: there is only %s", ErrOption, value, volumeDriver)
		}
	case "tmpfs-size":
		var size int64
		if size, err = parseSize(value); err == nil {
			p.tmpfs = append(p.tmpfs, "size="+strconv.FormatInt(size, 10))
		}
	case "tmpfs-mode":
		if _, parseErr := strconv.ParseUint(value, 8, 12); parseErr != nil {
			err = fmt.Errorf("%w: want an octal number", ErrOption)
		}
		p.tmpfs = append(p.tmpfs, "mode="+value)
	default:
		return fmt.Errorf("%w: key %q: use type, source, target, readonly, bind-propagation, bind-recursive, bind-nonrecursive, bind-create-src, "+
			"volume-nocopy, volume-label, volume-driver, tmpfs-size, tmpfs-mode or idmap", ErrOption, key)
	}
	if err != nil {
		err = fmt.Errorf("%s=%s: %w", key, value, err)
	}
	return err
}

func (p *mountParser) setRecursive(value string) error {
	switch value {
	case "enabled":
	case "disabled":
		p.tuning.NotRecursive = true
	case "writable":
		p.tuning.SubmountsWritable = true
	case "readonly":
		p.readOnlyTree = true
	default:
		return fmt.Errorf("%w: want enabled, disabled, writable or readonly", ErrOption)
	}
	return nil
}

func (p *mountParser) mount() (m MountPoint, err error) {
	for _, kind := range p.used {
		if kind != p.kind {
			return m, fmt.Errorf("%w: keys of %s for type=%s", ErrOption, kind, p.kind)
		}
	}
	if p.dest == "" {
		return m, fmt.Errorf("%w: it needs target=PATH", ErrOption)
	}
	switch p.kind {
	case mountBind:
		m, err = p.bind()
	case mountVolume:
		if m, err = newVolume(p.source, p.dest); err == nil {
			m.NoCopy = p.noCopy
		}
	case mountTmpfs:
		if p.source != "" {
			return m, fmt.Errorf("%w: a tmpfs has no source", ErrOption)
		}
		m = MountPoint{Type: mountTmpfs, RW: true}
		if p.readOnly {
			p.tmpfs = append(p.tmpfs, "ro")
		}
		m.Mode = strings.Join(p.tmpfs, ",")
		m.Destination, err = destination(p.dest)
	default:
		return m, fmt.Errorf("%w: type %q: use bind, volume or tmpfs", ErrOption, p.kind)
	}
	m.RW, m.MountTuning = m.RW && !p.readOnly, p.tuning
	return m, err
}

func (p *mountParser) bind() (MountPoint, error) {
	if !filepath.IsAbs(p.source) && !strings.HasPrefix(p.source, ".") {
		return MountPoint{}, fmt.Errorf("%w: source %q: a path of the host begins with '/' or '.'", ErrOption, p.source)
	}
	if p.readOnlyTree && !p.readOnly {
		return MountPoint{}, fmt.Errorf("%w: bind-recursive=readonly needs readonly", ErrOption)
	}
	m, err := newBind(p.source, p.dest)
	if err == nil && p.propagation != "" {
		err = m.apply([]string{p.propagation})
	}
	p.tuning.MustExist = !p.create // Docker makes a path that is missing for -v, and here only if it is told to
	return m, err
}

// volumesFrom lists the mounts of other containers: "CONTAINER[:ro|rw]".
func (e *Engine) volumesFrom(ctx context.Context, list []string) ([]MountPoint, error) {
	var mounts []MountPoint
	for _, text := range list {
		key, mode, found := strings.Cut(text, ":")
		if found && mode != "ro" && mode != "rw" && mode != "z" && mode != "Z" {
			return nil, optionError("volumes-from", "%q: want CONTAINER, or CONTAINER:ro", text)
		}
		c, err := e.container(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("--volumes-from: %w", err)
		}
		if c.Damaged != nil {
			return nil, c.Damaged
		}
		for _, m := range c.Settings.Mounts {
			if m.Type == mountTmpfs {
				continue // a container's own
			}
			m.RW = m.RW && mode != "ro"
			mounts = append(mounts, m)
		}
	}
	return mounts, nil
}
