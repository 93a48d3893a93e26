package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/internal/sys"
)

// wanted is an entry that a container's root must have.
type wanted struct {
	name     string
	kind     fs.FileMode // type bits; 0 for a regular file
	target   string      // of a symbolic link
	follow   bool        // a symbolic link that leads to a directory will do
	children []wanted
}

// mountPoints are the places in which a container finds something of the kernel's or of the host's.
// What an image has there that is not a plain directory or file is hidden by the init layer, as
// Docker's does: a mount on it can then not be led elsewhere by the image.
func mountPoints() []wanted {
	return []wanted{
		{name: "dev", kind: fs.ModeDir, children: []wanted{
			{name: "pts", kind: fs.ModeDir},
			{name: "shm", kind: fs.ModeDir},
		}},
		{name: "etc", kind: fs.ModeDir, follow: true, children: []wanted{
			{name: "hostname"},
			{name: "hosts"},
			{name: "mtab", kind: fs.ModeSymlink, target: "/proc/mounts"},
			{name: "resolv.conf"},
		}},
		{name: "proc", kind: fs.ModeDir},
		{name: "sys", kind: fs.ModeDir},
	}
}

// initTree is the name of the init layer's tree in its directory.
const initTree = "root"

// BuildInit makes the init layer of an image in dir, an empty directory of the store that is not in
// its place yet: a tree with those of /dev, /dev/pts, /dev/shm, /etc, /etc/hostname, /etc/hosts,
// /etc/mtab, /etc/resolv.conf, /proc and /sys that the image lacks, or has as something else than
// the plain directory or file it must be. Directories that the tree shares with the image have
// the image's owner, mode, attributes and time. If the image lacks nothing, dir stays empty. All
// is on the disk when BuildInit returns.
//
// view is the image's tree as [Overlay] gives it without an upper. The result depends on nothing
// else, so one serves all containers of all images with that chain of layers: what differs
// between containers is mounted on it.
func BuildInit(dir string, view *os.File) error {
	if err := buildInit(dir, view); err != nil {
		return fmt.Errorf("init layer: %w", err)
	}
	return nil
}

// OpenInit opens what BuildInit made in dir, to be stacked above the image's layers; nil if the
// image lacks nothing.
func OpenInit(dir string) (*os.File, error) {
	tree, err := sys.OpenPath(filepath.Join(dir, initTree))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // documented: no layer is needed
	}
	if err != nil {
		return nil, fmt.Errorf("init layer: %w", err)
	}
	return tree, nil
}

func buildInit(dir string, view *os.File) error {
	image, err := os.OpenRoot(sys.FDPath(view))
	if err != nil {
		return err
	}
	defer drop(image)
	missing, err := lacking(image, ".", true, mountPoints())
	if err != nil || len(missing) == 0 {
		return err
	}
	tree := filepath.Join(dir, initTree)
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	layer, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer drop(layer)
	if err := build(layer, image, missing); err != nil {
		return err
	}
	return syncTree(layer)
}

// syncTree puts each file and directory on the disk. They are few: syncfs(2) could wait for all
// that other programs have written.
func syncTree(layer *os.Root) error {
	return fs.WalkDir(layer.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type() == fs.ModeSymlink {
			return err // a symbolic link is part of its directory
		}
		f, err := layer.Open(name)
		if err != nil {
			return err
		}
		defer drop(f)
		return f.Sync()
	})
}

// lacking lists what the init layer must add of what is wanted in the directory dir, which has no
// symbolic links in its name; parents come first, names are from the root. inImage says that the
// directory is the image's, so that what the image has in it counts.
func lacking(image *os.Root, dir string, inImage bool, want []wanted) ([]wanted, error) {
	var missing []wanted
	for _, w := range want {
		w.name = path.Join(dir, w.name)
		there, found := w.name, false
		if inImage {
			var err error
			if there, found, err = find(image, w); err != nil {
				return nil, err
			}
		}
		if !found {
			missing = append(missing, w)
		}
		below, err := lacking(image, there, found, w.children)
		if err != nil {
			return nil, err
		}
		missing = append(missing, below...)
	}
	return missing, nil
}

