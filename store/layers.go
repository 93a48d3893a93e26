package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/sys"
)

// The files of a layer. A layer that borrows nothing has fileTar, another has fileBlocks and fileHoles.
const (
	fileTar    = "layer.tar"
	fileBlocks = "layer.blocks"
	fileHoles  = "holes"
	fileIndex  = "index.erofs"
)

// Layer is a layer in the store: its tar, byte for byte, and the index that makes it mountable.
// Both are read-only and never change.
type Layer struct {
	DiffID image.Digest
	dir    string
	store  *Store
}

// Dir gives the layer's directory.
func (l Layer) Dir() string { return l.dir }

// Tmp gives the store's directory for what is not finished.
func (l Layer) Tmp() string { return l.store.path(dirTmp) }

// IndexPath gives the path of the EROFS index, whose extra devices are those of the tar.
func (l Layer) IndexPath() string { return filepath.Join(l.dir, fileIndex) }

// OpenIndex opens the index for reading.
func (l Layer) OpenIndex() (*os.File, error) { return os.Open(l.IndexPath()) }

// Size gives the length of the tar in bytes.
func (l Layer) Size() (int64, error) {
	info, err := os.Stat(filepath.Join(l.dir, fileTar))
	if err == nil {
		return info.Size(), nil
	}
	size, _, err := l.peek()
	if err != nil {
		return 0, fmt.Errorf("layer %s: %w", l.DiffID.Short(), err)
	}
	return size, nil
}

func (l Layer) peek() (size int64, generation uint32, err error) {
	dir, err := os.OpenRoot(l.dir)
	if err != nil {
		return 0, 0, err
	}
	defer dir.Close()
	return peek(dir)
}

// tarID names the first generation of a layer's tar.
func tarID(diffID image.Digest) (id holes.TarID, err error) {
	n, err := hex.Decode(id.DiffID[:], []byte(diffID.Hex()))
	if err == nil && n != len(id.DiffID) {
		err = fmt.Errorf("layer %s: diffIDs are sha256", diffID)
	}
	return id, err
}

// layerPath is where a layer lies. Only a valid sha256 digest becomes part of a path.
func (s *Store) layerPath(diffID image.Digest) (string, error) {
	if err := diffID.Validate(); err != nil {
		return "", fmt.Errorf("layer: %w", err)
	}
	if diffID.Algorithm() != image.SHA256 {
		return "", fmt.Errorf("layer %s: diffIDs are sha256", diffID)
	}
	return s.path(dirLayers, diffID.Hex()), nil
}

// Layer finds a layer; the error wraps ErrNotFound if it is not there.
func (s *Store) Layer(diffID image.Digest) (Layer, error) {
	dir, err := s.layerPath(diffID)
	if err != nil {
		return Layer{}, err
	}
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && isCondemned(info) {
		return Layer{}, fmt.Errorf("layer %s: %w", diffID, ErrNotFound)
	}
	if err != nil {
		return Layer{}, fmt.Errorf("layer %s: %w", diffID, err)
	}
	return Layer{DiffID: diffID, dir: dir, store: s}, nil
}

// HasLayer reports whether the layer is there. Without the store lock it may be gone the next moment.
func (s *Store) HasLayer(diffID image.Digest) bool {
	_, err := s.Layer(diffID)
	return err == nil
}

// Layers lists all layers in the order of their diffIDs.
func (s *Store) Layers() ([]Layer, error) {
	entries, err := os.ReadDir(s.path(dirLayers))
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	var layers []Layer
	for _, entry := range entries {
		diffID, err := image.ParseDigest(image.SHA256 + ":" + entry.Name())
		if err == nil && !condemnedAt(s.path(dirLayers, entry.Name())) {
			layers = append(layers, Layer{DiffID: diffID, dir: s.path(dirLayers, entry.Name()), store: s})
		}
	}
	return layers, nil
}

// LayerStage is a layer being made. Fill Tar with the uncompressed tar and Index with its EROFS
// index, hash the tar meanwhile, then Sync and Publish. Always Abort at the end.
type LayerStage struct {
	Tar, Index *os.File
	store      *Store
	stage      *Stage
	holes      *holes.Map // nil if the tar is whole
	holesFile  *os.File   // with holes; nil if that is
	derived    []*os.File // what can be made again from the tar
	hold       []*os.File // indexes of the layers it borrows from, which keep these as they are
	synced     bool
}

