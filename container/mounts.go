package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/copytree"
	"github.com/tarnfs/tarn/internal/sys"
)

// tree puts the container's file system together, on a thread that has a mount namespace of its
// own but still sees the host's files. All is done by descriptor: no path of the image is ever
// looked up other than inside its root.
//
// It goes in two steps. What needs no root is made first, attached nowhere; then all is attached. Both are
// done in the specification's order, which can be seen: the kernel lists mounts in the order in which they
// were made (since Linux 6.8) or attached (before).
type tree struct {
	spec *specs.Spec
	root *os.File // the root of the container's file system, attached
	own  *cgroup  // the container's, or nil
	user *userNamespace
	host hierarchies
	// noDevices has every mount refuse devices that are not the container's own: there is no device
	// filter.
	noDevices bool

	mounts []mount    // those of the specification, in its order
	proc   *mount     // what becomes /proc, or nil
	covers []cover    // what covers parts of it
	dev    *os.File   // the root of /dev
	filled bool       // it has its devices
	pts    *os.File   // the root of /dev/pts
	files  []*os.File // to be closed
	// makeProcs makes procfs, all of its mounts.
	makeProcs func() error
}

// mount is a mount of the specification.
type mount struct {
	specs.Mount
	dest    string // clean
	options mountOptions
	made    *os.File     // attached nowhere yet; nil if it is not made before it is attached
	inside  []innerMount // what is attached in it
	late    uint64       // attributes that it has from then on
}

// innerMount is a mount that is attached in an entry of another one.
type innerMount struct {
	name string
	made *os.File
}

func (t *tree) close() {
	for _, f := range slices.Backward(t.files) {
		_ = f.Close()
	}
	t.files = nil
}

// keep has the file closed with the tree.
func (t *tree) keep(f *os.File) *os.File {
	t.files = append(t.files, f)
	return f
}

