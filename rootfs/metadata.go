package rootfs

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
)

// PrepareUpper gives a new upper directory the owner, mode, extended attributes and modification time
// of the root directory below it, that of the topmost lower: the merged root directory is what
// the upper's is.
func PrepareUpper(upper *os.File, lowers []*os.File) error {
	if len(lowers) == 0 {
		return nil
	}
	// Through /proc, because the files may be O_PATH.
	from, err := os.Open(sys.FDPath(lowers[0]))
	if err != nil {
		return fmt.Errorf("prepare upper: %w", err)
	}
	defer drop(from)
	to, err := os.Open(sys.FDPath(upper))
	if err != nil {
		return fmt.Errorf("prepare upper: %w", err)
	}
	defer drop(to)
	if err := copyMetadata(to, from, keepEscaped); err != nil {
		return fmt.Errorf("prepare upper: %w", err)
	}
	return nil
}

// copyMetadata gives the directory to the owner, mode, extended attributes and modification time of
// from. name says what an attribute is called in to, or "" if it is left out.
func copyMetadata(to, from *os.File, name func(string) string) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("owner of %s: %w", from.Name(), errors.ErrUnsupported)
	}
	if err := to.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	// After chown, which may clear bits of the mode; before the ACL, which is part of it.
	if err := to.Chmod(info.Mode()); err != nil {
		return err
	}
	if err := copyXattrs(to, from, name); err != nil {
		return err
	}
	return os.Chtimes(sys.FDPath(to), time.Time{}, info.ModTime())
}

func copyXattrs(to, from *os.File, rename func(string) string) error {
	names, err := sys.ListXattrs(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		target := rename(name)
		if target == "" {
			continue
		}
		value, err := sys.GetXattr(from, name)
		if err != nil {
			return err
		}
		if err := sys.SetXattr(to, target, value); err != nil {
			return err
		}
	}
	return nil
}

// overlayXattr begins the names of the attributes in which overlayfs notes things.
func overlayXattr() string {
	if sys.InUserNamespace() {
		return "user.overlay."
	}
	return "trusted.overlay."
}

// escapeXattr is for attributes seen through an overlay mount. It keeps an image's own from steering
// overlayfs: in a layer they have one "overlay." more, which overlayfs takes away again
// (Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts").
func escapeXattr(name string) string {
	prefix := overlayXattr()
	if rest, ok := strings.CutPrefix(name, prefix); ok {
		return prefix + "overlay." + rest
	}
	return name
}

// keepEscaped is for attributes seen in a layer: those that overlayfs put there about the layer are
// left out.
func keepEscaped(name string) string {
	prefix := overlayXattr()
	if strings.HasPrefix(name, prefix) && !strings.HasPrefix(name, prefix+"overlay.") {
		return ""
	}
	return name
}
