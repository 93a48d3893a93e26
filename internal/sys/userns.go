package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NewUserNamespace makes a user namespace with these mappings, lines of user_namespaces(7)'s uid_map
// and gid_map, and gives it opened, for [MapMountIDs] or [Setns].
//
// A namespace begins with a process. Here it is a child that does nothing but wait to be let go.
func NewUserNamespace(uidMap, gidMap string) (ns *os.File, err error) {
	wait, release, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer wait.Close()
	defer release.Close() // with which the child ends, if it is not ended before
	p := &Program{}
	defer p.Close()
	p.Await(wait)
	child, err := Spawn(unix.CLONE_NEWUSER, nil, p)
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	defer child.Discard()
	proc, err := os.OpenRoot(fmt.Sprintf("/proc/%d", child.Pid))
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	if err := errors.Join(writeIn(proc, "uid_map", uidMap), writeIn(proc, "gid_map", gidMap)); err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	return OpenNamespace(fmt.Sprintf("/proc/%d/ns/user", child.Pid), NewUser)
}

func writeIn(dir *os.Root, name, content string) error {
	f, err := dir.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(content)
	return err
}

// MapMountIDs has a mount that is attached nowhere show other owners: those that its file system's
// have outside the user namespace; with recursive also the mounts below it.
func MapMountIDs(mount *os.File, recursive bool, userns *os.File) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(int(mount.Fd()), "", flags, attr); err != nil {
		return fmt.Errorf("map the owners of %s: %w", mount.Name(), err)
	}
	return nil
}
