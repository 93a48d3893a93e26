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

// CopyMetadata gives the directory to the owner, mode, extended attributes and modification time
// of the directory from, which is seen through an overlay mount (as [Overlay] makes), while to
// lies in a layer of one.
func CopyMetadata(to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return fmt.Errorf("copy metadata: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("copy metadata: %w: no stat", errors.ErrUnsupported)
	}
	if err := to.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("copy metadata: %w", err)
	}
	// After chown, which may clear bits of the mode; before the ACL, which is part of it.
	if err := to.Chmod(info.Mode()); err != nil {
		return fmt.Errorf("copy metadata: %w", err)
	}
	if err := copyXattrs(to, from); err != nil {
		return fmt.Errorf("copy metadata: %w", err)
	}
	if err := os.Chtimes(sys.FDPath(to), time.Time{}, info.ModTime()); err != nil {
		return fmt.Errorf("copy metadata: %w", err)
	}
	return nil
}

func copyXattrs(to, from *os.File) error {
	names, err := sys.ListXattrs(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		value, err := sys.GetXattr(from, name)
		if err != nil {
			return err
		}
		if err := sys.SetXattr(to, escapeXattr(name), value); err != nil {
			return err
		}
	}
	return nil
}

// escapeXattr keeps an image's attributes from steering overlayfs: in a layer they have one
// "overlay." more, which overlayfs takes away again (Documentation/filesystems/overlayfs.rst,
// "Nesting overlayfs mounts").
func escapeXattr(name string) string {
	if rest, ok := strings.CutPrefix(name, "trusted.overlay."); ok {
		return "trusted.overlay.overlay." + rest
	}
	return name
}
