// Package store is what is on disk: blobs, layers, the names of images, and containers' records.
//
// Plain files and directories, no database. Every object is made aside under tmp/, synced, and
// renamed into its place, so it is whole or absent at whatever moment a process or the machine
// dies; what a dead process left under tmp/ is not locked any more, and is collected. The layout is
// described in docs/format.md.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sys"
)

// Errors that callers tell apart.
var (
	ErrNotFound  = errors.New("not found")
	ErrExists    = errors.New("already exists")
	ErrAmbiguous = errors.New("matches more than one")
	ErrDigest    = errors.New("content does not match its digest")
	ErrFormat    = errors.New("not a store this tarn can use")
	ErrDamaged   = errors.New("damaged")
)

// DefaultRoot and DefaultRun are where the store lies unless TARN_ROOT and TARN_RUN say otherwise.
const (
	DefaultRoot = "/var/lib/tarn"
	DefaultRun  = "/run/tarn"
)

// formatVersion is the content of the file "version".
const formatVersion = "tarn store 1\n"

const (
	dirTmp        = "tmp"
	dirBlobs      = "blobs"
	dirLayers     = "layers"
	dirImages     = "images"
	dirContainers = "containers"
	dirNames      = "names"
	dirInit       = "init"
	dirVolumes    = "volumes"
	dirNetworks   = "networks" // kept by package network
	dirPartial    = "partial"
	dirPins       = "pins"
	dirEntries    = "entries"
	dirRemnants   = "remnants" // there from the beginning: a full disk has no room for it when it is needed
	dirRecipes    = "recipes"
	fileVersion   = "version"
	fileLock      = "lock"
	fileNamesLock = "names.lock"
)

// Store is a store on this machine. Any number of processes, and of goroutines of each, may use
// one store at once.
//
// Locks (all flock(2), so they end with their holder), in the order in which they are taken:
//
//  1. a container's lock ([Container.Lock]): by whoever starts, stops, commits or removes it;
//  2. a blob's lock ([Store.Partial]): by whoever fetches it from a registry, for as long as that
//     takes. A goroutine holds one at a time;
//  3. the store lock: shared ([Store.Shared]) from the moment objects are published, or found to be
//     there already, until a name or a container refers to them; exclusive ([Store.Exclusive])
//     to remove names and to sweep what nothing refers to. Long work (reading an archive,
//     hashing, indexing) is done in a stage under tmp/ before this lock is taken;
//  4. the names lock, taken and given up inside single methods that change a name.
//
// Under all of these there are locks that are held for one thing, and under which none of these is taken: a layer's
// directory while the dirs driver extracts it, a volume's while it is filled, a damaged layer's index while it is mended,
// and below $TARN_RUN that of the layers' mounts, and those of package network.
//
// A stage under tmp/ is locked by its maker for as long as it lives, and so are [Pins]; nobody waits
// for those locks.
//
// Borrowing needs no lock. Who borrows from a layer, reads its tar or mounts it has its index open
// ([Layer.OpenTar]), and a layer whose index is open loses nothing, nor do those that it borrows
// from, even when it is removed: a sweep asks the kernel, and leaves the rest to the next. A stage that
// borrows holds its lenders so until it is published; from then on its map counts. It can be
// published although a lender was removed meanwhile: what it borrows is found among the remnants.
type Store struct {
	root, run string
}

// Open opens the store at root, and makes it if root is empty or absent. run is where mounts and
// whatever else need not outlive the machine's uptime go; it is made by whoever first needs it.
//
// Open is on the path of every container start: it reads one small file.
func Open(root, run string) (*Store, error) {
	s := &Store{root: root, run: run}
	version, err := os.ReadFile(s.path(fileVersion))
	switch {
	case err == nil && string(version) == formatVersion:
		return s, nil
	case err == nil:
		return nil, fmt.Errorf("store %s: %w: its format is %q, this is %q", root, ErrFormat,
			strings.TrimSpace(string(version[:min(len(version), 40)])), strings.TrimSpace(formatVersion))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.initialize(); err != nil {
		return nil, fmt.Errorf("make store %s: %w", root, err)
	}
	return s, nil
}

func (s *Store) initialize() error {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return err
	}
	if err := s.refuseStrangers(); err != nil {
		return err
	}
	for _, dir := range []string{dirTmp, dirBlobs, dirLayers, dirImages, dirContainers, dirNames, dirInit, dirRemnants} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return err
		}
	}
	return atomicfile.Write(s.path(fileVersion), []byte(formatVersion), 0o600)
}

