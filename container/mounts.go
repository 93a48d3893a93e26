package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// tree puts the container's file system together, on a thread that has a mount namespace of its
// own but still sees the host's files. All is done by descriptor: no path of the image is ever
// looked up other than inside its root.
type tree struct {
	spec *specs.Spec
	root *os.File // the root of the container's file system, attached
	own  *cgroup  // the container's, or nil
	host hierarchies
	// noDevices has every mount refuse devices, but /dev: there is no device filter.
	noDevices bool

	proc  *procMount   // what becomes /proc
	procs []*procMount // procfs shows a pid namespace, so the child mounts it from inside
	dev   *os.File     // the root of /dev
	pts   *os.File     // the root of /dev/pts
	files []*os.File   // to be closed
}

// procMount is a procfs to be mounted, with what will cover parts of it.
type procMount struct {
	target  *os.File
	options mountOptions
	covers  []cover
}

// cover is a mount to be attached at a path below a procfs.
type cover struct {
	path  string
	mount *os.File
}

func (t *tree) close() {
	for _, f := range slices.Backward(t.files) {
		_ = f.Close()
	}
}

// keep has the file closed with the tree.
func (t *tree) keep(f *os.File) *os.File {
	t.files = append(t.files, f)
	return f
}

// build attaches everything but procfs.
func (t *tree) build() error {
	for _, m := range t.spec.Mounts {
		if err := t.mount(m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	return t.finishDev()
}

func (t *tree) mount(m specs.Mount) error {
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return fmt.Errorf("idmapped mount: %w", ErrUnsupported)
	}
	o, err := parseOptions(m.Options)
	if err != nil {
		return err
	}
	if t.noDevices && m.Destination != "/dev" {
		o.set |= sys.AttrNoDev
	}
	dest := path.Clean("/" + m.Destination)
	switch {
	case dest == "/":
		return fmt.Errorf("%w: the root is given apart", ErrSpec)
	case m.Type == "proc" && !o.bind:
		return t.addProc(dest, o)
	case t.proc != nil && below(dest, "/proc"):
		return t.coverProc(m, dest, o)
	case m.Type == "cgroup" && !o.bind, m.Type == "cgroup2" && !o.bind:
		return t.mountCgroups(dest, o)
	case o.bind:
		return t.bind(m, dest, o)
	default:
		return t.mountFS(m, dest, o)
	}
}

// attach attaches a mount to its place.
func (t *tree) attach(mount, target *os.File, o mountOptions) error {
	if err := sys.MoveMount(mount, target); err != nil {
		return err
	}
	if o.treeSet|o.treeClear != 0 {
		if err := sys.SetMountAttr(mount, true, o.treeSet, o.treeClear, 0); err != nil {
			return err
		}
	}
	if o.propagation != 0 {
		return sys.SetMountAttr(mount, o.propagateTree, 0, 0, o.propagation)
	}
	return nil
}

// cloneSource makes a bind mount of a path of the host, and tells what it is.
func (t *tree) cloneSource(m specs.Mount, o mountOptions) (*os.File, kind, error) {
	if !filepath.IsAbs(m.Source) {
		return nil, file, fmt.Errorf("%w: the source %q is not an absolute path", ErrSpec, m.Source)
	}
	if len(o.data) > 0 {
		return nil, file, fmt.Errorf("%w: a bind mount has no option %q", ErrSpec, o.data[0][0])
	}
	source, err := sys.OpenSource(m.Source)
	if err != nil {
		return nil, file, err
	}
	defer source.Close() //nolint:errcheck // O_PATH
	node, err := sys.StatNode(source)
	if err != nil {
		return nil, file, err
	}
	mount, err := sys.CloneTree(source, o.recursive)
	if err != nil {
		return nil, file, err
	}
	t.keep(mount)
	// What happens on the host later is the host's, unless it is asked for.
	if o.propagation == 0 {
		if err := sys.SetMountAttr(mount, true, 0, 0, sys.PropagationPrivate); err != nil {
			return nil, file, err
		}
	}
	if o.set|o.clear != 0 {
		if err := sys.SetMountAttr(mount, false, o.set, o.clear, 0); err != nil {
			return nil, file, err
		}
	}
	return mount, node.Type == sys.TypeDir, nil
}

func (t *tree) bind(m specs.Mount, dest string, o mountOptions) error {
	mount, kind, err := t.cloneSource(m, o)
	if err != nil {
		return err
	}
	target, err := mountPoint(t.root, dest, kind)
	if err != nil {
		return err
	}
	defer target.Close() //nolint:errcheck // O_PATH
	if dest == "/dev" {
		t.dev = mount
	}
	return t.attach(mount, target, o)
}

func (t *tree) mountFS(m specs.Mount, dest string, o mountOptions) error {
	open := mountPoint
	if m.Type == "sysfs" {
		open = plainDirectory
	}
	target, err := open(t.root, dest, directory)
	if err != nil {
		return err
	}
	defer target.Close() //nolint:errcheck // O_PATH
	if m.Type == "tmpfs" {
		if o.data, err = withMode(o.data, target); err != nil {
			return err
		}
	}
	attrs := o.set
	if dest == "/dev" {
		attrs &^= sys.AttrReadOnly // until it is filled
	}
	mount, err := newFS(m.Type, m.Source, o.data, attrs)
	if err != nil {
		return err
	}
	t.keep(mount)
	switch {
	case dest == "/dev":
		t.dev = mount
	case dest == "/dev/pts" && m.Type == "devpts":
		t.pts = mount
	}
	return t.attach(mount, target, o)
}

// withMode gives a tmpfs that has no mode of its own the one of the directory it covers.
func withMode(data [][2]string, target *os.File) ([][2]string, error) {
	if slices.ContainsFunc(data, func(o [2]string) bool { return o[0] == "mode" }) {
		return data, nil
	}
	node, err := sys.StatNode(target)
	if err != nil {
		return nil, err
	}
	return append(data, [2]string{"mode", fmt.Sprintf("%o", node.Perm)}), nil
}

// newFS makes a file system and gives it as a mount attached nowhere.
func newFS(fstype, source string, data [][2]string, attrs uint64) (*os.File, error) {
	c, err := sys.OpenFS(fstype)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if source != "" {
		data = append([][2]string{{"source", source}}, data...)
	}
	for _, o := range data {
		if o[1] == "" {
			err = c.Flag(o[0])
		} else {
			err = c.String(o[0], o[1])
		}
		if err != nil {
			return nil, err
		}
	}
	if err := c.Create(); err != nil {
		return nil, err
	}
	return c.Mount(int(attrs))
}

// plainDirectory is mountPoint for the file systems through which the kernel is ruled: no link of
// the image may move them elsewhere, where paths that are meant to be read-only or hidden would
// not be (CVE-2019-19921).
func plainDirectory(root *os.File, dest string, want kind) (*os.File, error) {
	f, err := sys.OpenBeneath(root, dest[1:], sys.OpenDirectory)
	if errors.Is(err, fs.ErrNotExist) {
		made, makeErr := mountPoint(root, dest, want)
		if makeErr != nil {
			return nil, makeErr
		}
		_ = made.Close()
		f, err = sys.OpenBeneath(root, dest[1:], sys.OpenDirectory)
	}
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EXDEV) {
		return nil, fmt.Errorf("%w: the image has something else than a directory at %s", ErrSpec, dest)
	}
	return f, err
}

