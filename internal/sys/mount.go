package sys

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount attributes for [FSContext.Mount] and [SetMountAttr], see mount_setattr(2).
const (
	AttrReadOnly    = unix.MOUNT_ATTR_RDONLY
	AttrNoSuid      = unix.MOUNT_ATTR_NOSUID
	AttrNoDev       = unix.MOUNT_ATTR_NODEV
	AttrNoExec      = unix.MOUNT_ATTR_NOEXEC
	AttrNoSymFollow = unix.MOUNT_ATTR_NOSYMFOLLOW
	AttrNoAtime     = unix.MOUNT_ATTR_NOATIME
	AttrRelAtime    = unix.MOUNT_ATTR_RELATIME
)

// Propagation types for [SetMountAttr], see mount_namespaces(7). Zero leaves it unchanged.
const (
	PropagationPrivate    = unix.MS_PRIVATE
	PropagationSlave      = unix.MS_SLAVE
	PropagationShared     = unix.MS_SHARED
	PropagationUnbindable = unix.MS_UNBINDABLE
)

// Magic numbers of file systems, as [FSType] gives them.
const (
	MagicErofs   = unix.EROFS_SUPER_MAGIC_V1
	MagicOverlay = unix.OVERLAYFS_SUPER_MAGIC
	MagicTmpfs   = unix.TMPFS_MAGIC
)

// FSContext is a file system being configured, see fsopen(2). Close it when done with it, also
// after Mount.
type FSContext struct {
	fd     int
	fstype string
}

// OpenFS begins the configuration of a new file system of the given type. A kernel without that
// type gives unix.ENODEV.
func OpenFS(fstype string) (*FSContext, error) {
	fd, err := retryIntr(func() (int, error) { return unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC) })
	if err != nil {
		return nil, fmt.Errorf("fsopen %s: %w", fstype, err)
	}
	return &FSContext{fd: fd, fstype: fstype}, nil
}

// Flag sets an option that has no value, such as "ro".
func (c *FSContext) Flag(key string) error {
	return c.explain(key, unix.FsconfigSetFlag(c.fd, key))
}

// String sets an option to a string of less than 256 bytes.
func (c *FSContext) String(key, value string) error {
	return c.explain(key+"="+value, unix.FsconfigSetString(c.fd, key, value))
}

// FD sets an option to an open file. Not every option takes one, and before Linux 6.15 none takes
// an O_PATH descriptor (EBADF); those that take a path string take [FDPath].
func (c *FSContext) FD(key string, f *os.File) error {
	return c.explain(key, unix.FsconfigSetFd(c.fd, key, int(f.Fd())))
}

// Create makes the file system (the superblock) from what was configured.
func (c *FSContext) Create() error {
	_, err := retryIntr(func() (int, error) { return 0, unix.FsconfigCreate(c.fd) })
	return c.explain(opCreate, err)
}

// opCreate is the step at which file systems look at all that was configured.
const opCreate = "create"

// PickFS begins a change of the configuration of a file system that is mounted; mount is the root of
// a mount of it.
func PickFS(mount *os.File) (*FSContext, error) {
	fd, err := unix.Fspick(int(mount.Fd()), "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("fspick %s: %w", mount.Name(), err)
	}
	return &FSContext{fd: fd, fstype: "remount"}, nil
}

// Reconfigure makes the change that was configured.
func (c *FSContext) Reconfigure() error {
	return c.explain("reconfigure", unix.FsconfigReconfigure(c.fd))
}

// Mount gives the created file system as a mount that is not attached anywhere; it lives until
// the file is closed, unless [MoveMount] has attached it. attrs are Attr constants.
func (c *FSContext) Mount(attrs int) (*os.File, error) {
	fd, err := unix.Fsmount(c.fd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, c.explain("fsmount", err)
	}
	return os.NewFile(uintptr(fd), c.fstype), nil
}

// Close gives the context back. Mounts made from it stay.
func (c *FSContext) Close() {
	_ = unix.Close(c.fd)
}