// refuseStrangers keeps a mistyped --root from turning somebody's directory into a store.
func (s *Store) refuseStrangers() error {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if name := entry.Name(); !isOurs(name) && !atomicfile.IsTemp(name) {
			return fmt.Errorf("%w: the directory holds other files (%q)", ErrFormat, name)
		}
	}
	return nil
}

// isOurs tells whether a store has something of that name.
func isOurs(name string) bool {
	switch name {
	case dirTmp, dirBlobs, dirLayers, dirImages, dirContainers, dirNames, dirInit, dirVolumes, dirNetworks, dirPartial,
		dirPins, dirRecipes, dirEntries, dirRemnants, fileVersion, fileLock, fileNamesLock, "lost+found":
		return true
	default:
		return false
	}
}

// Root gives the directory of the store.
func (s *Store) Root() string { return s.root }

// NetworksDir gives the directory of networks' records, which may not be there yet.
func (s *Store) NetworksDir() string { return s.path(dirNetworks) }

// Run gives the directory of what need not outlive the machine's uptime.
func (s *Store) Run() string { return s.run }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

// Lock is the store lock, held. Methods that need it take it as an argument.
type Lock struct {
	file      *os.File
	exclusive bool
}

// Shared waits for the store lock, to be held together with other publishers and readers.
func (s *Store) Shared(ctx context.Context) (*Lock, error) {
	return s.lock(ctx, false)
}

// Exclusive waits for the store lock, to be held alone, for removal.
func (s *Store) Exclusive(ctx context.Context) (*Lock, error) {
	return s.lock(ctx, true)
}

func (s *Store) lock(ctx context.Context, exclusive bool) (*Lock, error) {
	f, err := s.openLock(fileLock)
	if err != nil {
		return nil, fmt.Errorf("lock store: %w", err)
	}
	if err := sys.Flock(ctx, f, exclusive); err != nil {
		if ctx.Err() == nil {
			err = errors.Join(err, f.Close())
		}
		return nil, fmt.Errorf("lock store: %w", err)
	}
	return &Lock{file: f, exclusive: exclusive}, nil
}

// openLock opens a file to be locked. On a disk that cannot be written, where it may be missing, nobody is kept
// from anything.
func (s *Store) openLock(name string) (*os.File, error) {
	f, err := os.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE, 0o600)
	if !errors.Is(err, syscall.EROFS) {
		return f, err
	}
	if f, err = os.Open(s.path(name)); errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(s.path(fileVersion))
	}
	return f, err
}

// Unlock gives the lock up. Doing so twice is harmless.
func (l *Lock) Unlock() error {
	if l == nil || l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	return f.Close()
}

var errUnlocked = errors.New("the store lock is not held as needed")

// check guards against a caller's mistake that would only show as a lost object much later.
func (l *Lock) check(exclusive bool) error {
	if l == nil || l.file == nil || (exclusive && !l.exclusive) {
		return errUnlocked
	}
	return nil
}

// withNames runs change under the names lock.
func (s *Store) withNames(change func() error) error {
	f, err := s.openLock(fileNamesLock)
	if err != nil {
		return fmt.Errorf("lock names: %w", err)
	}
	if err := sys.WaitFlock(f, true); err != nil {
		return errors.Join(fmt.Errorf("lock names: %w", err), f.Close())
	}
	return errors.Join(change(), f.Close())
}
