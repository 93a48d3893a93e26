package layer

import (
	"fmt"
	"strings"

	"github.com/tarnfs/tarn/erofs"
)

// The forms in which a layer's tar says that something below it is gone (OCI image
// specification, layer.md, "Whiteouts"), and in which overlayfs wants to be told
// (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
const (
	// WhiteoutPrefix before a name hides the name in the layers below.
	WhiteoutPrefix = ".wh."
	// metadataPrefix begins the names of AUFS's own files.
	metadataPrefix = ".wh..wh."
	// WhiteoutOpaque in a directory hides all its names in the layers below.
	WhiteoutOpaque = ".wh..wh..opq"

	// XattrOpaque with the value "y" makes a directory opaque.
	XattrOpaque = "trusted.overlay.opaque"
	// XattrOrigin, empty, says that a directory may hold whiteouts. Overlayfs looks for
	// them in directories that it merges, and else lists them as devices (fs/overlayfs,
	// ovl_get_inode: "non-merge dir that may have whiteouts").
	XattrOrigin = "trusted.overlay.origin"
	// xattrOverlay begins the names overlayfs acts upon, xattrEscape those which
	// it shows to users without the second "overlay.".
	xattrOverlay = "trusted.overlay."
	xattrEscape  = "trusted.overlay.overlay."
)

// markNames are what the attributes begin with by which overlayfs notes things, and what those of other users
// are shown as that begin so.
type markNames struct{ overlay, escape string }

// marksOf gives the names on this machine, or in a user namespace, where overlayfs is mounted with the option
// "userxattr".
func marksOf(user bool) markNames {
	if user {
		return markNames{"user.overlay.", "user.overlay.overlay."}
	}
	return markNames{xattrOverlay, xattrEscape}
}

// inUserNamespace gives the name that an attribute of a layer has where only a user namespace's root can set
// it; "" for one that cannot be had there.
func inUserNamespace(name string) string {
	marks := marksOf(true)
	switch {
	case name == XattrOpaque, name == XattrOrigin:
		return marks.overlay + strings.TrimPrefix(name, xattrOverlay)
	case strings.HasPrefix(name, "trusted."):
		return ""
	case strings.HasPrefix(name, marks.overlay):
		return marks.escape + strings.TrimPrefix(name, marks.overlay)
	default:
		return name
	}
}

func isMetadata(name string) bool { return strings.HasPrefix(name, metadataPrefix) }

func newWhiteout() *erofs.Inode {
	return &erofs.Inode{Mode: erofs.ModeChar, Rdev: erofs.MakeDev(0, 0)}
}

// isWhiteoutInode tells whether overlayfs takes a file for a whiteout. A tar may have such devices itself:
// they are what other tools archive of an overlay's directories.
func isWhiteoutInode(inode *erofs.Inode) bool {
	return inode.Mode&erofs.ModeType == erofs.ModeChar && inode.Rdev == erofs.MakeDev(0, 0)
}

// marker puts what an entry named .wh.* says into its directory. It returns false
// if the entry is not one.
func (s *scan) marker(p path) (bool, error) {
	if len(p) == 0 {
		return false, nil
	}
	last := p[len(p)-1]
	hidden, ok := strings.CutPrefix(last, WhiteoutPrefix)
	if !ok || isMetadata(last) && last != WhiteoutOpaque {
		return false, nil
	}
	if hidden == "" || hidden == "." || hidden == ".." {
		return true, fmt.Errorf("%w: a whiteout of %q", ErrUnsafe, hidden)
	}
	parent, err := s.parent(p)
	if err != nil {
		return true, err
	}
	if last == WhiteoutOpaque {
		parent.dir.opaque = true
		return true, nil
	}
	// It matters if the layer turns out to have no file of that name itself.
	parent.dir.whiteouts = append(parent.dir.whiteouts, hidden)
	return true, s.count()
}
