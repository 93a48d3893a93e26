package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
)

// MaxLowers is the number of lower layers the kernel stacks: OVL_MAX_STACK in fs/overlayfs/params.h.
const MaxLowers = 500

// OverlayOptions says how to stack. The zero value needs at least one lower with an upper, and two
// without.
type OverlayOptions struct {
	// Volatile leaves out every sync: for containers that are removed when they end. An upper
	// once used so must not be mounted again; the kernel refuses to.
	Volatile bool
	// ReadOnly makes the mount read-only although there is an upper. Without an upper it always is.
	ReadOnly bool
	// Run is $TARN_RUN. Below it lie the empty directories that fill up a stack which is too short
	// for the kernel, and the mount point that kernels before 6.8 need for a moment.
	Run string
	// Owners, if it is not nil, are those by whom all layers were mapped.
	Owners *Owners
}

// options are the same for every stack, whatever the kernel was built to do by default;
// docs/adr/overlay-options.md says why.
func options() [][2]string {
	if sys.InUserNamespace() {
		// What overlayfs notes in attributes that users can set themselves it must not believe for these two.
		return [][2]string{{"userxattr", ""}, {"redirect_dir", "nofollow"}, {"metacopy", "off"}, {"index", "off"}, {"nfs_export", "off"}, {"xino", "auto"}}
	}
	return [][2]string{
		{"redirect_dir", "on"},
		{"metacopy", "on"},
		{"index", "off"},
		{"nfs_export", "off"},
		{"xino", "auto"},
	}
}

// Overlay stacks directories and gives the merged tree as a mount that is attached nowhere.
// lowers are read-only, the topmost first, at most [MaxLowers]. upper and work lie on one file
// system and are used by no other mount; both nil gives a read-only tree. The merged root
// directory has the owner, mode and attributes of the topmost layer's, so an upper begins
// with [PrepareUpper].
//
// Source: Documentation/filesystems/overlayfs.rst.
func Overlay(lowers []*os.File, upper, work *os.File, opts OverlayOptions) (*os.File, error) {
	lowers, err := visible(lowers)
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	fill, err := fillers(len(lowers), upper != nil, opts.Run)
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	defer drop(fill...)
	lowers = slices.Concat(lowers, fill)
	if len(lowers) > MaxLowers {
		return nil, fmt.Errorf("overlay of %d layers: %w: the kernel stacks at most %d", len(lowers), ErrTooManyLayers, MaxLowers)
	}
	mountIt := stack
	if opts.Owners != nil {
		mountIt = opts.Owners.overlay
	}
	mount, err := mountIt(lowers, upper, work, opts)
	if err != nil {
		return nil, fmt.Errorf("overlay of %d layers: %w", len(lowers), err)
	}
	return mount, nil
}

// stack makes the overlay in the way that this kernel knows.
func stack(lowers []*os.File, upper, work *os.File, opts OverlayOptions) (*os.File, error) {
	mount, err := overlay(lowers, upper, work, opts)
	if errors.Is(err, syscall.EINVAL) && !hasLowerdirPlus() {
		return legacyOverlay(lowers, upper, work, opts)
	}
	return mount, err
}

// MergedView gives, read-only, what a container with that upper sees, without mounting the upper
// for writing. A container that runs is better read through [LiveRoot]: the kernel makes no promise
// about a view of an upper that changes.
func MergedView(upper *os.File, lowers []*os.File, opts OverlayOptions) (*os.File, error) {
	return Overlay(slices.Concat([]*os.File{upper}, lowers), nil, nil, opts)
}

// hasLowerdirPlus tells whether the kernel takes layers one by one (Linux 6.8); before, they were one
// string. It is asked when something was refused.
func hasLowerdirPlus() bool {
	fs, err := sys.OpenFS("overlay")
	if err != nil {
		return false
	}
	defer fs.Close()
	return fs.String("lowerdir+", "/") == nil
}

func overlay(lowers []*os.File, upper, work *os.File, opts OverlayOptions) (*os.File, error) {
	fs, err := sys.OpenFS("overlay")
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	for _, o := range append(options(), [2]string{"source", "overlay"}) {
		if o[1] == "" {
			err = fs.Flag(o[0])
		} else {
			err = fs.String(o[0], o[1])
		}
		if err != nil {
			return nil, err
		}
	}
	set := directorySetter{fs: fs}
	for _, lower := range lowers {
		if err := set.set("lowerdir+", lower); err != nil {
			return nil, err
		}
	}
	if upper != nil {
		if err := errors.Join(set.set("upperdir", upper), set.set("workdir", work)); err != nil {
			return nil, err
		}
	}
	if opts.Volatile && upper != nil {
		if err := fs.Flag("volatile"); err != nil {
			return nil, err
		}
	}
	if err := fs.Create(); err != nil {
		return nil, err
	}
	attrs := 0
	if upper == nil || opts.ReadOnly {
		attrs = sys.AttrReadOnly
	}
	return fs.Mount(attrs)
}

