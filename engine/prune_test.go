package engine_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

// du is what du(1) says of a store, in bytes.
func du(t *testing.T, e *engine.Engine) int64 {
	t.Helper()
	// The disk may not have decided yet where to put what was just written.
	out, err := exec.CommandContext(t.Context(), "sync", "-f", e.Store.Root()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.CommandContext(t.Context(), "du", "-s", "--block-size=1", e.Store.Root()).Output()
	require.NoError(t, err)
	bytes, err := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
	require.NoError(t, err)
	return bytes
}

// requirePruned prunes, and holds what was said before against what du says afterwards.
func requirePruned(t *testing.T, e *engine.Engine, filter engine.PruneFilter) *engine.Pruned {
	t.Helper()
	before := du(t, e)
	plan, err := e.PlanPrune(t.Context(), filter)
	require.NoError(t, err)
	require.Equal(t, before, du(t, e), "planning changes nothing")
	var freed engine.Transfer
	pruned, err := e.Prune(t.Context(), filter, engine.PruneReport{
		Removed: func(removed *engine.Pruned) {
			require.Equal(t, plan.Bytes(), removed.Bytes())
			require.Zero(t, freed, "names go first")
		},
		Freed: func(now engine.Transfer) {
			require.GreaterOrEqual(t, now.Done, freed.Done)
			freed = now
		},
	})
	require.NoError(t, err)
	require.Equal(t, engine.Transfer{State: engine.Completed, Done: plan.Bytes(), Total: plan.Bytes()}, freed)
	require.Equal(t, plan.Untagged, pruned.Untagged)
	require.Equal(t, plan.Images, pruned.Images)
	const directory = 4096 // that of remnants, with the first of them
	require.InDelta(t, before-du(t, e), pruned.Bytes(), directory)
	// A file with more holes may need a block more to say where they are.
	require.InDelta(t, plan.Bytes(), pruned.Bytes(), float64(4096*(1+len(plan.Losses))))
	requireSound(t, e)
	again, err := e.PlanPrune(t.Context(), filter)
	require.NoError(t, err)
	require.Zero(t, again.Bytes(), "%+v", again)
	return pruned
}

func names(images ...string) []string { return images }

func TestPrune(t *testing.T) {
	h := newHoard(t, engine.Options{})
	label := func(name string, created int64, labels []string, contents ...string) {
		t.Setenv("SOURCE_DATE_EPOCH", strconv.FormatInt(created, 10))
		_, err := h.Import(t.Context(), bytes.NewReader(rootTar(t, contents...)), engine.ImportOptions{Name: name, Labels: labels})
		require.NoError(t, err)
	}
	label("old", 1000, nil, files(0, 20)...)
	label("kept", 1_000_000, []string{"keep=yes"}, append(files(10, 20), files(100, 105)...)...)
	label("", 2_000_000, nil, files(200, 230)...)
	label("young", 3_000_000, nil, files(5, 22)...)

	pruned := requirePruned(t, h.Engine, engine.PruneFilter{})
	require.Empty(t, pruned.Untagged)
	require.Len(t, pruned.Images, 1)
	require.Greater(t, pruned.Bytes(), int64(500_000))

	filter, err := engine.ParsePruneFilter([]string{"until=500000"}, true, time.Now())
	require.NoError(t, err)
	pruned = requirePruned(t, h.Engine, filter)
	require.Equal(t, names("old:latest"), pruned.Untagged)
	require.Less(t, pruned.Bytes(), int64(300_000), "much of it is lent")

	filter, err = engine.ParsePruneFilter([]string{"label!=keep"}, true, time.Now())
	require.NoError(t, err)
	pruned = requirePruned(t, h.Engine, filter)
	require.Equal(t, names("young:latest"), pruned.Untagged)

	filter, err = engine.ParsePruneFilter([]string{"label=keep=yes", "until=24h"}, true, time.Now())
	require.NoError(t, err)
	pruned = requirePruned(t, h.Engine, filter)
	require.Equal(t, names("kept:latest"), pruned.Untagged)
	requireEmpty(t, h.Engine, "layers")
	requireEmpty(t, h.Engine, "remnants")
	requireEmpty(t, h.Engine, "tmp")

	for _, bad := range []string{"until=yesterday", "size=3", "label"} {
		_, err := engine.ParsePruneFilter([]string{bad}, false, time.Now())
		require.ErrorIs(t, err, engine.ErrOption, bad)
	}
}

// TestPruneLeavesWhatIsUsed: what containers use, what another image was made from, and a layer that is
// being fetched; what was left over goes.
func TestPruneLeavesWhatIsUsed(t *testing.T) {
	h := richStore(t)
	partial, err := h.Store.Partial(t.Context(), image.DigestBytes([]byte("being fetched")))
	require.NoError(t, err)
	_, err = partial.Append().Write(make([]byte, 50_000))
	require.NoError(t, err)
	idle := filepath.Join(h.Store.Root(), "partial", "sha256-"+image.DigestBytes([]byte("nobody")).Hex())
	require.NoError(t, os.WriteFile(idle, make([]byte, 100_000), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(h.Store.Root(), "tmp", ".tmp-dead"), make([]byte, 70_000), 0o600))

	pruned := requirePruned(t, h.Engine, engine.PruneFilter{})
	require.GreaterOrEqual(t, pruned.Bytes(), int64(170_000))
	require.NoFileExists(t, idle)
	require.NoError(t, partial.Close())
	require.FileExists(t, filepath.Join(h.Store.Root(), "partial", "sha256-"+image.DigestBytes([]byte("being fetched")).Hex()))
	require.Equal(t, "hello\n", h.run("box", "still", "cat /v/hello", func(o *engine.RunOptions) { o.Volumes = []string{"vol:/v"} }))

	pruned = requirePruned(t, h.Engine, engine.PruneFilter{All: true})
	require.NotContains(t, pruned.Untagged, "box:latest")
	require.Contains(t, pruned.Untagged, "copied:latest")
	require.Contains(t, h.diff("worker"), "A /copy")
	images, err := h.Images(t.Context(), engine.ImageFilter{All: true})
	require.NoError(t, err)
	for _, img := range images {
		// An image of nothing counts as a step on the way to any other.
		require.True(t, img.Name.FamiliarName() == "box" || img.Size == 0)
	}
}

// TestPruneBesideOthers: images come, are used and go while others prune.
func TestPruneBesideOthers(t *testing.T) {
	testenv.RequireRoot(t)
	root, run := testenv.TarnRoot(t)
	var tars [4][]byte
	for i := range tars {
		tars[i] = rootTar(t, append(files(uint64(i)*3, uint64(i)*3+30), files(1000+uint64(i), 1001+uint64(i))...)...)
	}
	e, err := engine.Open(engine.Options{Root: root, Run: run})
	require.NoError(t, err)
	ctx, done := context.WithCancel(t.Context())
	var working, pruning sync.WaitGroup
	for worker := range 3 {
		working.Go(func() {
			if err := importAndRemove(t.Context(), root, run, worker, tars[:]); err != nil {
				t.Errorf("worker %d: %v", worker, err)
			}
		})
	}
	pruning.Go(func() {
		for ctx.Err() == nil {
			_, err := e.PlanPrune(ctx, engine.PruneFilter{})
			if err == nil {
				_, err = e.Prune(ctx, engine.PruneFilter{}, engine.PruneReport{})
			}
			if err != nil && ctx.Err() == nil {
				t.Errorf("prune: %v", err)
				return
			}
		}
	})
	working.Wait()
	done()
	pruning.Wait()
	requirePruned(t, e, engine.PruneFilter{All: true})
	requireEmpty(t, e, "layers")
	requireEmpty(t, e, "tmp")
}

// TestPruneWaitsForNobody: a pull that is in the middle of its last layer, and a container that runs, neither wait
// for a prune nor lose anything by it.
func TestPruneWaitsForNobody(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	first, last := gzipLayer(t, layerTar(t, 1, 100_000)), gzipLayer(t, layerTar(t, 2, 300_000))
	remote{t, reg.Host}.pushImage("app", "v1", image.HostPlatform(), first, last)
	proxy := testenv.StartProxy(t, reg.Host)
	var stall sync.Once
	stalled, goOn := make(chan struct{}), make(chan struct{})
	proxy.ChangeBodies(func(r *http.Request, body io.Reader) io.Reader {
		if !strings.HasSuffix(r.URL.Path, string(image.DigestBytes(last.blob))) {
			return body
		}
		wait := readerFunc(func([]byte) (int, error) {
			stall.Do(func() { close(stalled) })
			<-goOn
			return 0, io.EOF
		})
		return io.MultiReader(io.LimitReader(body, 100_000), wait, body)
	})
	h.importFile("box", testenv.BusyboxTar(t))
	box := h.startBox("echo ready; read line; cat /etc/passwd")
	pulled := make(chan error, 1)
	go func() {
		_, err := h.Pull(t.Context(), proxy.Host+"/app:v1", engine.PullOptions{})
		pulled <- err
	}()
	<-stalled
	for _, all := range []bool{false, true} {
		_, err := h.Prune(t.Context(), engine.PruneFilter{All: all}, engine.PruneReport{})
		require.NoError(t, err)
	}
	require.Empty(t, pulled, "it is in the middle, still")
	box.say("go on")
	require.Equal(t, "root:x:0:0:root:/root:/bin/sh", box.line())
	box.end()
	close(goOn)
	require.NoError(t, <-pulled)
	requireSound(t, h.Engine)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
