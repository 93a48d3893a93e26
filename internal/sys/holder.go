package sys

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Holder is a child that does nothing but hold new namespaces, until somebody else is in them. It is for
// those that a thread of a program with several threads cannot make by itself: user namespaces,
// those that are to belong to one, and time namespaces.
type Holder struct {
	child          *Spawned
	proc           *os.Root // its directory in /proc
	wait, release  *os.File
	told, tell     *os.File
	UIDMap, GIDMap string // the mappings of its user namespace, as the kernel shows them here
}

// HoldNamespaces makes namespaces of the given kinds. They belong to a user namespace: to user if it is
// not nil, else to a new one with these mappings if they are not "" (lines of user_namespaces(7)'s
// uid_map and gid_map), else to ours. offsets are lines of time_namespaces(7)'s timens_offsets.
// The caller closes the Holder.
func HoldNamespaces(kinds int, user *os.File, uidMap, gidMap, offsets string) (h *Holder, err error) {
	h = &Holder{}
	defer func() {
		if err != nil {
			h.Close()
			err = fmt.Errorf("make namespaces: %w", err)
		}
	}()
	if err := h.spawn(kinds, user, uidMap != ""); err != nil {
		return h, err
	}
	if uidMap != "" {
		if err := errors.Join(writeIn(h.proc, "uid_map", uidMap), writeIn(h.proc, "gid_map", gidMap)); err != nil {
			return h, err
		}
	}
	if err := h.next(); err != nil {
		return h, err
	}
	if offsets != "" {
		if err := writeIn(h.proc, "timens_offsets", offsets); err != nil {
			return h, err
		}
	}
	if h.UIDMap, err = readIn(h.proc, "uid_map"); err != nil {
		return h, err
	}
	h.GIDMap, err = readIn(h.proc, "gid_map")
	return h, err
}

// spawn makes the child, which waits for its mappings, then makes the other namespaces, and waits
// again.
func (h *Holder) spawn(kinds int, user *os.File, newUser bool) (err error) {
	if h.wait, h.release, err = os.Pipe(); err != nil {
		return err
	}
	if h.told, h.tell, err = os.Pipe(); err != nil {
		return err
	}
	p := &Program{}
	defer p.Close()
	var flags uint64
	if newUser {
		flags = NewUser
	}
	p.Await(h.wait)
	if user != nil {
		p.Enter("setns user", user, NewUser)
	}
	if kinds != 0 {
		if user != nil || newUser {
			p.BeRoot(GroupsAreFixed(0)) // of whom some of what is made is, such as the root of /dev/mqueue
		}
		p.Unshare(uintptr(kinds))
	}
	p.Tell(h.tell)
	p.Await(h.wait)
	if h.child, err = Spawn(flags, nil, p); err != nil {
		return err
	}
	_ = h.tell.Close()
	h.proc, err = os.OpenRoot(fmt.Sprintf("/proc/%d", h.child.Pid))
	return err
}

// next lets the child go on to where it waits next.
func (h *Holder) next() error {
	if _, err := h.release.Write([]byte{1}); err != nil {
		return err
	}
	if _, err := io.ReadFull(h.told, make([]byte, 1)); err == nil {
		return nil
	}
	if _, err := WaitPidFD(h.child.PidFD); err != nil {
		return err
	}
	return h.child.Failure()
}

// Open opens one of the namespaces. A time namespace is the one that the child's own children would
// be in: nobody is in it yet.
func (h *Holder) Open(kind int) (*os.File, error) {
	name := namespaceNames()[kind]
	if kind == NewTime {
		name = "time_for_children"
	}
	return OpenNamespace(fmt.Sprintf("/proc/%d/ns/%s", h.child.Pid, name), kind)
}

// Close ends the child. Namespaces that somebody has open stay.
func (h *Holder) Close() {
	if h.child != nil {
		h.child.Discard()
	}
	if h.proc != nil {
		_ = h.proc.Close()
	}
	for _, f := range []*os.File{h.wait, h.release, h.told, h.tell} {
		_ = f.Close() // tell is closed already
	}
}

// InUserNamespace tells whether there are IDs on the machine that this program cannot have: it is in another user
// namespace than the first, and root there is not the machine's.
func InUserNamespace() bool {
	const all = "0 0 4294967295"
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(text)), " ") != all
}

// GroupsAreFixed tells whether nobody in the user namespace of a process may change their groups: it was made by a user
// without privileges, for one ID, and the groups are that user's (user_namespaces(7), setgroups). pid 0 is this process.
func GroupsAreFixed(pid int) bool {
	name := "self"
	if pid != 0 {
		name = strconv.Itoa(pid)
	}
	text, err := os.ReadFile("/proc/" + name + "/setgroups")
	return err == nil && strings.TrimSpace(string(text)) == "deny"
}

// MapOneID gives a process's new user namespace one user and one group, as its root: all that a user without
// privileges may (user_namespaces(7)).
func MapOneID(pid, uid, gid int) error {
	proc, err := os.OpenRoot(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return err
	}
	defer proc.Close()
	return errors.Join(writeIn(proc, "setgroups", "deny"), writeIn(proc, "uid_map", fmt.Sprintf("0 %d 1", uid)), writeIn(proc, "gid_map", fmt.Sprintf("0 %d 1", gid)))
}

// OuterUserNamespace opens the user namespace that the one of a process is in (ioctl_ns(2)).
func OuterUserNamespace(pid int) (*os.File, error) {
	inner, err := OpenNamespace(fmt.Sprintf("/proc/%d/ns/user", pid), NewUser)
	if err != nil {
		return nil, err
	}
	defer inner.Close()
	fd, err := unix.IoctlRetInt(int(inner.Fd()), unix.NS_GET_PARENT)
	if err != nil {
		return nil, &os.PathError{Op: "find what is around", Path: inner.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), "outer user namespace"), nil
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

func readIn(dir *os.Root, name string) (string, error) {
	text, err := dir.ReadFile(name)
	return string(text), err
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

// BeRootOf has what the calling thread makes from now on belong to these IDs, as if it were they; its
// capabilities stay as they are.
func BeRootOf(uid, gid uint32) error {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(header, &caps[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	if _, err := unix.SetfsgidRetGid(int(gid)); err != nil {
		return fmt.Errorf("setfsgid: %w", err)
	}
	if _, err := unix.SetfsuidRetUid(int(uid)); err != nil {
		return fmt.Errorf("setfsuid: %w", err)
	}
	// Who is not root any more for files has lost those that are about files.
	if err := unix.Capset(header, &caps[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// namespaceNames are the names of the kinds of namespaces below /proc/PID/ns.
func namespaceNames() map[int]string {
	return map[int]string{
		NewUser: "user", NewMount: "mnt", NewPID: "pid", NewUTS: "uts", NewIPC: "ipc", NewNet: "net",
		NewCgroup: "cgroup", NewTime: "time",
	}
}