// directorySetter hands directories to overlayfs by descriptor (Linux 6.13, for O_PATH ones 6.15),
// or after the first refusal by a path to the descriptor.
type directorySetter struct {
	fs    *sys.FSContext
	paths bool
}

func (s *directorySetter) set(key string, dir *os.File) error {
	if !s.paths {
		if err := s.fs.FD(key, dir); err == nil {
			return nil
		}
		s.paths = true
	}
	if err := s.fs.String(key, sys.FDPath(dir)); err != nil {
		return fmt.Errorf("%s: %w", dir.Name(), err)
	}
	return nil
}

// visible leaves out the layers below one whose root directory is opaque, an attribute that
// overlayfs does not look at on roots.
func visible(lowers []*os.File) ([]*os.File, error) {
	prefix := overlayXattr()
	for i, lower := range lowers {
		opaque, err := sys.GetXattr(lower, prefix+"opaque")
		if err != nil {
			return nil, err
		}
		if string(opaque) == "y" {
			return lowers[:i+1], nil
		}
	}
	return lowers, nil
}

// maxMountData is what mount(2) takes as options: a page, with its closing NUL.
const maxMountData = 4096 - 1

// legacyOverlay mounts through mount(2), whose page of options is room for about 200 layers,
// because fsconfig(2) takes strings below 256 bytes only.
func legacyOverlay(lowers []*os.File, upper, work *os.File, opts OverlayOptions) (*os.File, error) {
	data := legacyData(lowers, upper, work, opts)
	if len(data) > maxMountData {
		return nil, fmt.Errorf("%w for this kernel's mount options: Linux 6.8 or newer stacks %d", ErrTooManyLayers, MaxLowers)
	}
	if opts.Run == "" {
		return nil, fmt.Errorf("%w: Linux before 6.8 needs OverlayOptions.Run", ErrUnsupported)
	}
	point, err := os.MkdirTemp(opts.Run, "overlay-")
	if err != nil {
		return nil, fmt.Errorf("mount point: %w", err)
	}
	defer func() { _ = os.Remove(point) }()
	var flags uintptr
	if upper == nil || opts.ReadOnly {
		flags = syscall.MS_RDONLY
	}
	if err := sys.Mount("overlay", point, "overlay", flags, data); err != nil {
		return nil, err
	}
	defer func() { _ = sys.Detach(point) }()
	dir, err := os.Open(point)
	if err != nil {
		return nil, err
	}
	defer drop(dir)
	return sys.CloneTree(dir, false)
}

func legacyData(lowers []*os.File, upper, work *os.File, opts OverlayOptions) string {
	var fields, dirs []string
	for _, o := range options() {
		fields = append(fields, strings.TrimSuffix(o[0]+"="+o[1], "="))
	}
	for _, lower := range lowers {
		dirs = append(dirs, sys.FDPath(lower))
	}
	fields = append(fields, "lowerdir="+strings.Join(dirs, ":"))
	if upper != nil {
		fields = append(fields, "upperdir="+sys.FDPath(upper), "workdir="+sys.FDPath(work))
		if opts.Volatile {
			fields = append(fields, "volatile")
		}
	}
	return strings.Join(fields, ",")
}

// fillers gives empty directories for a stack that the kernel finds too short: it wants a lower
// below an upper, and two lowers without one. A single layer is stacked too rather than shown as
// it is, because only overlayfs hides its whiteouts and unescapes its attributes.
func fillers(lowers int, upper bool, run string) ([]*os.File, error) {
	need := 2 - lowers
	if upper {
		need--
	}
	var fill []*os.File
	for i := range need {
		// Siblings, because one directory may not be in a stack twice.
		dir, err := openMade(filepath.Join(run, "empty", strconv.Itoa(i)), 0o755)
		if err != nil {
			drop(fill...)
			return nil, err
		}
		fill = append(fill, dir)
	}
	return fill, nil
}

// ForgetVolatile lets an overlay be made again that was volatile, with what of it has reached the disk: without
// a power cut that is all. work is its work directory. (Documentation/filesystems/overlayfs.rst, "Volatile
// mount".)
func ForgetVolatile(work string) error {
	return os.RemoveAll(filepath.Join(work, "work", "incompat"))
}
