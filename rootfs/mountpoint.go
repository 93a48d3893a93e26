package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
)

// MountAt attaches a mount that is attached nowhere to a directory on the host for people to look
// into, and makes the directory where it is missing. Where something is mounted already, it gives
// ErrMounted: two processes may ask for the same at once, and the one that is told so uses what the
// other mounted. The mount stays after the file is closed, until [Unmount].
func MountAt(ctx context.Context, mount *os.File, path string) error {
	// The lock is the parent directory's, which is ours alone and is there before the mount.
	parent, err := openMade(filepath.Dir(path), 0o700)
	if err != nil {
		return fmt.Errorf("mount at %s: %w", path, err)
	}
	defer drop(parent)
	if err := sys.Flock(ctx, parent, true); err != nil {
		return fmt.Errorf("mount at %s: %w", path, err)
	}
	there, err := Mounted(path)
	if err == nil && there {
		err = ErrMounted
	}
	if err == nil {
		err = attach(mount, path, 0o755)
	}
	if err != nil {
		return fmt.Errorf("mount at %s: %w", path, err)
	}
	return nil
}

// Mounted tells whether something is mounted at path, which need not exist.
func Mounted(path string) (bool, error) {
	dir, err := sys.OpenPath(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer drop(dir)
	return sys.IsMountRoot(dir)
}

// Unmount takes away what MountAt attached, and the directory. ErrNotMounted says that nothing was
// there, ErrBusy that someone has a file open in it or works in it.
func Unmount(path string) error {
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("unmount %s: %w: %w", path, ErrNotMounted, err)
	}
	defer drop(parent)
	// Nobody mounts there before the directory is gone.
	if err := sys.WaitFlock(parent, true); err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	err = sys.Unmount(path)
	switch {
	case notMounted(err):
		return fmt.Errorf("unmount %s: %w", path, ErrNotMounted)
	case sys.IsBusy(err):
		return fmt.Errorf("unmount %s: %w: a process has a file open in it, or its working directory there", path, ErrBusy)
	case err != nil:
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// LiveRoot gives the root file system of a running container as a mount attached nowhere: what
// the process pid sees at /, without what is mounted below it. It is the container's own
// overlay, so it is right at every moment, and writable if the container's is.
func LiveRoot(pid int) (*os.File, error) { return cloneRoot(pid, false) }

// LiveTree is [LiveRoot] with all that is mounted below it, as it is at this moment: what the container
// mounts or unmounts later does not come to it.
func LiveTree(pid int) (*os.File, error) {
	tree, err := cloneRoot(pid, true)
	if err != nil {
		return nil, err
	}
	if err := sys.SetMountAttr(tree, true, 0, 0, sys.PropagationPrivate); err != nil {
		drop(tree)
		return nil, err
	}
	return tree, nil
}

func cloneRoot(pid int, recursive bool) (*os.File, error) {
	process, err := sys.PidFD(pid)
	if err != nil {
		return nil, fmt.Errorf("root of process %d: %w", pid, err)
	}
	defer drop(process)
	root, err := sys.CloneRoot(process, recursive)
	if err != nil {
		return nil, fmt.Errorf("root of process %d: %w", pid, err)
	}
	return root, nil
}

// attach mounts at path, and makes the directory where it is missing.
func attach(mount *os.File, path string, mode os.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	point, err := sys.OpenPath(path)
	if err != nil {
		return err
	}
	defer drop(point)
	return sys.MoveMount(mount, point)
}

// notMounted tells whether umount2(2) said that the path is no mount point, or is not there.
func notMounted(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, os.ErrNotExist)
}
