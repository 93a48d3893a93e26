package powerdisk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Mount mounts the file system on the disk that [Server.Add] shows at path, through a loop device. options are
// those of mount(8). unix.Unmount takes both away.
func Mount(path, fsType, dir, options string) error {
	device, err := attach(path)
	if err != nil {
		return fmt.Errorf("loop device over %s: %w", path, err)
	}
	defer device.Close() // and from then on the mount holds it
	if err := unix.Mount(device.Name(), dir, fsType, 0, options); err != nil {
		return fmt.Errorf("mount %s of %s on %s: %w", fsType, path, dir, err)
	}
	return nil
}

// attach makes a loop device that goes when nobody uses it any more (loop(4)).
func attach(path string) (*os.File, error) {
	backing, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{
			Fd: uint32(backing.Fd()), Size: sectorSize, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return device, nil
		}
		if err := errors.Join(err, device.Close()); !errors.Is(err, unix.EBUSY) { // else somebody was faster
			return nil, os.NewSyscallError("LOOP_CONFIGURE", err)
		}
	}
}
