package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/powerdisk"
	"github.com/tarnfs/tarn/internal/testenv"
)

// cutsPerLoad is how many power cuts one run of commands is good for.
const cutsPerLoad = 25

// number gives a number from the environment, or another one.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, name)
	return n
}

// TestPowerCuts lets four users import, pull, run, commit, tag, remove and prune, with containers and volumes, on a real file system, and cuts
// the power at random moments (package powerdisk). After each cut everything that a command had reported must
// be there, to the last byte; what it had removed must not be back; and the next commands must work.
// TARN_POWER_CUTS is the number of cuts on each file system, TARN_POWER_SEED repeats a run as far as chance can be.
func TestPowerCuts(t *testing.T) {
	testenv.RequireErofsFile(t)
	testenv.RequirePowerDisk(t, "ext4", "xfs")
	if os.Getenv(alone) == "" {
		runAlone(t)
		return
	}
	cuts := int(number(t, "TARN_POWER_CUTS", 12))
	seed := number(t, "TARN_POWER_SEED", uint64(time.Now().UnixNano()))
	t.Logf("TARN_POWER_SEED=%d", seed)
	for _, site := range []powerSite{{"ext4", 160 << 20, ""}, {"xfs", 320 << 20, "nouuid"}} {
		t.Run(site.fsType, func(t *testing.T) {
			for done := 0; done < cuts; done += cutsPerLoad {
				t.Run(strconv.Itoa(done), func(t *testing.T) {
					site.cutUnderLoad(t, seed+uint64(done), min(cutsPerLoad, cuts-done))
				})
			}
		})
	}
}

// alone marks a process that runs one test in a mount namespace of its own.
const alone = "TARN_TEST_ALONE"

