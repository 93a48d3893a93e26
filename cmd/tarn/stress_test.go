package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/testenv"
)

const (
	stressUsers  = 16
	stressImages = 6
)

// missing is the only thing that a command may complain of: somebody else was faster, has taken away what was to be, or
// is using it.
var missing = regexp.MustCompile(`^(tarn: ((.*: )?no such (image|container|volume|container or image)\b|.* is not mounted|unmount .*: in use: |remove volume .*: volume is in use: )[^\n]*\n)+$`)

// TestStress lets 16 users do at random what there is to do with images and containers, all at once in one store, and
// with each other's things. No command fails but for what is not there (any more), nobody reads a wrong byte, the store
// is sound in the end, and nothing is left when all has been removed.
// TARN_STRESS_SECONDS is how long, TARN_STRESS_SEED what chance begins with.
func TestStress(t *testing.T) {
	testenv.RequireErofsFile(t)
	seconds := number(t, "TARN_STRESS_SECONDS", 10)
	seed := number(t, "TARN_STRESS_SEED", uint64(time.Now().UnixNano()))
	t.Logf("TARN_STRESS_SEED=%d", seed)
	s := newStress(t)
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	var failed atomic.Bool
	var all sync.WaitGroup
	for id := range stressUsers {
		u := &user{stress: s, id: id, r: rand.New(rand.NewPCG(seed, uint64(id)))}
		all.Go(func() {
			for time.Now().Before(end) && !failed.Load() {
				if u.step(); u.err != nil {
					failed.Store(true)
					t.Errorf("user %d: %v", id, u.err)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d commands, %d of them found nothing", s.commands, s.missed)
	s.verify()
}

// stress is a store that users share.
type stress struct {
	t         *testing.T
	root, run string
	registry  string
	archive   string
	boxes     [][]byte // tars of root file systems

	mu               sync.Mutex
	commands, missed int
}

// user does one thing after the other.
type user struct {
	*stress

	id   int
	r    *rand.Rand
	made int // containers
	err  error
}

func newStress(t *testing.T) *stress {
	t.Helper()
	s := &stress{t: t}
	s.root, s.run = testenv.TarnRoot(t)
	busybox, err := os.ReadFile(testenv.Busybox(t))
	require.NoError(t, err)
	served := serveStore(t, filepath.Join(testenv.TempDir(t), "root"), filepath.Join(testenv.TempDir(t), "run"))
	s.registry = served.host
	fromRoot, fromRun := testenv.TarnRoot(t)
	s.archive = filepath.Join(testenv.TempDir(t), "saved.tar")
	for i := range stressImages {
		// Neighbours have much in common.
		data, _ := boxTar(busybox, []int{i, i + 1, i + 2, 10 + i/2, 20})
		s.boxes = append(s.boxes, data)
		cmd := tarn(t, fromRoot, fromRun, "import", "--name", fmt.Sprintf("r%d", i), "-")
		cmd.Stdin = bytes.NewReader(data)
		output(t, cmd)
		output(t, tarn(t, fromRoot, fromRun, "push", "--quiet", fmt.Sprintf("r%d", i), fmt.Sprintf("%s/r%d", s.registry, i)))
	}
	output(t, tarn(t, fromRoot, fromRun, "save", "-o", s.archive, "r0", "r1"))
	return s
}

// tarn runs a command. It may fail because something is missing, and exit with one of the statuses.
func (u *user) tarn(stdin []byte, statuses []int, args ...string) bool {
	return u.tarnTo(new(bytes.Buffer), stdin, statuses, args...)
}

// tarnTo is tarn that keeps what the command prints.
func (u *user) tarnTo(stdout *bytes.Buffer, stdin []byte, statuses []int, args ...string) bool {
	if u.err != nil {
		return false
	}
	cmd := tarn(u.t, u.root, u.run, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	err := cmd.Run()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.commands++
	exit, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return true
	case failed && missing.Match(stderr.Bytes()):
		u.missed++
	case failed && slices.Contains(statuses, exit.ExitCode()) && stderr.Len() == 0:
	default:
		u.err = fmt.Errorf("tarn %s: %w: %s%s", strings.Join(args, " "), err, stdout, &stderr)
	}
	return false
}

func (u *user) step() {
	switch n := u.r.IntN(100); {
	case n < 12:
		u.tarn(u.boxes[u.r.IntN(stressImages)], nil, "import", "--name", u.image(), "-")
	case n < 22:
		u.tarn(nil, nil, "pull", "--quiet", fmt.Sprintf("%s/r%d", u.registry, u.r.IntN(stressImages)))
	case n < 38:
		u.tarn(nil, nil, "run", "--rm", "--network", "none", u.anyImage(), "sh", "-euc", "sha256sum -c -s sums")
	case n < 48:
		u.runAndCommit()
	case n < 52:
		u.sleeper()
	case n < 57:
		u.tarn(nil, nil, "rm", "--force", u.container())
	case n < 66:
		u.tarn(nil, nil, "rmi", "--force", u.anyImage())
	case n < 70:
		u.tarn(nil, nil, "tag", u.anyImage(), u.image())
	case n < 74:
		u.tarn(nil, nil, "prune", "--force")
	case n < 78:
		u.look()
	case n < 82:
		u.saveAndLoad()
	case n < 88:
		u.useVolume()
	default:
		u.read()
	}
}

// read looks at what is there, or makes a copy of it.
func (u *user) read() {
	reads := [][]string{
		{"images", "--all"},
		{"ps", "--all"},
		{"df"},
		{"df", "--verbose"},
		{"check"},
		{"check", "--deep"},
		{"repair", "--offline"},
		{"compact"},
		{"prune", "--dry-run"},
		{"save", "--output", os.DevNull, u.anyImage()},
		{"export", "--output", os.DevNull, u.container()},
		{"inspect", "--type", "image", u.anyImage()},
		{"history", u.anyImage()},
		{"layers", u.anyImage()},
		{"push", "--quiet", u.image(), fmt.Sprintf("%s/pushed%d", u.registry, u.id)},
		{"diff", u.container()},
		{"load", "--quiet", "--input", u.archive},
		{"mount"},
		{"volume", "ls"},
		{"volume", "inspect", u.volume()},
		{"prune", "--dry-run", "--all", "--volumes"},
	}
	u.tarn(nil, nil, reads[u.r.IntN(len(reads))]...)
}

// image gives a name that images get here.
func (u *user) image() string { return fmt.Sprintf("s%d", u.r.IntN(stressImages)) }

// anyImage gives a name that an image may have.
func (u *user) anyImage() string {
	switch u.r.IntN(4) {
	case 0:
		return fmt.Sprintf("%s/r%d", u.registry, u.r.IntN(stressImages))
	case 1:
		return fmt.Sprintf("r%d", u.r.IntN(2))
	default:
		return u.image()
	}
}

// container gives a name that a container of any user may have.
func (u *user) container() string {
	return fmt.Sprintf("box-%d-%d", u.r.IntN(stressUsers), u.r.IntN(3))
}

// newContainer gives a name that only this user gives, and makes it free.
func (u *user) newContainer() string {
	u.made++
	name := fmt.Sprintf("box-%d-%d", u.id, u.made%3)
	u.tarn(nil, nil, "rm", "--force", name)
	return name
}

func (u *user) runAndCommit() {
	name := u.newContainer()
	script := fmt.Sprintf("sha256sum -c -s sums; echo %d >> log; cp bin/busybox copy%d", u.r.IntN(1000), u.r.IntN(3))
	if u.tarn(nil, []int{137}, "run", "--network", "none", "--name", name, u.anyImage(), "sh", "-euc", script) {
		u.tarn(nil, nil, "commit", name, u.image())
	}
}

// look shows an image, reads all of it, and takes it away again; or somebody else does so, who has looked at it, too.
func (u *user) look() {
	image := u.anyImage()
	var shown bytes.Buffer
	if !u.tarnTo(&shown, nil, nil, "mount", image) {
		return
	}
	dir := strings.TrimSpace(shown.String())
	sums, err := os.Open(filepath.Join(dir, "sums"))
	if errors.Is(err, fs.ErrNotExist) {
		return // it was taken away just now
	}
	if err != nil {
		u.err = err
		return
	}
	// While that is open, it stays.
	check := exec.CommandContext(u.t.Context(), "sha256sum", "--check", "--quiet")
	check.Dir, check.Stdin = dir, sums
	if out, err := check.CombinedOutput(); err != nil {
		u.err = fmt.Errorf("%s is shown wrongly: %w: %s", image, err, out)
	}
	u.err = errors.Join(u.err, sums.Close())
	u.tarn(nil, nil, "umount", filepath.Base(dir))
}

// saveAndLoad takes an image out and in again.
func (u *user) saveAndLoad() {
	archive := filepath.Join(u.t.TempDir(), "saved.tar")
	if u.tarn(nil, nil, "save", "--output", archive, u.anyImage()) {
		u.tarn(nil, nil, "load", "--quiet", "--input", archive)
	}
	u.err = errors.Join(u.err, os.RemoveAll(archive))
}

// volume gives a name that a volume may have.
func (u *user) volume() string { return fmt.Sprintf("vol%d", u.r.IntN(4)) }

// useVolume writes to a volume that others write to, or removes it.
func (u *user) useVolume() {
	volume := u.volume()
	switch u.r.IntN(5) {
	case 0:
		u.tarn(nil, nil, "volume", "rm", volume)
	case 1:
		u.tarn(nil, nil, "volume", "create", volume)
	case 2:
		u.tarn(nil, nil, "volume", "prune", "--force")
	default:
		script := fmt.Sprintf("echo %d > /v/mine%d; test $(cat /v/mine%d) = %d", u.made, u.id, u.id, u.made)
		u.tarn(nil, nil, "run", "--rm", "--network", "none", "--volume", volume+":/v", "--volume", "/scratch", u.anyImage(), "sh", "-euc", script)
	}
}

// sleeper runs a container that is committed, and ended by somebody, or by itself.
func (u *user) sleeper() {
	name := u.newContainer()
	var slept sync.WaitGroup
	slept.Go(func() {
		other := &user{stress: u.stress}
		other.tarn(nil, []int{137}, "run", "--network", "none", "--name", name, u.image(), "sh", "-euc", "echo x > y; sleep 0.5")
		u.mu.Lock()
		defer u.mu.Unlock()
		u.err = errors.Join(u.err, other.err)
	})
	time.Sleep(time.Duration(u.r.IntN(300)) * time.Millisecond)
	committer := &user{stress: u.stress}
	committer.tarn(nil, nil, "commit", name, u.image())
	slept.Wait()
	u.err = errors.Join(u.err, committer.err)
}

// verify looks whether all is well, removes everything, and looks for what is left.
func (s *stress) verify() {
	t := s.t
	command := func(args ...string) string { return output(t, tarn(t, s.root, s.run, args...)) }
	e, err := engine.Open(engine.Options{Root: s.root, Run: s.run})
	require.NoError(t, err)
	checkSound(t, e, "in the end")
	containers, err := e.Containers(t.Context(), engine.ContainerFilter{All: true})
	require.NoError(t, err)
	ids := make([]string, 0, len(containers))
	for _, c := range containers {
		ids = append(ids, c.ID)
		command("rm", "--force", c.ID)
	}
	s.umountAll(command)
	command("volume", "prune", "--all", "--force")
	s.prune(e)
	checkSound(t, e, "with everything removed")
	require.Empty(t, command("images", "--all", "--quiet"))
	for _, dir := range []string{"blobs/sha256", "layers", "images", "entries", "containers", "names", "init", "partial", "pins", "recipes", "remnants", "tmp", "volumes"} {
		entries, err := os.ReadDir(filepath.Join(s.root, dir))
		if !errors.Is(err, fs.ErrNotExist) {
			require.NoError(t, err)
			require.Empty(t, entries, dir)
		}
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), s.run+"/")
	require.NotContains(t, string(mounts), s.root+"/")
	s.requireNoLocks()
	s.requireNoCgroups(ids)
}

// umountAll takes away what is shown.
func (s *stress) umountAll(command func(args ...string) string) {
	if command("mount") != "" {
		command("umount", "--all")
	}
}

// prune holds what is said of the disk against what du says.
func (s *stress) prune(e *engine.Engine) {
	t := s.t
	du := func() (bytes int64) {
		output(t, exec.CommandContext(t.Context(), "sync", "-f", s.root))
		text := output(t, exec.CommandContext(t.Context(), "du", "-s", "--block-size=1", s.root))
		_, err := fmt.Sscan(text, &bytes)
		require.NoError(t, err)
		return bytes
	}
	before, frame := du(), s.frame()
	usage, err := e.DiskUsage(t.Context())
	require.NoError(t, err)
	var sum int64
	for _, u := range usage {
		sum += u.Size
	}
	require.InEpsilon(t, before, sum, 0.01, "%+v", usage)
	plan, err := e.PlanPrune(t.Context(), engine.PruneFilter{All: true})
	require.NoError(t, err)
	pruned, err := e.Prune(t.Context(), engine.PruneFilter{All: true}, engine.PruneReport{})
	require.NoError(t, err)
	require.Equal(t, plan.Bytes(), pruned.Bytes())
	require.Equal(t, before-du()-frame+s.frame(), pruned.Bytes())
}

// frame gives the bytes of the disk that the store's own directories take, which grow with what goes through them.
func (s *stress) frame() (bytes int64) {
	dirs, err := filepath.Glob(filepath.Join(s.root, "*"))
	require.NoError(s.t, err)
	for _, dir := range append(dirs, filepath.Join(s.root, "blobs", "sha256")) {
		var stat syscall.Stat_t
		require.NoError(s.t, syscall.Lstat(dir, &stat))
		bytes += stat.Blocks * 512
	}
	return bytes
}

// requireNoLocks looks for locks of files of the store (proc_locks(5)).
func (s *stress) requireNoLocks() {
	locks, err := os.ReadFile("/proc/locks")
	require.NoError(s.t, err)
	require.NoError(s.t, filepath.WalkDir(s.root, func(path string, _ fs.DirEntry, err error) error {
		var stat syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(path, &stat)
		}
		require.NotRegexp(s.t, fmt.Sprintf(`:%d \d`, stat.Ino), string(locks), path)
		return err
	}))
}

// requireNoCgroups looks for cgroups of containers, and so for their processes.
func (s *stress) requireNoCgroups(ids []string) {
	require.NoError(s.t, filepath.WalkDir("/sys/fs/cgroup", func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // of somebody else, who is at work
		}
		for _, id := range ids {
			require.NotContains(s.t, path, id)
		}
		return err
	}))
}
