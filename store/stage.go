package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/diskusage"
)

// Stage is a directory under tmp/ in which an object is made before it is published. It belongs to
// its maker until Abort or a publishing method; if the process dies, it is collected.
type Stage struct {
	dir *os.File // open and locked for as long as the stage lives
}

// NewStage makes an empty stage, mode 0700.
func (s *Store) NewStage() (*Stage, error) {
	dir, err := atomicfile.MkdirTemp(s.path(dirTmp))
	if err != nil {
		return nil, fmt.Errorf("make a stage: %w", err)
	}
	return &Stage{dir: dir}, nil
}

// Path gives the stage's directory.
func (st *Stage) Path() string { return st.dir.Name() }

// Abort removes the stage and all in it. After publishing, or a second time, it does nothing.
func (st *Stage) Abort() error {
	if st == nil || st.dir == nil {
		return nil
	}
	dir := st.dir
	st.dir = nil
	return errors.Join(os.RemoveAll(dir.Name()), dir.Close())
}

// publish renames the stage to target. If target is there already, the stage is dropped, and
// that is success: objects are named by their content.
func (st *Stage) publish(target string) error {
	if err := st.dir.Sync(); err != nil {
		return err
	}
	err := os.Rename(st.dir.Name(), target)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return st.Abort()
	}
	if err != nil {
		return err
	}
	dir := st.dir
	st.dir = nil
	return errors.Join(atomicfile.SyncDir(filepath.Dir(target)), dir.Close())
}

// SpoolFile gives an empty file without a name on the store's file system, for data that must be
// read at random but comes from a pipe. It is gone when it is closed.
func (s *Store) SpoolFile() (*os.File, error) {
	f, err := atomicfile.CreateTemp(s.path(dirTmp), 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a spool file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("make a spool file: %w", err), f.Close())
	}
	return f, nil
}

// CollectLeftovers removes what processes that died left unfinished. Commands that write to the
// store call it; running it beside any other command is safe.
func (s *Store) CollectLeftovers() error { return s.collectLeftovers(os.RemoveAll) }

// CollectCounting is CollectLeftovers that tells, each time something is removed, how many bytes the disk has back
// of that.
func (s *Store) CollectCounting(ctx context.Context, freed func(bytes int64)) error {
	return s.collectLeftovers(func(path string) error {
		bytes, err := diskusage.Of(ctx, path)
		if err == nil {
			err = os.RemoveAll(path)
		}
		if err == nil {
			freed(bytes)
		}
		return err
	})
}

func (s *Store) collectLeftovers(remove func(path string) error) error {
	errs := []error{s.collectPartials(time.Now()), s.collectContainers(), s.collectCondemned(remove)}
	for _, dir := range unfinishedIn() {
		if err := atomicfile.CollectWith(s.path(dir), remove); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// unfinishedIn lists the directories where something may be unfinished.
func unfinishedIn() []string {
	return []string{dirTmp, dirImages, dirEntries, dirPins, dirRecipes, dirNetworks}
}