// StageLayer makes an empty layer aside. No lock is needed.
func (s *Store) StageLayer() (*LayerStage, error) {
	stage, err := s.NewStage()
	if err != nil {
		return nil, err
	}
	ls := &LayerStage{store: s, stage: stage}
	if ls.Tar, err = createIn(stage, fileTar); err == nil {
		ls.Index, err = createIn(stage, fileIndex)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("stage a layer: %w", err), ls.Abort())
	}
	return ls, nil
}

func createIn(stage *Stage, name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(stage.Path(), name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// Sync waits until the disk has the files, and closes them: many layers may wait for their
// publishing. It is the long part of it, and needs no lock.
func (ls *LayerStage) Sync() error {
	if ls.synced {
		return nil
	}
	files := []*os.File{ls.Tar, ls.Index}
	if ls.holesFile != nil {
		files = append(files, ls.holesFile)
	}
	for _, f := range append(slices.Clone(files), ls.derived...) {
		// All begin to be written before one is waited for.
		if err := sys.StartWriteback(f, 0, 0); err != nil {
			return fmt.Errorf("stage a layer: %w", err)
		}
	}
	// What a power cut damages of the derived files is no loss. At once, for then it is one transaction of
	// the file system's journal.
	errs := make([]error, len(files))
	var syncs sync.WaitGroup
	for i, f := range files {
		syncs.Go(func() { errs[i] = f.Sync() })
	}
	syncs.Wait()
	err := errors.Join(errs...)
	if err == nil && ls.holes != nil && !ls.holes.Packed {
		err = ls.punch(ls.holes) // now, since what the disk has not got yet would be waited for, hole by hole
	}
	if err != nil {
		return fmt.Errorf("stage a layer: %w", err)
	}
	ls.synced = true
	return ls.closeFiles()
}

func (ls *LayerStage) closeFiles() error {
	err := closeFiles(append([]*os.File{ls.Tar, ls.Index, ls.holesFile}, ls.derived...))
	ls.Tar, ls.Index, ls.holesFile, ls.derived = nil, nil, nil, nil
	return err
}

func closeFiles(files []*os.File) error {
	var errs []error
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Publish puts the layer in its place under diffID, which must be the sha256 that the caller
// computed of Tar's bytes. The same layer being there already is success. lock may be shared.
func (ls *LayerStage) Publish(lock *Lock, diffID image.Digest) error {
	target, err := ls.store.layerPath(diffID)
	if err != nil {
		return err
	}
	id, err := tarID(diffID)
	if err == nil {
		err = lock.check(false)
	}
	if err == nil {
		err = ls.store.makeWay(diffID)
	}
	if err == nil {
		err = ls.setGeneration(id)
	}
	if err == nil {
		err = ls.Sync()
	}
	if err != nil {
		return fmt.Errorf("publish layer %s: %w", diffID.Short(), err)
	}
	if err := ls.stage.publish(target); err != nil {
		return fmt.Errorf("publish layer %s: %w", diffID.Short(), err)
	}
	return ls.Abort()
}

// Abort closes the files and removes the stage unless it was published. A second time it does nothing.
func (ls *LayerStage) Abort() error {
	hold := ls.hold
	ls.hold = nil
	return errors.Join(ls.closeFiles(), closeFiles(hold), ls.stage.Abort())
}

// InitDir gives where the init layer (mount points and files that an image lacks) of the image
// with this chain of layers lies, and whether it is there.
func (s *Store) InitDir(chainID image.Digest) (string, bool, error) {
	if err := chainID.Validate(); err != nil {
		return "", false, fmt.Errorf("init layer: %w", err)
	}
	path := s.path(dirInit, chainID.Hex())
	info, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("init layer: %w", err)
	}
	return path, err == nil && !isCondemned(info), nil
}

// PublishInit makes stage the init layer of chainID. It is swept with the last image of that chain.
func (s *Store) PublishInit(lock *Lock, stage *Stage, chainID image.Digest) error {
	path, _, err := s.InitDir(chainID)
	if err == nil {
		err = lock.check(false)
	}
	if err == nil {
		err = s.removeCondemned(path, os.RemoveAll)
	}
	if err == nil {
		err = stage.publish(path)
	}
	if err != nil {
		return fmt.Errorf("publish init layer %s: %w", chainID.Short(), err)
	}
	return nil
}
