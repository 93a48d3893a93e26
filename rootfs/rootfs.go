// Package rootfs makes one mounted tree of an image's layers.
//
// A [Driver] gives each layer as a directory, [Overlay] stacks those directories below a
// container's own, and [BuildInit] supplies the mount points an image lacks. All of it is handed
// on as open directories and as mounts that are attached nowhere: a path is only made where a
// person is to look ([MountAt]).
//
// The order for a container is: Mount of each layer, OpenInit, PrepareUpper, Overlay, all in the mount
// namespace of the host; then the detached mount that Overlay gives is attached inside the
// container's namespace. (The kernel refuses to stack directories that were opened in another
// mount namespace than the caller's.)
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/tarnfs/tarn/holes"
)

var (
	// ErrUnsupported says that the kernel, or the file system below the store, cannot do what a
	// driver needs.
	ErrUnsupported = errors.New("not supported here")
	// ErrTooManyLayers says that an image has more layers than the kernel stacks.
	ErrTooManyLayers = errors.New("too many layers")
	// ErrBadLayer says that what the store holds for a layer cannot be mounted.
	ErrBadLayer = errors.New("damaged layer")
	// ErrMounted says that something is mounted at a place already.
	ErrMounted = errors.New("already mounted")
	// ErrNotMounted says that nothing is mounted at a place.
	ErrNotMounted = errors.New("not mounted")
	// ErrBusy says that a mount cannot be taken away because someone uses it.
	ErrBusy = errors.New("in use")
)

// Layer says where the store keeps a layer.
type Layer struct {
	DiffID string // the SHA-256 of the uncompressed tar: 64 hexadecimal digits, "sha256:" may precede
	Dir    string // the layer's own directory in the store; the dirs driver keeps its tree there
	Tmp    string // on the same file system, where package atomicfile makes and collects what is not finished
	// Open opens the layer's tar and its index, whose extra devices are the tar's. It is called
	// only when they are needed.
	Open func() (*holes.Tar, error)
}

// Driver gives layers as directories. Any number of goroutines and processes may use drivers over
// the same directories at once; a layer is made available once, and shared.
type Driver interface {
	// Name is the driver's name as --storage-driver takes it.
	Name() string

	// Mount gives the layer's tree as an open directory (perhaps O_PATH), in the form overlayfs
	// wants in a lower layer: whiteouts are character devices 0:0, opaque directories have
	// trusted.overlay.opaque, and an image's own trusted.overlay.* attributes are escaped.
	// Nobody may write there. The caller closes the file; the layer stays available.
	//
	// Errors wrap ErrUnsupported where the driver cannot work at all, ErrBadLayer where this
	// layer is at fault.
	Mount(ctx context.Context, l Layer) (*os.File, error)

	// Locate says at which path Mount makes the layer's tree available, or would, and the name of the
	// driver that does: one which chooses gives the one it chose. Nothing need be there yet.
	Locate(l Layer) (driver, path string)

	// Release takes back what Mount, of this driver or of another with the same directory, left on the host
	// outside the store's own directories, so that the store may remove the layer. Containers that run on it go on undisturbed: their overlay
	// holds the tree, and the disk space is free when the last of them ends. A layer that is not
	// mounted is no error.
	Release(l Layer) error
}

// Names of drivers.
const (
	Auto  = "auto"
	Erofs = "erofs"
	Dirs  = "dirs"
)

// NewDriver gives the driver of that name. run is the directory for what may vanish at a reboot
// ($TARN_RUN). Nothing is probed: Auto, also "", uses EROFS mounts until one is refused as
// unsupported, and extracted directories from then on.
func NewDriver(name, run string) (Driver, error) {
	switch name {
	case Erofs:
		return &erofsDriver{run: run}, nil
	case Dirs:
		return &dirsDriver{others: erofsDriver{run: run}}, nil
	case Auto, "":
		return &autoDriver{mounts: &erofsDriver{run: run}, extracts: &dirsDriver{others: erofsDriver{run: run}}}, nil
	}
	return nil, fmt.Errorf("storage driver %q: unknown: use %s, %s or %s", name, Auto, Erofs, Dirs)
}

// hexID gives the diffID as it is used in file names, or an error where it is not one, so that
// no ID can lead out of a directory.
func (l Layer) hexID() (string, error) {
	id := strings.TrimPrefix(l.DiffID, "sha256:")
	if !isHexID(id) {
		return "", fmt.Errorf("layer %q: not a SHA-256 diffID", l.DiffID)
	}
	return id, nil
}

func isHexID(id string) bool {
	return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == ""
}
