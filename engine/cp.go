package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/layer/untar"
	"github.com/tarnfs/tarn/rootfs"
)

// CpOptions says how to copy files.
type CpOptions struct {
	// Archive keeps owners, and all that files are besides: attributes, set-user-ID bits, devices.
	Archive bool
	// Follow copies what a symbolic link leads to, if the source is one.
	Follow bool

	Stdin  io.Reader // a tar, for the source "-"; may be compressed with gzip or zstd
	Stdout *os.File  // for a tar, for the destination "-"
	// Skipped is told what was left out because it is a device.
	Skipped func(name string)
}

// Cp copies files between a container, running or not, and the host, by Docker's rules: one of from and to
// is "CONTAINER:PATH", the other a path of the host, or "-" for a tar. It gives the bytes that went
// over. What is mounted in the container counts, except for the kernel's file systems.
//
// Everything that the container has is hostile, and may change at any time. It is reached by descriptors
// below the container's root alone, in a tree of mounts that the container cannot change, and nothing
// of it is ever executed or loaded: tars are decompressed by this program, owners are numbers
// (CVE-2026-41567). docs/adr/cp.md.
func (e *Engine) Cp(ctx context.Context, from, to string, opts CpOptions) (copied int64, err error) {
	key, inside, fromContainer := splitPlace(from)
	toKey, toPath, toContainer := splitPlace(to)
	switch {
	case fromContainer && toContainer:
		return 0, fmt.Errorf("%w: from one container to another: use 'tarn cp %s - | tarn cp - %s'", ErrOption, from, to)
	case !fromContainer && !toContainer:
		return 0, fmt.Errorf("%w: neither %q nor %q is in a container: use CONTAINER:PATH", ErrOption, from, to)
	case toContainer:
		key, inside = toKey, toPath
	}
	if inside == "" {
		return 0, fmt.Errorf("%w: container %s: the path is empty", ErrOption, key)
	}
	c, err := e.container(ctx, key)
	if err != nil {
		return 0, err
	}
	err = e.withTree(ctx, c, func(tree *os.File) error {
		there := place{root: tree, path: inside, container: c.Name + ":"}
		if there.ids, err = c.ids(); err != nil {
			return err
		}
		if fromContainer {
			copied, err = copyOut(ctx, there, to, opts)
		} else {
			copied, err = copyIn(ctx, from, there, opts)
		}
		return err
	})
	if err != nil {
		return copied, fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return copied, nil
}

// splitPlace splits "CONTAINER:PATH". What begins with "/" or "." is a path of the host, as in Docker.
func splitPlace(text string) (container, path string, found bool) {
	if strings.HasPrefix(text, "/") || strings.HasPrefix(text, ".") {
		return "", text, false
	}
	container, path, found = strings.Cut(text, ":")
	if !found {
		return "", text, false
	}
	return container, path, true
}

// withTree has use look at a container's whole file system, with what is mounted in it. Until it returns,
// the container does not start, and is not removed, for its lock is held.
func (e *Engine) withTree(ctx context.Context, c *Container, use func(tree *os.File) error) (err error) {
	lock, err := c.lockPresent(ctx, c.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := c.reload(); err != nil {
		return err
	}
	tree, err := e.openTree(ctx, c)
	if err != nil {
		return err
	}
	defer tree.Close()
	return use(tree)
}

func (e *Engine) openTree(ctx context.Context, c *Container) (*os.File, error) {
	if c.Running() {
		return c.liveTree()
	}
	root, err := e.shownRoot(c)
	if root == nil && err == nil {
		root, err = e.containerRoot(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := e.prepareMounts(c, root); err != nil {
		return nil, err
	}
	if c.Settings.Host.ReadonlyRootfs {
		if err := sys.SetMountAttr(root, false, sys.AttrReadOnly, 0, 0); err != nil {
			return nil, err
		}
	}
	return container.View(root, &specs.Spec{Mounts: c.hostMounts(), Linux: &specs.Linux{}})
}

// liveTree gives a running container's file system with what is mounted in it.
func (c *Container) liveTree() (*os.File, error) {
	tree, err := rootfs.LiveTree(c.State.Process.PID)
	if err == nil && !c.State.Process.alive() {
		// It may have been another process's, of the same number.
		return nil, errors.Join(fmt.Errorf("container %s ended: try again", c.Name), tree.Close())
	}
	return tree, err
}

// hostMounts are the container's mounts that there is something of while it does not run.
func (c *Container) hostMounts() []specs.Mount {
	return slices.DeleteFunc(specMounts(c.Dir(), &c.Settings, nil), func(m specs.Mount) bool {
		if m.Type != mountBind {
			return true
		}
		_, err := os.Stat(m.Source)
		return errors.Is(err, fs.ErrNotExist) // of /etc/hosts and the like, until it ran
	})
}

// place is a path in a file system.
type place struct {
	root      *os.File
	path      string
	container string // "NAME:"; "" on the host
	ids       *idMaps
}

// hostPlace is a path of the host, as the user means it. The caller closes root.
func hostPlace(name string) (place, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return place{}, err
	}
	switch {
	case name == ".", strings.HasSuffix(name, "/."):
		abs += "/."
	case strings.HasSuffix(name, "/"):
		abs += "/"
	}
	root, err := sys.OpenPath("/")
	return place{root: root, path: abs}, err
}

func (p place) open(at string, flags uint64) (*os.File, error) {
	f, err := sys.OpenInRoot(p.root, at, flags)
	if err == nil {
		return f, nil
	}
	if errno := errors.Unwrap(err); errno != nil {
		err = errno
	}
	return nil, &os.PathError{Op: "open", Path: p.container + at, Err: err}
}

// contents tells whether what is in a directory is meant, not the directory ("DIR/.").
func (p place) contents() bool {
	return p.path == "." || p.path == "/" || strings.HasSuffix(p.path, "/.") || path.Clean(p.path) == "/"
}

// isDirectory tells whether the path says that a directory is meant.
func (p place) isDirectory() bool { return p.contents() || strings.HasSuffix(p.path, "/") }

// openSource opens what is to be copied, which is no symbolic link if that is to be followed.
func (p place) openSource(follow bool) (*os.File, error) {
	switch {
	case p.isDirectory():
		return p.open(p.path, sys.OpenDirectory)
	case follow:
		return p.open(p.path, sys.OpenAny)
	default:
		return p.open(p.path, sys.OpenNoFollow)
	}
}

func (p place) base() string { return path.Base(path.Clean("/" + p.path)) }

func copyOut(ctx context.Context, from place, to string, opts CpOptions) (int64, error) {
	source, err := openFiles(from, opts.Follow)
	if err != nil {
		return 0, err
	}
	defer source.handle.Close()
	if to == "-" {
		if isTerminal(opts.Stdout) {
			return 0, fmt.Errorf("refusing to write to %w: redirect the output", ErrTerminal)
		}
		counted := &countingWriter{w: opts.Stdout}
		err := source.pack(ctx, counted, from.tarName())
		return counted.n, err
	}
	dest, err := hostPlace(to)
	if err != nil {
		return 0, err
	}
	defer dest.root.Close()
	return source.copyTo(ctx, dest, opts)
}

func copyIn(ctx context.Context, from string, to place, opts CpOptions) (int64, error) {
	if from == "-" {
		return unpackIn(ctx, to, opts)
	}
	place, err := hostPlace(from)
	if err != nil {
		return 0, err
	}
	defer place.root.Close()
	source, err := openFiles(place, opts.Follow)
	if err != nil {
		return 0, err
	}
	defer source.handle.Close()
	return source.copyTo(ctx, to, opts)
}

// unpackIn makes what a tar has in a directory of a container. Owners are the tar's.
func unpackIn(ctx context.Context, to place, opts CpOptions) (int64, error) {
	dir, err := to.open(to.path, sys.OpenDirectory)
	if err != nil {
		return 0, err
	}
	_ = dir.Close()
	stream, _, err := decompress(opts.Stdin)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	counted := &countingReader{r: stream}
	err = to.ids.asRoot(func() error {
		return untar.Extract(ctx, counted, untar.Target{Root: to.root, Dir: to.path, Follow: true}, untar.Options{Owner: to.ids.outsideFunc()})
	})
	return counted.n, err
}

// files is what is to be copied.
type files struct {
	place
	handle *os.File
	dir    bool
}

func openFiles(from place, follow bool) (*files, error) {
	handle, err := from.openSource(follow)
	if err != nil {
		return nil, err
	}
	node, err := sys.StatNode(handle)
	if err == nil {
		var kernels bool
		if kernels, err = sys.IsKernelFS(handle); kernels {
			err = fmt.Errorf("%s%s: %w", from.container, from.path, untar.ErrKernel)
		}
	}
	if err != nil {
		return nil, errors.Join(err, handle.Close())
	}
	return &files{place: from, handle: handle, dir: node.Type == sys.TypeDir}, nil
}

// tarName is what the source is called in a tar.
func (p place) tarName() string {
	if p.contents() {
		return "."
	}
	return p.base()
}

func (f *files) pack(ctx context.Context, w io.Writer, name string) error {
	return layer.PackFiles(ctx, w, f.handle, name, layer.PackOptions{Owner: f.ids.insideFunc()})
}

// copyTo copies the files to where dest says.
func (f *files) copyTo(ctx context.Context, dest place, opts CpOptions) (int64, error) {
	dir, name, err := f.landing(dest)
	if err != nil {
		return 0, err
	}
	target := untar.Target{Root: dest.root, Dir: dir, Follow: dest.container != ""}
	if dest.container == "" {
		// Links that the user has on the way are followed, but none of what is copied.
		opened, err := dest.open(dir, sys.OpenDirectory)
		if err != nil {
			return 0, err
		}
		defer opened.Close()
		target.Root, target.Dir = opened, "."
	}
	r, w := io.Pipe()
	counted := &countingReader{r: r}
	packed := make(chan error, 1)
	go func() {
		err := f.pack(ctx, w, name)
		w.CloseWithError(err)
		packed <- err
	}()
	err = dest.ids.asRoot(func() error { return untar.Extract(ctx, counted, target, unpackOptions(dest, opts)) })
	_ = r.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // has the packing end, if it has not
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		return counted.n, packErr
	}
	return counted.n, err
}

// unpackOptions: without --archive, copies belong to the user here, or to the container's root.
func unpackOptions(dest place, opts CpOptions) untar.Options {
	if opts.Archive {
		return untar.Options{Owner: dest.ids.outsideFunc()}
	}
	uid, gid, _ := dest.ids.root()
	if dest.container == "" {
		uid, gid = uint32(os.Geteuid()), uint32(os.Getegid())
	}
	return untar.Options{
		Owner: func(_, _ uint32) (uint32, uint32) { return uid, gid },
		Plain: true, Skipped: opts.Skipped,
	}
}

// landing says in which directory the copy is to be made, and under which name; "." for what is in the
// directory that is copied. The rules are those of "docker cp".
func (f *files) landing(dest place) (dir, name string, err error) {
	there, err := dest.open(dest.path, sys.OpenAny)
	if errors.Is(err, fs.ErrNotExist) {
		return f.newLanding(dest, err)
	}
	if err != nil {
		return "", "", err
	}
	defer there.Close()
	node, err := sys.StatNode(there)
	switch {
	case err != nil:
		return "", "", err
	case node.Type == sys.TypeDir:
		return dest.path, f.tarName(), nil
	case f.dir:
		return "", "", fmt.Errorf("a directory cannot be copied to %s%s, which is a file", dest.container, dest.path)
	}
	// If it is a link, what it leads to is replaced.
	real, err := sys.RealPath(dest.root, dest.path)
	return path.Dir(real), path.Base(real), err
}

// newLanding is landing for a destination that is not there.
func (f *files) newLanding(dest place, missing error) (dir, name string, err error) {
	if !f.dir && dest.isDirectory() {
		return "", "", missing
	}
	clean := path.Clean("/" + dest.path)
	if link, err := dest.open(clean, sys.OpenNoFollow); err == nil {
		_ = link.Close()
		return "", "", fmt.Errorf("%s%s is a symbolic link that leads nowhere", dest.container, clean)
	}
	parent, err := dest.open(path.Dir(clean), sys.OpenDirectory)
	if err != nil {
		return "", "", err
	}
	_ = parent.Close()
	return path.Dir(clean), path.Base(clean), nil
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
