// Package copytree copies a directory with all that it holds.
package copytree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
)

// Copy copies the contents of the directory from into the empty directory to, and gives to the same
// owner, mode, time and extended attributes. Hard links within the tree stay hard links. Of
// symbolic links, devices and the like, the extended attributes are left out; a socket is left
// out altogether. No symbolic link is followed. Nobody else may change either tree meanwhile.
func Copy(to, from *os.File) error {
	source, err := os.OpenRoot(sys.FDPath(from))
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer source.Close()
	target, err := os.OpenRoot(sys.FDPath(to))
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer target.Close()
	c := &copier{source: source, target: target, linked: make(map[inode]string)}
	if err := c.dir("."); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

type copier struct {
	source, target *os.Root
	linked         map[inode]string // where the first name of a file with several was copied to
}

// dir copies the entries of a directory that exists in the target, and then its metadata: its time
// would not last otherwise.
func (c *copier) dir(name string) error {
	from, err := c.source.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	for {
		entries, err := from.ReadDir(256)
		for _, entry := range entries {
			if err := c.entry(path.Join(name, entry.Name())); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	to, err := c.target.Open(name)
	if err != nil {
		return err
	}
	defer to.Close()
	return copyMetadata(to, from)
}

func (c *copier) entry(name string) error {
	info, err := c.source.Lstat(name)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: %w", name, errors.ErrUnsupported)
	}
	if info.IsDir() {
		if err := c.target.Mkdir(name, 0o700); err != nil {
			return err
		}
		return c.dir(name)
	}
	if st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // the type differs between architectures
		if first, found := c.linked[id]; found {
			return c.target.Link(first, name)
		}
		c.linked[id] = name
	}
	switch info.Mode().Type() {
	case 0:
		return c.file(name)
	case fs.ModeSocket:
		return nil // nobody listens to the copy of a socket
	default:
		return c.special(name, info, st)
	}
}

func (c *copier) file(name string) error {
	from, err := c.source.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := c.target.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return copyMetadata(to, from)
}

// special copies a symbolic link, a device or a fifo, none of which may be opened.
func (c *copier) special(name string, info fs.FileInfo, st *syscall.Stat_t) error {
	parent, err := c.target.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	base := path.Base(name)
	if info.Mode().Type() == fs.ModeSymlink {
		target, err := c.source.Readlink(name)
		if err != nil {
			return err
		}
		if err := sys.MakeSymlink(parent, base, target); err != nil {
			return err
		}
	} else {
		major, minor := sys.DeviceNumbers(uint64(st.Rdev)) //nolint:unconvert // the type differs between architectures
		if err := sys.MakeNode(parent, base, st.Mode, major, minor); err != nil {
			return err
		}
		// The mode above went through the umask.
		if err := c.target.Chmod(name, info.Mode()); err != nil {
			return err
		}
	}
	if err := c.target.Lchown(name, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return sys.SetEntryTime(parent, base, info.ModTime())
}

// copyMetadata gives a file or directory the owner, mode, extended attributes and time of from.
func copyMetadata(to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: %w", from.Name(), errors.ErrUnsupported)
	}
	if err := to.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	// After chown, which may clear bits of the mode; before the ACL, which is part of it.
	if err := to.Chmod(info.Mode()); err != nil {
		return err
	}
	names, err := sys.ListXattrs(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue // overlayfs's own notes about a directory
		}
		value, err := sys.GetXattr(from, name)
		if err != nil {
			return err
		}
		if err := sys.SetXattr(to, name, value); err != nil {
			return err
		}
	}
	return os.Chtimes(sys.FDPath(to), time.Time{}, info.ModTime())
}
