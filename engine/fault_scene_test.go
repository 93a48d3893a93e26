package engine_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/sys/faultpoint"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/store"
)

// scene is a store in which a command is to come to grief, again and again: each time it is as it was.
type scene struct {
	t        *testing.T
	tarn     string // the program
	root     string
	run      string
	pristine string // a copy of the root
	trees    map[image.Digest]map[string]*treecmp.Entry
	names    map[string]image.Digest
	diffs    map[string][]engine.Change // of containers, by name
}

// buildTarn builds the program as it is.
func buildTarn(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tarn")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../cmd/tarn").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// newScene begins with a copy of a store.
func newScene(t *testing.T, from *host, tarn string) *scene {
	t.Helper()
	dir := testenv.TempDir(t)
	s := &scene{
		t: t, tarn: tarn, root: filepath.Join(dir, "root"), run: filepath.Join(dir, "run"),
		pristine: filepath.Join(dir, "pristine"),
	}
	s.copy(from.Store.Root(), s.root)
	return s
}

func (s *scene) copy(from, to string) {
	s.t.Helper()
	require.NoError(s.t, os.RemoveAll(to))
	out, err := exec.CommandContext(s.t.Context(), "cp", "-a", from, to).CombinedOutput()
	require.NoError(s.t, err, "%s", out)
}

// prepare readies the store for an operation, and makes it the one that reset gives.
func (s *scene) prepare(op *operation) {
	s.t.Helper()
	if op.heals {
		s.remember()
	}
	if op.prepare != nil {
		op.prepare(s)
	}
	s.copy(s.root, s.pristine)
	if !op.heals {
		s.remember()
	}
}

// remember notes what is there.
func (s *scene) remember() {
	s.t.Helper()
	e := s.open()
	s.trees, s.names, s.diffs = map[image.Digest]map[string]*treecmp.Entry{}, map[string]image.Digest{}, map[string][]engine.Change{}
	for _, record := range records(s.t, e) {
		s.trees[record.ID] = s.tree(e, record.ID)
		if record.Name != "" {
			s.names[record.Name] = record.ID
		}
	}
	for _, c := range s.containers(e) {
		s.diffs[c.Name] = s.diff(e, c.Name)
	}
}

// reset gives the store that was prepared, as after a reboot.
func (s *scene) reset(op *operation) {
	s.t.Helper()
	testenv.UnmountBeneath(s.t, s.run)
	require.NoError(s.t, os.RemoveAll(s.run))
	s.copy(s.pristine, s.root)
	if op.each != nil {
		op.each(s)
	}
}

func (s *scene) open() *engine.Engine {
	s.t.Helper()
	e, err := engine.Open(engine.Options{Root: s.root, Run: s.run})
	require.NoError(s.t, err)
	return e
}

// tree reads all of an image's mounted tree.
func (s *scene) tree(e *engine.Engine, id image.Digest) map[string]*treecmp.Entry {
	s.t.Helper()
	dir, err := e.Mount(s.t.Context(), string(id))
	require.NoError(s.t, err)
	tree, err := treecmp.Read(dir, exceptRoot()) // an image without layers has none of its own
	require.NoError(s.t, err)
	require.NoError(s.t, e.Umount(s.t.Context(), string(id)))
	return tree
}

func (s *scene) containers(e *engine.Engine) []*engine.Container {
	s.t.Helper()
	list, err := e.Containers(s.t.Context(), engine.ContainerFilter{All: true})
	require.NoError(s.t, err)
	return list
}

func (s *scene) diff(e *engine.Engine, name string) []engine.Change {
	s.t.Helper()
	changes, err := e.Diff(s.t.Context(), name)
	require.NoError(s.t, err)
	return changes
}

