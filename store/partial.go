package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/diskusage"
	"github.com/tarnfs/tarn/internal/sys"
)

// partialAge is how long the beginning of a blob is kept for whoever wants the rest.
const partialAge = 7 * 24 * time.Hour

// Partial is the beginning of a blob that is being fetched, and the right to fetch it: whoever holds
// it is the only one on this machine. What was appended outlives the process, so that the next one
// can go on from there. After a power cut it may hold anything: only the digest of the whole tells.
type Partial struct {
	Digest image.Digest
	Size   int64 // bytes that are there
	store  *Store
	file   *os.File
}

// Partial waits until nobody else fetches the blob, and gives what there is of it, maybe nothing.
// Always Close it.
func (s *Store) Partial(ctx context.Context, d image.Digest) (*Partial, error) {
	path, err := s.partialPath(d)
	if err != nil {
		return nil, err
	}
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("partial blob %s: %w", d.Short(), err)
		}
		if err := sys.Flock(ctx, f, true); err != nil {
			if ctx.Err() == nil {
				err = errors.Join(err, f.Close())
			}
			return nil, fmt.Errorf("partial blob %s: %w", d.Short(), err)
		}
		// Whoever had it before may have finished or removed it: then this file has no name any more.
		info, same, err := stillNamed(f, path)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("partial blob %s: %w", d.Short(), err), f.Close())
		}
		if !same {
			f.Close()
			continue
		}
		return &Partial{Digest: d, Size: info.Size(), store: s, file: f}, nil
	}
}

func (s *Store) partialPath(d image.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("partial blob: %w", err)
	}
	if err := s.makeDir(dirPartial); err != nil {
		return "", fmt.Errorf("partial blob %s: %w", d.Short(), err)
	}
	return s.path(dirPartial, d.Algorithm()+"-"+d.Hex()), nil
}

// makeDir makes a directory that is made when it is first needed.
func (s *Store) makeDir(elem ...string) error {
	dir := s.path(elem...)
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

func stillNamed(f *os.File, path string) (opened fs.FileInfo, same bool, err error) {
	if opened, err = f.Stat(); err != nil {
		return nil, false, err
	}
	named, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return opened, false, nil
	}
	return opened, err == nil && os.SameFile(opened, named), err
}

// Prefix reads what was there when Partial gave it.
func (p *Partial) Prefix() io.Reader { return io.NewSectionReader(p.file, 0, p.Size) }

// Append gives a writer of what follows the prefix.
func (p *Partial) Append() io.Writer { return io.NewOffsetWriter(p.file, p.Size) }

// File gives the file itself, for hints to the kernel.
func (p *Partial) File() *os.File { return p.file }

// Reset forgets what is there.
func (p *Partial) Reset() error {
	p.Size = 0
	if err := p.file.Truncate(0); err != nil {
		return fmt.Errorf("partial blob %s: %w", p.Digest.Short(), err)
	}
	return nil
}

// Sync waits until the disk has all of it, before Publish.
func (p *Partial) Sync() error {
	if err := p.file.Sync(); err != nil {
		return fmt.Errorf("partial blob %s: %w", p.Digest.Short(), err)
	}
	return nil
}

// Publish makes it the blob. The caller has verified that all of it is there and has the digest.
func (p *Partial) Publish(lock *Lock) error {
	path, err := p.store.blobPath(p.Digest)
	if err == nil {
		err = lock.check(false)
	}
	if err == nil {
		err = p.store.makeDir(dirBlobs, p.Digest.Algorithm())
	}
	if err == nil {
		err = os.Rename(p.file.Name(), path)
	}
	if err == nil {
		err = atomicfile.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("publish blob %s: %w", p.Digest.Short(), err)
	}
	return p.release()
}

// Discard removes what is there.
func (p *Partial) Discard() error {
	if p.file == nil {
		return nil
	}
	return errors.Join(os.Remove(p.file.Name()), p.release())
}

// Close lets others fetch the blob, and keeps what is there for them.
func (p *Partial) Close() error {
	if p.file == nil {
		return nil
	}
	if info, err := p.file.Stat(); err == nil && info.Size() == 0 {
		return p.Discard()
	}
	return p.release()
}

func (p *Partial) release() error {
	f := p.file
	p.file = nil
	return f.Close()
}

// PartialSize adds up what there is of blobs that have not come in full.
func (s *Store) PartialSize() (count int, bytes int64, err error) {
	entries, err := os.ReadDir(s.path(dirPartial))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("partial blobs: %w", err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			count++
			bytes += info.Size()
		}
	}
	return count, bytes, nil
}

// collectPartials removes beginnings that nobody came back for.
func (s *Store) collectPartials(now time.Time) error {
	entries, err := os.ReadDir(s.path(dirPartial))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("collect partial blobs: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && now.Sub(info.ModTime()) > partialAge {
			errs = append(errs, removeUnlocked(s.path(dirPartial, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

// removeUnlocked removes a file unless somebody holds its lock.
func removeUnlocked(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if locked, err := sys.TryFlock(f, true); err != nil || !locked {
		return err
	}
	if _, same, err := stillNamed(f, path); err != nil || !same {
		return err
	}
	return os.Remove(path)
}

// IdlePartials lists the beginnings of blobs that nobody is fetching, and that nobody has added to since
// until, if that is not zero, or for so long that CollectLeftovers removes them.
func (s *Store) IdlePartials(ctx context.Context, until time.Time) ([]Loss, error) {
	return s.idlePartials(ctx, until, isAbandoned)
}

// RemovePartials removes what IdlePartials lists.
func (s *Store) RemovePartials(ctx context.Context, until time.Time) ([]Loss, error) {
	return s.idlePartials(ctx, until, func(path string) (bool, error) {
		if idle, err := isAbandoned(path); err != nil || !idle {
			return false, err
		}
		err := removeUnlocked(path)
		if _, statErr := os.Lstat(path); err == nil && errors.Is(statErr, fs.ErrNotExist) {
			return true, nil
		}
		return false, err
	})
}

// idlePartials lists those that take says are to be listed.
func (s *Store) idlePartials(ctx context.Context, until time.Time, take func(path string) (bool, error)) ([]Loss, error) {
	entries, err := os.ReadDir(s.path(dirPartial))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("partial blobs: %w", err)
	}
	var list []Loss
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !until.IsZero() && info.ModTime().After(until) && time.Since(info.ModTime()) <= partialAge {
			continue
		}
		path := s.path(dirPartial, entry.Name())
		bytes, err := diskusage.Of(ctx, path)
		taken := false
		if err == nil {
			taken, err = take(path)
		}
		if err != nil {
			return list, fmt.Errorf("partial blobs: %w", err)
		}
		if taken {
			id := strings.Replace(entry.Name(), "-", ":", 1)
			list = append(list, Loss{Object: Object{KindPartial, id}, Bytes: bytes, path: path, had: bytes})
		}
	}
	return list, nil
}