// find tells whether the image has what is wanted, and under which name once links are followed.
func find(image *os.Root, w wanted) (name string, found bool, err error) {
	info, err := image.Lstat(w.name)
	if errors.Is(err, os.ErrNotExist) {
		return w.name, false, nil
	}
	if err != nil {
		return "", false, err
	}
	if w.kind == fs.ModeSymlink {
		return w.name, true, nil // an image may have an /etc/mtab of its own, of any type
	}
	if w.follow && info.Mode().Type() == fs.ModeSymlink {
		name, err := resolveDir(image, w.name)
		if errors.Is(err, errNoDir) {
			return w.name, false, nil
		}
		return name, err == nil, err
	}
	return w.name, info.Mode().Type() == w.kind, nil
}

// errNoDir: a name does not lead to a directory of the image.
var errNoDir = errors.New("no directory of the image")

// maxLinks bounds how many symbolic links are followed, as the kernel does (path_resolution(7)).
const maxLinks = 40

// resolveDir follows a name to a directory as a process in the image would: absolute links begin
// at the image's root, and ".." does not lead out of it. A way through a directory on which a
// container has something mounted is errNoDir, for it will be another one then.
func resolveDir(image *os.Root, name string) (string, error) {
	dir, rest := ".", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		var next string
		next, rest = rest[0], rest[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			dir = path.Dir(dir)
			continue
		}
		next = path.Join(dir, next)
		if next == "dev" || next == "proc" || next == "sys" {
			return "", errNoDir
		}
		info, err := image.Lstat(next)
		if errors.Is(err, os.ErrNotExist) {
			return "", errNoDir
		}
		if err != nil {
			return "", err
		}
		switch info.Mode().Type() {
		case fs.ModeDir:
			dir = next
		case fs.ModeSymlink:
			target, err := image.Readlink(next)
			if err != nil {
				return "", err
			}
			if links++; links > maxLinks {
				return "", errNoDir
			}
			if path.IsAbs(target) {
				dir = "."
			}
			rest = append(strings.Split(target, "/"), rest...)
		default:
			return "", errNoDir
		}
	}
	return dir, nil
}

// build makes the missing entries, and the image's directories on the way to them.
func build(layer, image *os.Root, missing []wanted) error {
	shared := []string{"."}
	for _, w := range missing {
		made, err := makeParents(layer, path.Dir(w.name))
		if err != nil {
			return err
		}
		shared = append(shared, made...)
		if err := makeNode(layer, w); err != nil {
			return err
		}
	}
	// Their times last, when nothing is made in them any more.
	for _, name := range slices.Backward(shared) {
		if err := copyDirMetadata(layer, image, name); err != nil {
			return err
		}
	}
	return nil
}

// makeParents makes what is not there of a directory and those above it, and lists what it made.
func makeParents(layer *os.Root, dir string) (made []string, err error) {
	if _, err := layer.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if made, err = makeParents(layer, path.Dir(dir)); err != nil {
		return nil, err
	}
	return append(made, dir), layer.Mkdir(dir, 0o755)
}

// makeNode makes one entry, its mode whatever the umask is.
func makeNode(layer *os.Root, w wanted) error {
	switch w.kind {
	case fs.ModeSymlink:
		return layer.Symlink(w.target, w.name)
	case fs.ModeDir:
		if err := layer.Mkdir(w.name, 0o755); err != nil {
			return err
		}
		return layer.Chmod(w.name, 0o755)
	default:
		if err := layer.WriteFile(w.name, nil, 0o644); err != nil {
			return err
		}
		return layer.Chmod(w.name, 0o644)
	}
}

func copyDirMetadata(layer, image *os.Root, name string) error {
	from, err := image.Open(name)
	if err != nil {
		return err
	}
	defer drop(from)
	to, err := layer.Open(name)
	if err != nil {
		return err
	}
	defer drop(to)
	return copyMetadata(to, from, escapeXattr)
}
