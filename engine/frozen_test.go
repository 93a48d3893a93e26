package engine_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

// frozenStore is the environment of a process that commits the container "c" of a store, "ROOT:RUN".
const frozenStore = "TARN_TEST_FROZEN_STORE"

// TestKilledCommitLeavesNobodyFrozen: a commit that is killed while it has paused the container leaves it so, until
// somebody looks. One that somebody else has paused stays paused.
func TestKilledCommitLeavesNobodyFrozen(t *testing.T) {
	if text := os.Getenv(frozenStore); text != "" {
		root, run, _ := strings.Cut(text, ":")
		e, err := engine.Open(engine.Options{Root: root, Run: run})
		if err == nil {
			_, err = e.Commit(context.Background(), "c", engine.CommitOptions{Pause: true})
		}
		panic(err) // it should have been killed
	}
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	c := h.startBox(`dd if=/dev/urandom of=/large bs=1M count=150 2> /dev/null; echo ready; while read x; do echo $x; done`)
	record, err := h.Store.Container("c")
	require.NoError(t, err)
	cgroup := "tarn-" + record.ID
	frozen := func() bool {
		frozen, err := container.Frozen(cgroup)
		require.NoError(t, err)
		return frozen
	}
	require.False(t, frozen())

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), frozenStore+"="+h.Store.Root()+":"+h.Store.Run())
	require.NoError(t, cmd.Start())
	for !frozen() {
		time.Sleep(time.Millisecond)
	}
	_, err = h.Containers(t.Context(), engine.ContainerFilter{})
	require.NoError(t, err)
	require.True(t, frozen(), "who only looks leaves it to the commit")
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.True(t, frozen())
	_, err = h.Containers(t.Context(), engine.ContainerFilter{})
	require.NoError(t, err)
	require.False(t, frozen())
	c.say("thawed")
	require.Equal(t, "thawed", c.line())

	thaw, err := container.Freeze(t.Context(), cgroup)
	require.NoError(t, err)
	h.commit("c", engine.CommitOptions{Pause: true})
	require.True(t, frozen())
	require.NoError(t, thaw())
	c.end()
}