// finishDev fills /dev, which may lie on any mount by now.
func (t *tree) finishDev() error {
	i := slices.IndexFunc(t.spec.Mounts, func(m specs.Mount) bool { return path.Clean("/"+m.Destination) == "/dev" })
	if i >= 0 && slices.ContainsFunc(t.spec.Mounts[i].Options, func(o string) bool { return o == "bind" || o == "rbind" }) {
		// Somebody else's devices: they are not ours to change.
		return nil
	}
	if t.dev == nil {
		dev, err := mountPoint(t.root, "/dev", directory)
		if err != nil {
			return err
		}
		t.dev = t.keep(dev)
	}
	if err := fillDev(t.dev); err != nil {
		return err
	}
	for _, d := range t.spec.Linux.Devices {
		if err := addDevice(t.root, d); err != nil {
			return err
		}
	}
	if i >= 0 && slices.Contains(t.spec.Mounts[i].Options, "ro") {
		return sys.SetMountAttr(t.dev, false, sys.AttrReadOnly, 0, 0)
	}
	return nil
}

// protect hides and write-protects what the specification says, but in procfs. A path that is not
// there needs no protection.
func (t *tree) protect() error {
	for _, name := range t.spec.Linux.ReadonlyPaths {
		if _, ok := inProc(name); ok && t.proc != nil {
			continue
		}
		if err := t.onPath(name, t.readOnly); err != nil {
			return fmt.Errorf("make %s read-only: %w", name, err)
		}
	}
	for _, name := range t.spec.Linux.MaskedPaths {
		if _, ok := inProc(name); ok && t.proc != nil {
			continue
		}
		if err := t.onPath(name, t.mask); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
	}
	return nil
}