// command is the program, to be run on the store.
func (s *scene) command(op *operation, args []string) *exec.Cmd {
	cmd := exec.CommandContext(context.WithoutCancel(s.t.Context()), s.tarn, args...)
	cmd.Env = append(os.Environ(), "TARN_ROOT="+s.root, "TARN_RUN="+s.run, "TARN_STORAGE_DRIVER="+op.driver)
	if !op.online { // a host of its own: each store has a network, and there are not so many
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	return cmd
}

// watch runs the operation with each of its system calls that change something decided about.
func (s *scene) watch(op *operation, decide func(faultpoint.Call) faultpoint.Verdict) (string, error) {
	cmd, out := s.command(op, op.args), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	err := faultpoint.Run(cmd, []string{s.root, s.run}, decide)
	return out.String(), err
}

// operation is a command that changes a store.
type operation struct {
	name    string
	driver  string
	prepare func(s *scene) // once
	each    func(s *scene) // before each attempt
	args    []string
	removes func(name string) bool // tells whether an image of that name may go; nil: none does
	retags  string                 // the name that another image gets
	rm      string                 // the container that goes
	heals   bool                   // the store is damaged before
	online  bool                   // it needs this machine's network
	erofs   bool                   // it needs that driver
	frees   bool                   // it gives room back, and so works without any
	done    func(t *testing.T, e *engine.Engine)
	again   string // what a second run says if the first was done
}

// requireWhole wants all to be there that was committed, and nothing to be wrong.
func (s *scene) requireWhole(op *operation) {
	s.t.Helper()
	e := s.open()
	s.lookAround(e)
	s.requireNothingWrong(e, engine.CheckOptions{Deep: true})
	names, ids := map[string]image.Digest{}, map[image.Digest]bool{}
	for _, record := range records(s.t, e) {
		ids[record.ID] = true
		if record.Name != "" {
			names[record.Name] = record.ID
		}
	}
	kept := map[image.Digest]bool{}
	for name, id := range s.names {
		mayGo := op.removes != nil && op.removes(name)
		switch {
		case names[name] == "" && mayGo, name == op.retags:
		default:
			require.Equal(s.t, id, names[name], name)
		}
		kept[id] = kept[id] || !mayGo
	}
	for id, tree := range s.trees {
		if !ids[id] {
			require.False(s.t, kept[id], "image %s is lost", id)
		} else if rand.IntN(4) == 0 { // the check has proved it, in other ways
			require.Empty(s.t, treecmp.DiffEntries(tree, s.tree(e, id)), id)
		}
	}
	there := map[string]bool{}
	for _, c := range s.containers(e) {
		there[c.Name] = true
	}
	for name, diff := range s.diffs {
		if there[name] || name != op.rm {
			require.Equal(s.t, diff, s.diff(e, name), name)
		}
	}
}

// lookAround does what all commands that only read do.
func (s *scene) lookAround(e *engine.Engine) {
	s.t.Helper()
	ctx := s.t.Context()
	rows, err := e.Images(ctx, engine.ImageFilter{All: true})
	require.NoError(s.t, err)
	for _, row := range rows {
		_, err = e.Inspect(ctx, string(row.ID), "")
		require.NoError(s.t, err)
		_, err = e.Layers(ctx, string(row.ID))
		require.NoError(s.t, err)
		_, err = e.History(ctx, string(row.ID))
		require.NoError(s.t, err)
	}
	for _, c := range s.containers(e) {
		require.NoError(s.t, c.Damaged)
		_, err = e.InspectContainer(ctx, c.Name)
		require.NoError(s.t, err)
		_, _, err = e.ContainerSize(ctx, c)
		require.NoError(s.t, err)
	}
	_, err = e.DiskUsage(ctx)
	require.NoError(s.t, err)
	_, err = e.ImageUsage(ctx)
	require.NoError(s.t, err)
	_, err = e.VolumeUsage(ctx)
	require.NoError(s.t, err)
	_, err = e.Forms(ctx)
	require.NoError(s.t, err)
	_, err = e.PlanPrune(ctx, engine.PruneFilter{All: true})
	require.NoError(s.t, err)
	_, err = e.Mounts(ctx)
	require.NoError(s.t, err)
}

func (s *scene) requireNothingWrong(e *engine.Engine, opts engine.CheckOptions) {
	s.t.Helper()
	checked, err := e.Check(s.t.Context(), opts)
	require.NoError(s.t, err)
	for _, f := range checked.Wrong() {
		s.t.Errorf("%s %s %s (%s): %v; needed by %q", f.Kind, f.ID, f.Part, f.Path, f.Err, checked.Users(f))
	}
	if s.t.Failed() {
		s.t.FailNow()
	}
}

// requireCollected wants the next command to have removed what was left over.
func (s *scene) requireCollected(e *engine.Engine) {
	s.t.Helper()
	_, err := e.Import(s.t.Context(), bytes.NewReader(rootTar(s.t)), engine.ImportOptions{Name: "next"})
	require.NoError(s.t, err)
	for _, dir := range []string{"tmp", "pins", "images", "entries", "recipes", "networks"} {
		left, err := filepath.Glob(filepath.Join(s.root, dir, ".tmp-*"))
		require.NoError(s.t, err)
		require.Empty(s.t, left)
	}
	s.requireNothingWrong(e, engine.CheckOptions{})
}

// requireDone runs the operation to its end, on what the first attempt has left.
func (s *scene) requireDone(op *operation) {
	s.t.Helper()
	if out, err := s.command(op, op.args).CombinedOutput(); err != nil {
		require.NotEmpty(s.t, op.again, "%v: %s", err, out)
		require.Contains(s.t, string(out), op.again)
	}
	e := s.open()
	s.requireNothingWrong(e, engine.CheckOptions{Deep: true})
	if op.done != nil {
		op.done(s.t, e)
	}
}

// requireRemovable removes everything: nothing may be left, on the disk or mounted.
func (s *scene) requireRemovable() {
	s.t.Helper()
	e, ctx := s.open(), s.t.Context()
	mounts, err := e.Mounts(ctx)
	require.NoError(s.t, err)
	for _, m := range mounts {
		require.NoError(s.t, e.Umount(ctx, m.ID))
	}
	for _, c := range s.containers(e) {
		require.NoError(s.t, e.RemoveContainer(ctx, c.Name, engine.RemoveOptions{Force: true, Volumes: true}))
	}
	for _, record := range records(s.t, e) {
		_, err := e.RemoveImage(ctx, string(record.ID), engine.RemoveImageOptions{Force: true})
		if !errors.Is(err, engine.ErrNoImage) {
			require.NoError(s.t, err)
		}
	}
	s.removeEntries(e)
	left := s.pruned(e)
	// Other programs that make a mount namespace have our mounts in it for a moment.
	for tries := 0; len(left) > 0 && tries < 200; tries++ {
		time.Sleep(20 * time.Millisecond)
		left = s.pruned(e)
	}
	require.Empty(s.t, left)
	mounted, err := os.ReadFile("/proc/thread-self/mountinfo")
	require.NoError(s.t, err)
	require.NotContains(s.t, string(mounted), s.run+"/")
	checked, err := e.Check(ctx, engine.CheckOptions{Deep: true})
	require.NoError(s.t, err)
	for _, f := range checked.Faults {
		require.Equal(s.t, store.KindContainer, f.Kind, f.Path) // the next container of that name takes it
	}
}

func (s *scene) removeEntries(e *engine.Engine) {
	s.t.Helper()
	lock, err := e.Store.Exclusive(s.t.Context())
	require.NoError(s.t, err)
	entries, err := e.Store.Entries()
	require.NoError(s.t, err)
	for _, x := range entries {
		require.NoError(s.t, e.Store.RemoveEntry(lock, x))
	}
	require.NoError(s.t, lock.Unlock())
}

// pruned lists what is left when all that nobody needs is removed.
func (s *scene) pruned(e *engine.Engine) (left []string) {
	s.t.Helper()
	_, err := e.Prune(s.t.Context(), engine.PruneFilter{All: true}, engine.PruneReport{})
	require.NoError(s.t, err)
	for _, dir := range []string{"layers", "remnants", "blobs/sha256", "images", "entries", "containers", "init", "partial", "recipes", "pins", "tmp"} {
		in, err := filepath.Glob(filepath.Join(s.root, dir, "*"))
		require.NoError(s.t, err)
		hidden, err := filepath.Glob(filepath.Join(s.root, dir, ".*"))
		require.NoError(s.t, err)
		left = append(append(left, in...), hidden...)
	}
	return left
}

// hasImages gives a predicate for operations.
func hasImages(want bool, names ...string) func(*testing.T, *engine.Engine) {
	return func(t *testing.T, e *engine.Engine) {
		t.Helper()
		for _, name := range names {
			_, err := e.Image(name)
			if want {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, engine.ErrNoImage)
			}
		}
	}
}

// hasContainer gives a predicate for operations.
func hasContainer(want bool, name string) func(*testing.T, *engine.Engine) {
	return func(t *testing.T, e *engine.Engine) {
		t.Helper()
		_, err := e.InspectContainer(t.Context(), name)
		if want {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, engine.ErrNoContainer)
		}
	}
}

func named(names ...string) func(string) bool {
	return func(name string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return strings.Contains(name, "/"+n+":") })
	}
}
