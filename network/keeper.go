package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/network/dns"
)

// A container that has networks has a file, called as its ID, on which its keeper holds a lock: the
// process that takes care of it. All else that it has, in files, rules and links, counts as long as that
// lock is held. The file says in which networks it is.

// keeper is the file of a container that this process keeps.
type keeper struct {
	file *os.File
	path string
}

const keepersDir = "containers"

func (ns *Networks) keepers() string { return filepath.Join(ns.run, keepersDir) }

// keep makes this process the container's keeper. Whatever an earlier one has left is taken away.
func (ns *Networks) keep(ctx context.Context, container string) (*keeper, error) {
	if err := os.MkdirAll(ns.keepers(), 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(ns.keepers(), container)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := sys.Flock(ctx, f, true); err != nil {
			return nil, err
		}
		// Somebody may have collected it before it was locked.
		if same, err := isNamed(path, f); err != nil || !same {
			if err := errors.Join(err, f.Close()); err != nil {
				return nil, err
			}
			continue
		}
		k := &keeper{file: f, path: path}
		if err := ns.collectContainer(k); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return k, nil
	}
}

// release ends it. What the container had is gone before.
func (k *keeper) release() error {
	return errors.Join(os.Remove(k.path), k.file.Close())
}

// maxKeeper bounds a container's file.
const maxKeeper = 1 << 20

func readMemberships(f *os.File) (dns.Memberships, error) {
	k, err := readKept(f)
	return k.Memberships, err
}

// Collect takes away what containers had whose keepers are gone.
func (ns *Networks) Collect() error {
	entries, err := os.ReadDir(ns.keepers())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if err := ns.collectKeeper(filepath.Join(ns.keepers(), entry.Name())); err != nil {
			errs = append(errs, fmt.Errorf("networks of container %.12s: %w", entry.Name(), err))
		}
	}
	return errors.Join(errs...)
}

func (ns *Networks) collectKeeper(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	k := &keeper{file: f, path: path}
	free, err := sys.TryFlock(f, true)
	if err != nil || !free {
		return errors.Join(err, f.Close())
	}
	if same, err := isNamed(path, f); err != nil || !same {
		return errors.Join(err, f.Close())
	}
	if err := ns.collectContainer(k); err != nil {
		return errors.Join(err, f.Close())
	}
	return k.release()
}

// collectContainer takes away all that a container has but its file, which is locked.
func (ns *Networks) collectContainer(k *keeper) error {
	m, err := readKept(k.file)
	if err != nil {
		m.Memberships, err = ns.everywhere(), nil // a power cut, where the directory outlives one
	}
	container := filepath.Base(k.path)
	for _, n := range m.Networks {
		err = errors.Join(err, ns.removeEndpoints(n.ID, container))
	}
	if err = errors.Join(err, ns.endBeside(container, m.Beside)); err != nil {
		return err
	}
	return k.file.Truncate(0)
}

// everywhere are all networks.
func (ns *Networks) everywhere() dns.Memberships {
	var m dns.Memberships
	entries, _ := os.ReadDir(ns.run)
	for _, e := range entries {
		m.Networks = append(m.Networks, dns.Membership{ID: e.Name()})
	}
	return m
}

// openLive opens the file of a container that has a keeper; of another it gives nil.
func (ns *Networks) openLive(container string) (*os.File, error) {
	f, err := os.Open(filepath.Join(ns.keepers(), container))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // documented
	}
	if err == nil && !ns.kept(container) {
		return nil, f.Close()
	}
	return f, err
}

// kept tells whether a container has a keeper.
func (ns *Networks) kept(container string) bool {
	return dns.Kept(ns.keepers(), container)
}

// isNamed tells whether a path is that of an open file.
func isNamed(path string, f *os.File) (bool, error) {
	opened, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(opened, named), err
}