// onPath does something to a path of the container, if it is there.
func (t *tree) onPath(name string, do func(*os.File) error) error {
	f, err := sys.OpenInRoot(t.root, name, sys.OpenAny)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // O_PATH
	return do(f)
}

func (t *tree) readOnly(target *os.File) error {
	bind, err := sys.CloneTree(target, true)
	if err != nil {
		return err
	}
	defer bind.Close() //nolint:errcheck // attached
	if err := sys.SetMountAttr(bind, true, sys.AttrReadOnly, 0, 0); err != nil {
		return err
	}
	return sys.MoveMount(bind, target)
}

func (t *tree) mask(target *os.File) error {
	node, err := sys.StatNode(target)
	if err != nil {
		return err
	}
	var cover *os.File
	if node.Type == sys.TypeDir {
		cover, err = newFS("tmpfs", "tmpfs", [][2]string{{"nr_inodes", "1"}}, sys.AttrReadOnly)
	} else {
		cover, err = t.nullMount()
	}
	if err != nil {
		return err
	}
	defer cover.Close() //nolint:errcheck // attached
	return sys.MoveMount(cover, target)
}

// nullMount is a read-only bind mount of the container's /dev/null: reads see nothing, and nobody
// can change the node's mode through it.
func (t *tree) nullMount() (*os.File, error) {
	null, err := t.null()
	if err != nil {
		return nil, err
	}
	defer null.Close() //nolint:errcheck // O_PATH
	mount, err := sys.CloneTree(null, false)
	if err != nil {
		return nil, err
	}
	return mount, sys.SetMountAttr(mount, false, sys.AttrReadOnly, 0, sys.PropagationPrivate)
}

func (t *tree) null() (*os.File, error) {
	return openDevice(t.dev, device{"null", 1, 3})
}

// seal makes the root read-only, after all mount points are there.
func (t *tree) seal() error {
	var set uint64
	if t.spec.Root != nil && t.spec.Root.Readonly {
		set |= sys.AttrReadOnly
	}
	if t.noDevices {
		set |= sys.AttrNoDev
	}
	if set == 0 {
		return nil
	}
	return sys.SetMountAttr(t.root, false, set, 0, 0)
}

// hasProcMount tells whether the specification mounts procfs on /proc.
func hasProcMount(mounts []specs.Mount) bool {
	return slices.ContainsFunc(mounts, func(m specs.Mount) bool {
		return m.Type == "proc" && path.Clean("/"+m.Destination) == "/proc" &&
			!slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasSuffix(o, "bind") })
	})
}