// make makes the kernel's file systems, up to the first mount that needs the root.
func (t *tree) make() error {
	t.mounts = make([]mount, len(t.spec.Mounts))
	for i, m := range t.spec.Mounts {
		t.mounts[i] = mount{Mount: m, dest: destination(m)}
		if err := t.mounts[i].parse(); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	if i := slices.IndexFunc(t.mounts, func(m mount) bool { return m.isProc() && m.dest == "/proc" }); i >= 0 {
		t.proc = &t.mounts[i]
	}
	for i := range t.mounts {
		m := &t.mounts[i]
		if m.takesFromBelow() {
			break
		}
		if err := t.makeMount(m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	return nil
}

func (m *mount) parse() (err error) {
	if m.dest == "/" {
		return fmt.Errorf("%w: the root is given apart", ErrSpec)
	}
	m.options = parseOptions(m.Options)
	if (m.options.idmap || len(m.UIDMappings)+len(m.GIDMappings) > 0) && !m.options.bind {
		return fmt.Errorf("an ID-mapped mount that is no bind mount: %w", ErrUnsupported)
	}
	return nil
}

// takesFromBelow tells whether a mount is a tmpfs that takes its mode, or more, from what it covers.
func (m *mount) takesFromBelow() bool {
	return m.Type == "tmpfs" && !m.options.bind && !m.options.remount && (m.options.copyUp || !m.options.has("mode"))
}

func (t *tree) makeMount(m *mount) (err error) {
	switch {
	case m.made != nil, m.options.bind, m.options.remount:
		return nil
	case m.isProc():
		return t.makeProcs()
	case m.Type == "cgroup", m.Type == "cgroup2":
		return t.makeCgroups(m)
	default:
		return t.makeFS(m)
	}
}

func (t *tree) makeFS(m *mount) (err error) {
	attrs := m.options.set
	ownDevices := m.dest == "/dev" || m.Type == "devpts"
	if t.noDevices && !ownDevices {
		attrs |= sys.AttrNoDev
	}
	if m.dest == "/dev" {
		attrs &^= sys.AttrReadOnly // until it is filled
	}
	data, err := t.user.mapOptions(t.labelled(m))
	if err != nil {
		return err
	}
	if m.made, err = newFS(m.Type, m.Source, data, attrs); err != nil {
		return err
	}
	t.keep(m.made)
	switch {
	case m.dest == "/dev":
		t.dev = m.made
		err := fillDev(t.dev, false)
		if t.filled = err == nil; errors.Is(err, fs.ErrPermission) {
			return nil // finishDev fills it
		}
		return err
	case m.dest == "/dev/pts" && m.Type == "devpts":
		t.pts = m.made
	}
	if m.Type == "devpts" && t.user != nil {
		return t.user.own(m.made) // its root is the host's, whoever mounts it
	}
	return nil
}

// labelled are the options of a file system, with the label for SELinux.
func (t *tree) labelled(m *mount) [][2]string {
	if label := t.spec.Linux.MountLabel; label != "" && seLinuxEnabled() && m.Type != "sysfs" && m.Type != "mqueue" && !m.options.has("context") {
		return append(slices.Clip(m.options.data), [2]string{"context", label})
	}
	return m.options.data
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
	if err := configure(c, data); err != nil {
		return nil, err
	}
	if err := c.Create(); err != nil {
		return nil, err
	}
	return c.Mount(int(attrs))
}

// configure gives a file system its options.
func configure(c *sys.FSContext, data [][2]string) (err error) {
	for _, o := range data {
		if o[1] == "" {
			err = c.Flag(o[0])
		} else {
			err = c.String(o[0], o[1])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// attachAll attaches everything to root.
func (t *tree) attachAll(root *os.File, binds sources) error {
	t.root = root
	for i := range t.mounts {
		m := &t.mounts[i]
		if err := t.attachMount(m, binds[i]); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	return t.finishDev()
}

func (t *tree) attachMount(m *mount, from *source) error {
	switch {
	case m.options.remount:
		return t.remount(m)
	case t.proc != nil && !m.isProc() && below(m.dest, "/proc"):
		return t.coverProc(m, from)
	case m.options.bind:
		return t.bind(m, from)
	case m.takesFromBelow():
		return t.attachTmpfs(m)
	}
	if err := t.makeMount(m); err != nil {
		return err
	}
	if m.isProc() || m.Type == "sysfs" {
		target, err := plainDirectory(t.root, m.dest)
		if err != nil {
			return err
		}
		defer target.Close()
		return attach(m.made, target, m.options)
	}
	return t.attachMade(m)
}

func (t *tree) attachMade(m *mount) error {
	target, err := t.place(m.dest, directory)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := attach(m.made, target, m.options); err != nil {
		return err
	}
	for _, inner := range m.inside {
		if err := attachInside(m.made, inner); err != nil {
			return err
		}
	}
	if m.late == 0 {
		return nil
	}
	return sys.SetMountAttr(m.made, false, m.late, 0, 0)
}

func attachInside(outer *os.File, inner innerMount) error {
	target, err := sys.OpenEntry(outer, inner.name, sys.OpenDirectory)
	if err != nil {
		return err
	}
	defer target.Close()
	return sys.MoveMount(inner.made, target)
}

// attachTmpfs makes and attaches a tmpfs that takes something from the directory it covers: its mode if
// it has none of its own, or else the kernel's default, like runc's; and what is in it, with tmpcopyup.
func (t *tree) attachTmpfs(m *mount) error {
	covered, err := sys.OpenInRoot(t.root, m.dest, sys.OpenDirectory)
	if errors.Is(err, fs.ErrNotExist) {
		if err := t.makeFS(m); err != nil {
			return err
		}
		return t.attachMade(m)
	}
	if err != nil {
		return fmt.Errorf("mount point %s: %w", m.dest, err)
	}
	defer covered.Close()
	node, err := sys.StatNode(covered)
	if err != nil {
		return err
	}
	if !m.options.has("mode") {
		m.options.data = append(m.options.data, [2]string{"mode", fmt.Sprintf("%o", node.Perm)})
	}
	readOnly := m.options.set & sys.AttrReadOnly
	if m.options.copyUp {
		m.options.set &^= readOnly // until it is filled
		m.late |= readOnly
	}
	if err := t.makeFS(m); err != nil {
		return err
	}
	if m.options.copyUp {
		if err := copytree.Copy(m.made, covered); err != nil {
			return fmt.Errorf("tmpcopyup: %w", err)
		}
	}
	return t.attachMade(m)
}

// remount changes what is mounted somewhere already: the mount's attributes, and with options of the
// file system that itself.
func (t *tree) remount(m *mount) error {
	target, err := sys.OpenInRoot(t.root, m.dest, sys.OpenAny)
	if err != nil {
		return err
	}
	defer target.Close()
	if root, err := sys.IsMountRoot(target); err != nil {
		return err
	} else if !root {
		return fmt.Errorf("remount: %w: nothing is mounted there", ErrSpec)
	}
	if m.options.set|m.options.clear != 0 {
		if err := sys.SetMountAttr(target, false, m.options.set, m.options.clear, 0); err != nil {
			return err
		}
	}
	if m.options.treeSet|m.options.treeClear != 0 {
		if err := sys.SetMountAttr(target, true, m.options.treeSet, m.options.treeClear, 0); err != nil {
			return err
		}
	}
	if m.options.propagation != 0 {
		if err := sys.SetMountAttr(target, m.options.propagateTree, 0, 0, m.options.propagation); err != nil {
			return err
		}
	}
	if m.options.bind || len(m.options.data) == 0 {
		return nil
	}
	c, err := sys.PickFS(target)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := configure(c, m.options.data); err != nil {
		return err
	}
	return c.Reconfigure()
}

// attach attaches a mount to its place.
func attach(mount, target *os.File, o mountOptions) error {
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

func (t *tree) bind(m *mount, from *source) error {
	if from.link != "" {
		return t.copyLink(m, from.link)
	}
	target, err := t.place(m.dest, from.kind)
	if err != nil {
		return err
	}
	defer target.Close()
	if t.noDevices {
		if err := sys.SetMountAttr(from.mount, true, sys.AttrNoDev, 0, 0); err != nil {
			return err
		}
	}
	if m.dest == "/dev" {
		// Somebody else's devices: they are not ours to change.
		t.dev, t.filled = from.mount, true
	}
	return sys.MoveMount(from.mount, target)
}

// copyLink makes a symbolic link, unless there is the same one.
func (t *tree) copyLink(m *mount, target string) error {
	parent, err := mountPoint(t.root, path.Dir(m.dest), directory)
	if err != nil {
		return err
	}
	defer parent.Close()
	name := path.Base(m.dest)
	err = sys.MakeSymlink(parent, name, target)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, openErr := sys.OpenEntry(parent, name, sys.OpenNoFollow)
	if openErr != nil {
		return openErr
	}
	defer there.Close()
	if got, linkErr := sys.ReadLinkFD(there); linkErr == nil && got == target {
		return nil
	}
	return err
}

// place is mountPoint, but for /dev, which no link of the image may move elsewhere: devices would be
// made among other files (CVE-2026-41579).
func (t *tree) place(dest string, want kind) (*os.File, error) {
	if dest == "/dev" {
		return withoutLinks(t.root, dest, sys.OpenWithoutLinks)
	}
	return mountPoint(t.root, dest, want)
}

// plainDirectory is mountPoint for the file systems through which the kernel is ruled: no link of
// the image may move them elsewhere, where paths that are meant to be read-only or hidden would
// not be (CVE-2019-19921).
func plainDirectory(root *os.File, dest string) (*os.File, error) {
	return withoutLinks(root, dest, sys.OpenBeneath)
}

// withoutLinks opens a directory, and makes it if it is missing.
func withoutLinks(root *os.File, dest string, open func(*os.File, string, uint64) (*os.File, error)) (*os.File, error) {
	f, err := open(root, dest[1:], sys.OpenDirectory)
	if errors.Is(err, fs.ErrNotExist) {
		made, makeErr := mountPoint(root, dest, directory)
		if makeErr != nil {
			return nil, makeErr
		}
		_ = made.Close()
		f, err = open(root, dest[1:], sys.OpenDirectory)
	}
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EXDEV) {
		return nil, fmt.Errorf("%w: the image has something else than a directory at %s", ErrSpec, dest)
	}
	return f, err
}
