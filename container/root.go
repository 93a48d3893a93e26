package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/internal/sys"
)

// OpenRoot gives a directory of the host, with all that is mounted below it, as a [Config.Root].
func OpenRoot(dir string) (*os.File, error) {
	f, err := os.Open(dir) //nolint:gosec // the caller's own path
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return sys.CloneTree(f, true)
}

// maxLinks is how many symbolic links a path may go through, as in the kernel.
const maxLinks = 40

// kind is what a mount point has to be.
type kind bool

const (
	file      kind = false
	directory kind = true
)

// mountPoint opens a path of the container for mounting on it, and makes it if it is missing, with
// its parents. Whatever symbolic links the image has, it is inside root.
func mountPoint(root *os.File, dest string, want kind) (*os.File, error) {
	f, err := sys.OpenInRoot(root, dest, sys.OpenAny)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = makePath(root, dest, want)
	}
	if err != nil {
		return nil, fmt.Errorf("mount point %s: %w", dest, err)
	}
	node, err := sys.StatNode(f)
	switch isDir := node.Type == sys.TypeDir; {
	case err != nil:
	case isDir && want == file:
		err = fmt.Errorf("%w: %s is a directory, and no place for a file", ErrSpec, dest)
	case !isDir && want == directory:
		err = fmt.Errorf("%w: %s is no directory", ErrSpec, dest)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// makePath makes what is missing of a path, one name after the other, and opens it. Symbolic links
// are followed here, not by the kernel, because those that lead to nothing yet (a resolv.conf into
// an empty /run) have to be followed to the place where something is to be made.
func makePath(root *os.File, dest string, want kind) (*os.File, error) {
	rest := strings.Split(dest, "/")
	done := "." // below root, exists, has no symbolic links
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		last := !slices.ContainsFunc(rest, func(s string) bool { return s != "" && s != "." })
		target, err := makeEntry(root, done, name, !last || want == directory)
		if err != nil {
			return nil, err
		}
		if target == "" {
			done = path.Join(done, name)
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("%s: too many symbolic links", dest)
		}
		if path.IsAbs(target) {
			done = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return sys.OpenInRoot(root, done, sys.OpenAny)
}

// makeEntry makes name in the directory at path, unless there is something; if that is a symbolic
// link, it gives its target.
func makeEntry(root *os.File, dir, name string, isDir bool) (target string, err error) {
	parent, err := sys.OpenInRoot(root, dir, sys.OpenDirectory|sys.OpenNoFollow)
	if err != nil {
		return "", err
	}
	defer parent.Close()
	if isDir {
		err = sys.MakeDir(parent, name, 0o755)
	} else {
		err = sys.MakeFile(parent, name, 0o644)
	}
	if !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	entry, err := sys.OpenEntry(parent, name, sys.OpenNoFollow)
	if err != nil {
		return "", err
	}
	defer entry.Close()
	node, err := sys.StatNode(entry)
	if err != nil || node.Type != sys.TypeSymlink {
		return "", err
	}
	return sys.ReadLinkFD(entry)
}
