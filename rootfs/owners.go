package rootfs

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
)

// Owners is a user namespace to whose users the files of layers are to belong: what is a user's on the
// disk is, on the mount, the user of that number in the namespace. So nothing is given to anybody, and
// containers with other users have the same layers.
//
// Source: mount_setattr(2), MOUNT_ATTR_IDMAP; Documentation/filesystems/idmappings.rst.
type Owners struct {
	// Users is the namespace.
	Users *os.File
	// UID and GID are what its root is outside of it.
	UID, GID uint32

	mounts []*os.File // made by Map, attached nowhere
}

// Map gives a directory anew, with the owners. With that mount an [Overlay] is to be made whose options
// have these owners. It lives until Close.
func (o *Owners) Map(dir *os.File) (*os.File, error) {
	mount, err := sys.CloneTree(dir, false)
	if err != nil {
		return nil, err
	}
	if err := sys.MapMountIDs(mount, false, o.Users); err != nil {
		drop(mount)
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, sys.ErrnoPermission) {
			err = fmt.Errorf("%w: the file system of %s, or this kernel, cannot show other owners of files: %w", ErrUnsupported, dir.Name(), err)
		}
		return nil, err
	}
	o.mounts = append(o.mounts, mount)
	return mount, nil
}

// Close closes what Map made. Overlays of it stay.
func (o *Owners) Close() {
	drop(o.mounts...)
	o.mounts = nil
}

// overlay makes an overlay as the namespace's root would, for in an upper with other owners whoever
// mounted it makes files, and nobody else has a number there. That, and a mount namespace in which
// the mapped mounts are attached (before Linux 6.15, layers have to be), takes a thread that ends.
func (o *Owners) overlay(lowers []*os.File, upper, work *os.File, opts OverlayOptions) (mount *os.File, err error) {
	done := make(chan struct{})
	sys.OnOwnThread(func() {
		defer close(done)
		if err = o.enter(); err == nil {
			mount, err = stack(lowers, upper, work, opts)
		}
	})
	<-done
	return mount, err
}

func (o *Owners) enter() error {
	if err := sys.UnshareMounts(); err != nil {
		return err
	}
	slash, err := sys.OpenPath("/")
	if err != nil {
		return err
	}
	defer drop(slash)
	for _, mount := range o.mounts {
		// Each goes on top of the one before, over the root that this thread still stands in.
		if err := sys.MoveMount(mount, slash); err != nil {
			return err
		}
	}
	return sys.BeRootOf(o.UID, o.GID)
}
