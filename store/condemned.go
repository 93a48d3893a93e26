package store

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/tarnfs/tarn/internal/atomicfile"
)

// What is removed is renamed, so that it is out of its place at once. But a rename may need room: xfs without free
// blocks and btrfs with a quota that is used up refuse it (docs/adr/full-disks.md), and nothing would ever give
// them any. What they always do is to change a mode, to unlink, to truncate and to punch. So a directory that cannot be renamed
// for want of room is condemned where it is: it gets the sticky bit, which no other object's directory has, and is
// absent from then on, for everybody at the same moment. What is condemned is the same as what was renamed:
// an init layer, a volume or a container is as good as in tmp/, a layer as in remnants/.

// lacksRoom tells whether something failed because the disk or a quota is full.
func lacksRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// condemn makes the object in dir absent. The disk has that when it returns.
func condemn(dir string) error {
	if err := os.Chmod(dir, 0o700|fs.ModeSticky); err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}

// isCondemned looks at what Stat or Lstat say of an object's directory.
func isCondemned(info fs.FileInfo) bool { return info.IsDir() && info.Mode()&fs.ModeSticky != 0 }

// condemnedAt tells whether an object is still in its place, but condemned.
func condemnedAt(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && isCondemned(info)
}

// absentAt tells whether there is no object at a path, or only a condemned one.
func absentAt(path string) bool {
	info, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && isCondemned(info)
}

// withoutCondemned leaves of a listing of dir what is there.
func (s *Store) withoutCondemned(dir string, entries []fs.DirEntry) []fs.DirEntry {
	var there []fs.DirEntry
	for _, entry := range entries {
		if !condemnedAt(s.path(dir, entry.Name())) {
			there = append(there, entry)
		}
	}
	return there
}

// bury takes an object out of its place; CollectLeftovers removes it. If there is no room for that, it is removed
// at once.
func (s *Store) bury(path string) error {
	_, err := atomicfile.Entomb(path, s.path(dirTmp))
	if !lacksRoom(err) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return os.Remove(path)
	}
	if err := condemn(path); err != nil {
		return err
	}
	return s.removeCondemned(path, atomicfile.RemoveAll)
}

// removeCondemned removes an object that was condemned, so that another one can come to its place: the names
// lock keeps it from being that one already.
func (s *Store) removeCondemned(path string, remove func(path string) error) error {
	if !condemnedAt(path) {
		return nil
	}
	return s.withNames(func() error {
		if !condemnedAt(path) {
			return nil
		}
		return remove(path)
	})
}

// condemned lists what is condemned and nothing but to be removed, which is all but layers.
func (s *Store) condemned() (paths []string, err error) {
	var errs []error
	for _, dir := range []string{dirInit, dirVolumes, dirContainers} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, entry := range entries {
			if path := s.path(dir, entry.Name()); condemnedAt(path) {
				paths = append(paths, path)
			}
		}
	}
	return paths, errors.Join(errs...)
}

// collectCondemned removes what processes that died have condemned.
func (s *Store) collectCondemned(remove func(path string) error) error {
	paths, err := s.condemned()
	errs := []error{err}
	for _, path := range paths {
		errs = append(errs, s.removeCondemned(path, remove))
	}
	return errors.Join(errs...)
}
