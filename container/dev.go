package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// device is a character device that every container has.
type device struct {
	name         string
	major, minor uint32
}

// defaultDevices are the nodes config-linux.md, "Default Devices" wants; ptmx and the console are
// no nodes of /dev's own.
func defaultDevices() []device {
	return []device{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
	}
}

// devLinks are the symbolic links of config-linux.md, "Dev symbolic links", and what else Docker
// has.
func devLinks() [][2]string {
	return [][2]string{
		{"fd", "/proc/self/fd"},
		{"stdin", "/proc/self/fd/0"},
		{"stdout", "/proc/self/fd/1"},
		{"stderr", "/proc/self/fd/2"},
		{"core", "/proc/kcore"},
		{"ptmx", "pts/ptmx"},
	}
}

// fillDev makes the default devices and links in dev. Those that exist stay, if they are what they
// should be. What may not be made can be had of the host only when dev is attached.
func fillDev(dev *os.File, attached bool) error {
	for _, d := range defaultDevices() {
		err := sys.MakeNode(dev, d.name, sys.TypeChar|0o666, d.major, d.minor)
		if errors.Is(err, fs.ErrExist) {
			var f *os.File
			if f, err = openDevice(dev, d); err == nil {
				_ = f.Close()
			}
		}
		if errors.Is(err, fs.ErrPermission) && attached {
			err = bindDevice(dev, d.name, "/dev/"+d.name, sys.TypeChar, d.major, d.minor)
		}
		if err != nil {
			return fmt.Errorf("/dev: %w", err)
		}
	}
	for _, l := range devLinks() {
		if err := sys.MakeSymlink(dev, l[0], l[1]); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("/dev: %w", err)
		}
	}
	return nil
}

// bindDevice shows the host's node at path as name in dir, if it is that device: for who may not make nodes, which is
// root of a user namespace alone.
func bindDevice(dir *os.File, name, path string, kind, major, minor uint32) error {
	host, err := sys.OpenSource(path)
	if err != nil {
		return err
	}
	defer host.Close()
	node, err := sys.StatNode(host)
	if err != nil {
		return err
	}
	if node.Type != kind || node.Major != major || node.Minor != minor {
		return fmt.Errorf("%w: no node of %d:%d may be made, and the host's %s is another one", ErrUnsupported, major, minor, path)
	}
	bind, err := sys.CloneTree(host, false)
	if err != nil {
		return err
	}
	defer bind.Close()
	if err := sys.MakeFile(dir, name, 0o666); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	target, err := sys.OpenEntry(dir, name, sys.OpenNoFollow)
	if err != nil {
		return err
	}
	defer target.Close()
	return sys.MoveMount(bind, target)
}

// finishDev fills /dev if that is none of the mounts, makes the devices of the specification, and
// makes /dev read-only if it is to be.
func (t *tree) finishDev() error {
	if t.dev == nil {
		dev, err := t.place("/dev", directory)
		if err != nil {
			return err
		}
		t.dev = t.keep(dev)
	}
	if !t.filled {
		if err := fillDev(t.dev, true); err != nil {
			return err
		}
	}
	for _, d := range t.spec.Linux.Devices {
		if err := t.addDevice(d); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(t.mounts, func(m mount) bool { return m.dest == "/dev" && !m.options.bind })
	if i >= 0 && t.mounts[i].options.set&sys.AttrReadOnly != 0 {
		return sys.SetMountAttr(t.dev, false, sys.AttrReadOnly, 0, 0)
	}
	return nil
}

// openDevice opens a node of dev for mounting, never the device, and proves that it is that device:
// a container must not be handed another for the one that masks its secrets (CVE-2025-31133).
func openDevice(dev *os.File, d device) (*os.File, error) {
	f, err := sys.OpenEntry(dev, d.name, sys.OpenNoFollow)
	if err != nil {
		return nil, err
	}
	node, err := sys.StatNode(f)
	if err == nil && (node.Type != sys.TypeChar || node.Major != d.major || node.Minor != d.minor) {
		err = fmt.Errorf("%s is not the device %d:%d", d.name, d.major, d.minor)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// addDevice makes a node that the specification asks for.
func (t *tree) addDevice(d specs.LinuxDevice) error {
	types := map[string]uint32{"c": sys.TypeChar, "u": sys.TypeChar, "b": sys.TypeBlock, "p": sys.TypeFifo}
	mode, ok := types[d.Type]
	if !ok || !path.IsAbs(d.Path) || path.Base(d.Path) == "/" {
		return fmt.Errorf("device %q: %w: type %q", d.Path, ErrSpec, d.Type)
	}
	perm := os.FileMode(0o666)
	if d.FileMode != nil {
		perm = *d.FileMode & 0o7777
	}
	parent, err := mountPoint(t.root, path.Dir(d.Path), directory)
	if err != nil {
		return fmt.Errorf("device %s: %w", d.Path, err)
	}
	defer parent.Close()
	name := path.Base(d.Path)
	err = sys.MakeNode(parent, name, mode|uint32(perm), uint32(d.Major), uint32(d.Minor))
	if errors.Is(err, fs.ErrExist) {
		var f *os.File
		if f, err = openDevice(parent, device{name, uint32(d.Major), uint32(d.Minor)}); err == nil {
			err = f.Close()
		}
	}
	if errors.Is(err, fs.ErrPermission) && mode != sys.TypeFifo {
		return bindDevice(parent, name, d.Path, mode, uint32(d.Major), uint32(d.Minor)) // with the host's owners
	}
	if err == nil && (d.UID != nil || d.GID != nil) {
		var uid, gid int
		if uid, gid, err = t.user.ids(idOrZero(d.UID), idOrZero(d.GID)); err == nil {
			err = sys.ChownEntry(parent, name, uid, gid)
		}
	}
	if err != nil {
		return fmt.Errorf("device %s: %w", d.Path, err)
	}
	return nil
}

func idOrZero(id *uint32) uint32 {
	if id == nil {
		return 0
	}
	return *id
}

// below tells whether a clean absolute path is dir or lies below it.
func below(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}
