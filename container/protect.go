package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
)

// protect hides and write-protects what the specification says, but in procfs. A path that is not
// there needs no protection.
func (t *tree) protect() error {
	for _, name := range t.spec.Linux.ReadonlyPaths {
		if _, ok := inProc(name); ok && t.proc != nil {
			continue
		}
		if err := t.onPath(name, t.readOnly); err != nil {
			return fmt.Errorf("make %s read-only: %w", name, err)
		}
	}
	for _, name := range t.spec.Linux.MaskedPaths {
		if _, ok := inProc(name); ok && t.proc != nil {
			continue
		}
		if err := t.onPath(name, t.mask); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
	}
	return nil
}

// onPath does something to a path of the container, if it is there.
func (t *tree) onPath(name string, do func(*os.File) error) error {
	f, err := sys.OpenInRoot(t.root, name, sys.OpenAny)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return do(f)
}

func (t *tree) readOnly(target *os.File) error {
	bind, err := sys.CloneTree(target, true)
	if err != nil {
		return err
	}
	defer bind.Close()
	if err := sys.SetMountAttr(bind, true, sys.AttrReadOnly, 0, 0); err != nil {
		return err
	}
	return sys.MoveMount(bind, target)
}

func (t *tree) mask(target *os.File) error {
	node, err := sys.StatNode(target)
	if err != nil {
		return err
	}
	var cover *os.File
	if node.Type == sys.TypeDir {
		cover, err = newFS("tmpfs", "tmpfs", [][2]string{{"nr_inodes", "1"}}, sys.AttrReadOnly)
	} else {
		cover, err = t.nullMount()
	}
	if err != nil {
		return err
	}
	defer cover.Close()
	return sys.MoveMount(cover, target)
}

// nullMount is a read-only bind mount of the container's /dev/null: reads see nothing, and nobody
// can change the node's mode through it.
func (t *tree) nullMount() (*os.File, error) {
	null, err := t.null()
	if err != nil {
		return nil, err
	}
	defer null.Close()
	mount, err := sys.CloneTree(null, false)
	if err != nil {
		return nil, err
	}
	return mount, sys.SetMountAttr(mount, false, sys.AttrReadOnly, 0, sys.PropagationPrivate)
}

func (t *tree) null() (*os.File, error) {
	return openDevice(t.dev, device{"null", 1, 3})
}

// seal makes the root read-only, after all mount points are there.
func (t *tree) seal() error {
	var set uint64
	if t.spec.Root != nil && t.spec.Root.Readonly {
		set |= sys.AttrReadOnly
	}
	if t.noDevices {
		set |= sys.AttrNoDev
	}
	if set == 0 {
		return nil
	}
	return sys.SetMountAttr(t.root, false, set, 0, 0)
}