// explain adds the kernel's own words about an error, which it leaves as a log in the context:
// each read gives one message, "e " (error), "w " or "i " before it.
func (c *FSContext) explain(op string, err error) error {
	if err == nil {
		return nil
	}
	var words []string
	buf := make([]byte, 1024)
	for len(words) < 8 {
		n, readErr := unix.Read(c.fd, buf)
		if readErr != nil || n <= 0 {
			break
		}
		if msg, ok := strings.CutPrefix(strings.TrimSpace(string(buf[:n])), "e "); ok {
			words = append(words, strings.TrimPrefix(msg, c.fstype+": "))
		}
	}
	if len(words) > 0 {
		return fmt.Errorf("%s: %s: %w (%s)", c.fstype, op, err, strings.Join(words, "; "))
	}
	if op == opCreate {
		return fmt.Errorf("%s: %s: %w (the kernel's log may say why: dmesg)", c.fstype, op, err)
	}
	return fmt.Errorf("%s: %s: %w", c.fstype, op, err)
}

// FDPath is a path that leads to the open file itself, for interfaces of the kernel that take only
// paths. It works in this process, while f is open and /proc is mounted.
func FDPath(f *os.File) string {
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd())
}

// MoveMount attaches a mount that is not attached yet (or moves one that is) to target, an open
// directory, or a file when a file's bind mount is attached.
func MoveMount(mount, target *os.File) error {
	err := unix.MoveMount(int(mount.Fd()), "", int(target.Fd()), "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("move_mount to %s: %w", target.Name(), err)
	}
	return nil
}

// CloneTree gives a bind mount of an open directory or file, attached nowhere; with recursive also
// of the mounts below it. The file must have been opened in the caller's mount namespace.
func CloneTree(from *os.File, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(int(from.Fd()), "", flags)
	if err != nil {
		return nil, fmt.Errorf("open_tree %s: %w", from.Name(), err)
	}
	return os.NewFile(uintptr(fd), from.Name()), nil
}

// SetMountAttr changes a mount, with recursive also those below it: set and clear are Attr
// constants, propagation is a Propagation constant or 0.
func SetMountAttr(mount *os.File, recursive bool, set, clear, propagation uint64) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: set, Attr_clr: clear, Propagation: propagation}
	if err := unix.MountSetattr(int(mount.Fd()), "", flags, &attr); err != nil {
		return fmt.Errorf("mount_setattr %s: %w", mount.Name(), err)
	}
	return nil
}

// Mount is mount(2), for what the calls above cannot do on old kernels. data is at most a page.
func Mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fstype, target, err)
	}
	return nil
}

// Unmount takes away the topmost mount at path, whose last component is not followed if it is a
// symbolic link. A mount in use gives unix.EBUSY.
func Unmount(path string) error {
	return unmount(path, unix.UMOUNT_NOFOLLOW)
}

// Detach takes the topmost mount at path, and those below it, out of sight at once; each ends
// when its last user is gone (MNT_DETACH).
func Detach(path string) error {
	return unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
}

func unmount(path string, flags int) error {
	if err := unix.Unmount(path, flags); err != nil {
		return &os.PathError{Op: "unmount", Path: path, Err: err}
	}
	return nil
}

// IsBusy tells whether err is the kernel's "in use" (EBUSY).
func IsBusy(err error) bool { return errors.Is(err, unix.EBUSY) }

// FSType gives the magic number of the file system that f lies on.
func FSType(f *os.File) (int64, error) {
	var st unix.Statfs_t
	_, err := retryIntr(func() (int, error) { return 0, unix.Fstatfs(int(f.Fd()), &st) })
	if err != nil {
		return 0, fmt.Errorf("statfs %s: %w", f.Name(), err)
	}
	return int64(st.Type), nil //nolint:unconvert // the field's type differs between architectures
}

// IsMountRoot tells whether f is the root of a mount (STATX_ATTR_MOUNT_ROOT, Linux 5.8).
func IsMountRoot(f *os.File) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return false, fmt.Errorf("statx %s: %w", f.Name(), err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// retryIntr repeats a system call that a signal interrupted (Go's own preemption signals do).
func retryIntr[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}