// runAlone runs the test once more in a mount namespace of its own. Otherwise processes that have nothing to do with it
// may have copies of its mounts for as long as they live, and it could not unmount its disks.
func runAlone(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.timeout=0", "-test.v")
	cmd.Env = append(os.Environ(), alone+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if testing.Verbose() {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	}
	require.NoError(t, cmd.Run(), "%s", &out)
}

// powerSite is a file system, and how large its disk is.
type powerSite struct {
	fsType  string
	size    int64
	options string
}

// powerCut is a disk after a power cut, and what must be on it.
type powerCut struct {
	disk               *powerdisk.Disk
	fate               string
	unflushed          int // writes
	images, containers map[string]fact
	volumes            map[string]fact
	load               *load
}

func (s powerSite) cutUnderLoad(t *testing.T, seed uint64, count int) {
	server, err := powerdisk.Serve(testenv.TempDir(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, server.Close()) }()
	disk := powerdisk.New(s.size)
	if s.fsType == "ext4" {
		disk.Whole(1024, 2048)
	}
	out, err := exec.CommandContext(t.Context(), "mkfs."+s.fsType, "-q", server.Add("disk", disk)).CombinedOutput()
	require.NoError(t, err, "%s", out)

	var cuts []powerCut
	s.mounted(t, server, "disk", disk, func(dir string) {
		run := testenv.TempDir(t)
		l := newLoad(t, filepath.Join(dir, "var", "lib", "tarn"), run)
		ctx, stop := context.WithCancel(t.Context())
		wait := l.start(ctx, seed)
		r := rand.New(rand.NewPCG(seed, 1000))
		for range count {
			time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
			// Most moments lie between commands, and have nothing to lose.
			for patience := r.IntN(500); patience > 0 && disk.Unflushed() == 0; patience-- {
				time.Sleep(200 * time.Microsecond)
			}
			cuts = append(cuts, l.cut(disk, r))
		}
		stop()
		require.NoError(t, wait())
		require.NoError(t, l.inward.end(syscall.SIGTERM))
		testenv.UnmountBeneath(t, run)
	})
	lossy := 0
	for i, cut := range cuts {
		name := fmt.Sprintf("cut%d", i)
		t.Logf("cut %d: %s", i, cut.fate)
		s.mounted(t, server, name, cut.disk, func(dir string) { cut.verify(t, dir) })
		if t.Failed() {
			t.FailNow()
		}
		cuts[i].disk = nil // it is large
		if cut.unflushed > 0 {
			lossy++
		}
	}
	t.Logf("%d cuts, %d with writes that were not flushed", len(cuts), lossy)
}

// mounted mounts a disk while do runs.
func (s powerSite) mounted(t *testing.T, server *powerdisk.Server, name string, disk *powerdisk.Disk, do func(dir string)) {
	t.Helper()
	dir := testenv.TempDir(t)
	require.NoError(t, powerdisk.Mount(server.Add(name, disk), s.fsType, dir, s.options))
	defer server.Remove(name)
	defer unmountIdle(t, dir)
	do(dir)
}

// unmountIdle waits until nothing uses the mount. Copies of the layers' mounts live on for a moment in the mount
// namespaces of containers that have just ended.
func unmountIdle(t *testing.T, dir string) {
	t.Helper()
	const tries = 1500
	for range tries {
		err := unix.Unmount(dir, 0)
		if err == nil {
			return
		}
		require.ErrorIs(t, err, unix.EBUSY)
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s is in use, still", dir)
}

// cut cuts the power between two moments of the journal.
func (l *load) cut(disk *powerdisk.Disk, r *rand.Rand) powerCut {
	l.mu.Lock()
	defer l.mu.Unlock()
	unflushed := disk.Unflushed()
	after, fate := disk.Cut(r)
	return powerCut{after, fate, unflushed, maps.Clone(l.images), maps.Clone(l.containers), maps.Clone(l.volumes), l}
}

// verify is the morning after.
func (c powerCut) verify(t *testing.T, dir string) {
	t.Helper()
	root, run := filepath.Join(dir, "var", "lib", "tarn"), testenv.TempDir(t)
	defer testenv.UnmountBeneath(t, run)
	e, err := engine.Open(engine.Options{Root: root, Run: run})
	require.NoError(t, err, c.fate)
	checkSound(t, e, c.fate)
	c.verifyImages(t, e)
	c.verifyVolumes(t, e)
	c.verifyContainers(t, e, root, run)

	data, made := boxTar([]byte("no program"), []int{1, 2, 3})
	cmd := tarn(t, root, run, "import", "--name", "after", "-")
	cmd.Stdin = bytes.NewReader(data)
	output(t, cmd)
	require.Equal(t, made, c.shown(t, e, "after"))
	for repository, made := range c.load.remote {
		name := c.load.registry + "/" + repository
		output(t, tarn(t, root, run, "pull", "--quiet", name))
		require.Equal(t, made, c.shown(t, e, name), c.fate)
		c.images[name+":latest"] = fact{certain: made}
		break // any will do
	}
	left, err := os.ReadDir(filepath.Join(root, "tmp"))
	require.NoError(t, err)
	require.Empty(t, left, "the next command collects what was left: %s", c.fate)
	for name, f := range c.images {
		if !f.busy && f.certain != nil {
			output(t, tarn(t, root, run, "run", "--rm", "--network", "none", name, "true"))
			break
		}
	}
	output(t, tarn(t, root, run, "prune", "--force"))
	checkSound(t, e, c.fate)
	c.verifyImages(t, e)
}

func checkSound(t *testing.T, e *engine.Engine, fate string) {
	t.Helper()
	checked, err := e.Check(t.Context(), engine.CheckOptions{Deep: true})
	require.NoError(t, err, fate)
	for _, f := range checked.Faults {
		if !f.Harmless {
			t.Errorf("%s: %s %s %s (%s): %v; needed by %q", fate, f.Kind, f.ID, f.Part, f.Path, f.Err, checked.Users(f))
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

func (c powerCut) verifyImages(t *testing.T, e *engine.Engine) {
	t.Helper()
	records, err := e.Images(t.Context(), engine.ImageFilter{})
	require.NoError(t, err)
	there := make(map[string]bool)
	for _, record := range records {
		there[record.Name.String()] = true
	}
	for _, name := range slices.Sorted(maps.Keys(c.images)) {
		f := c.images[name]
		if !there[name] {
			require.True(t, f.certain == nil || f.busy && f.possible == nil, "%s is lost: %s", name, c.fate)
			continue
		}
		got := c.shown(t, e, name)
		asBefore, asAfter := maps.Equal(got, f.certain), f.busy && maps.Equal(got, f.possible)
		require.True(t, f.certain != nil && asBefore || f.possible != nil && asAfter,
			"%s (%+v) is\n%v\nwant\n%v\nor\n%v\n%s", name, f.busy, got, f.certain, f.possible, c.fate)
	}
}

// shown reads all files of an image, as a container would see them, or of a container.
func (c powerCut) shown(t *testing.T, e *engine.Engine, name string) tree {
	t.Helper()
	dir, err := e.Mount(t.Context(), name)
	require.NoError(t, err, c.fate)
	got := treeOf(t, dir)
	require.NoError(t, e.Umount(t.Context(), name))
	return got
}
