package container

import (
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// View puts the bind mounts of a specification into a root file system, as [Container.Start] would, for
// somebody who looks into a container that does not run. root is a mount that is attached nowhere, as
// Config.Root is; it is used up. The result is a tree of mounts that is attached nowhere, either:
// nobody but who has the file sees it, and nobody else can change what is mounted in it.
//
// What lies in root and in the sources is hostile, and may be changed by another container meanwhile: each
// mount goes to what was opened below root, never to a path (CVE-2026-41568).
func View(root *os.File, spec *specs.Spec) (tree *os.File, err error) {
	binds, err := cloneSources(spec, nil, nil)
	if err != nil {
		return nil, err
	}
	defer binds.close()
	done := make(chan struct{})
	sys.OnOwnThread(func() {
		defer close(done)
		tree, err = view(root, spec.Mounts, binds)
	})
	<-done
	return tree, err
}

// view changes the calling thread for good.
func view(root *os.File, mounts []specs.Mount, binds sources) (*os.File, error) {
	if err := sys.UnshareMounts(); err != nil {
		return nil, err
	}
	if err := attachRoot(root); err != nil {
		return nil, err
	}
	for i, from := range binds {
		if from == nil {
			continue
		}
		if err := attachBind(root, mounts[i].Destination, from); err != nil {
			return nil, fmt.Errorf("mount %s: %w", mounts[i].Destination, err)
		}
	}
	return sys.CloneTree(root, true)
}

func attachBind(root *os.File, dest string, from *source) error {
	target, err := mountPoint(root, dest, from.kind)
	if err != nil {
		return err
	}
	defer target.Close()
	return sys.MoveMount(from.mount, target)
}
