// Package engine joins the rooms into whole paths, one file for each verb that a user types: from
// an archive to an image in the store, from an image to a running container, and back.
//
// Errors read as one line: what went wrong, on which name, and what to do about it.
package engine

import (
	"cmp"
	"os"
	"path/filepath"

	"github.com/tarnfs/tarn/network"
	"github.com/tarnfs/tarn/rootfs"
	"github.com/tarnfs/tarn/store"
)

// Engine does everything that tarn can do with one store.
type Engine struct {
	Store    *store.Store
	Driver   rootfs.Driver // gives layers as directories
	driver   string        // as it was chosen
	networks *network.Networks
	dedup    bool // new layers borrow what others have
	arrivals arrivals

	leastLayerLimit int64 // bytes that any layer may have
}

// Options says where things are. The zero Options means the environment's, or the default.
type Options struct {
	Root string // of the store; else $TARN_ROOT, else store.DefaultRoot
	Run  string // of mounts and whatever may vanish at reboot; else $TARN_RUN, else store.DefaultRun
	// Driver is the name of the storage driver; else $TARN_STORAGE_DRIVER, else rootfs.Auto.
	Driver string
	// NoDedup makes new layers keep all their bytes themselves, for measurement; so does
	// TARN_DEDUP=off in the environment.
	NoDedup bool
}

// Open opens the store, and makes it if it is not there.
func Open(opts Options) (*Engine, error) {
	// Absolute, because the working directory may change, and mounts are made from these.
	root, err := filepath.Abs(cmp.Or(opts.Root, os.Getenv("TARN_ROOT"), store.DefaultRoot))
	if err != nil {
		return nil, err
	}
	run, err := filepath.Abs(cmp.Or(opts.Run, os.Getenv("TARN_RUN"), store.DefaultRun))
	if err != nil {
		return nil, err
	}
	s, err := store.Open(root, run)
	if err != nil {
		return nil, err
	}
	chosen := cmp.Or(opts.Driver, os.Getenv("TARN_STORAGE_DRIVER"))
	driver, err := rootfs.NewDriver(chosen, s.Run())
	if err != nil {
		return nil, err
	}
	dedup := !opts.NoDedup && os.Getenv("TARN_DEDUP") != dedupOff
	return &Engine{
		Store: s, Driver: driver, driver: chosen, networks: network.New(s.NetworksDir(), filepath.Join(s.Run(), "networks")),
		dedup: dedup, leastLayerLimit: leastLayerLimit,
	}, nil
}

// Drivers lists the names of storage drivers.
func Drivers() []string { return []string{rootfs.Auto, rootfs.Erofs, rootfs.Dirs} }

// driverLayer says where a layer is, in the driver's terms.
func driverLayer(l store.Layer) rootfs.Layer {
	return rootfs.Layer{DiffID: string(l.DiffID), Dir: l.Dir(), Tmp: l.Tmp(), Open: l.OpenTar}
}
