package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

// cycleUsers start and stop containers at a time.
const cycleUsers = 4

// TestCycles has containers started and stopped again and again by several users, under load, while tarn's own processes,
// commands and monitors, are killed at random. In the end every container is listed as it is, and when all are
// removed, nothing of them is left: no process, mount, cgroup, network, socket or file.
// TARN_CYCLES is how often, TARN_CYCLES_SEED what chance begins with.
func TestCycles(t *testing.T) {
	testenv.RequireErofsFile(t)
	count := int64(number(t, "TARN_CYCLES", 40))
	seed := number(t, "TARN_CYCLES_SEED", uint64(time.Now().UnixNano()))
	t.Logf("TARN_CYCLES_SEED=%d", seed)
	c := &cycles{t: t}
	c.root, c.run = testenv.TarnRoot(t)
	output(t, tarn(t, c.root, c.run, "import", "--name", "box", testenv.BusyboxTar(t)))
	output(t, tarn(t, c.root, c.run, "network", "create", "net"))
	before := links(t)

	ctx, quiet := context.WithCancel(t.Context())
	var others, users sync.WaitGroup
	others.Go(func() { c.kill(ctx, rand.New(rand.NewPCG(seed, 0))) })
	others.Go(func() { keepBusy(ctx) })
	var begun atomic.Int64
	for id := range cycleUsers {
		u := &cycler{cycles: c, id: id, r: rand.New(rand.NewPCG(seed, uint64(id)+1))}
		users.Go(func() {
			for begun.Add(1) <= count {
				u.cycle()
			}
		})
	}
	users.Wait()
	quiet()
	others.Wait()
	t.Logf("%d commands, %d of them killed; %d monitors killed", c.commands.Load(), c.killed.Load(), c.monitors.Load())
	c.verifyListed()
	c.verifyGone(before)
}

type cycles struct {
	t                          *testing.T
	root, run                  string
	commands, killed, monitors atomic.Int64
}

// keepBusy keeps the processors busy, in moments.
func keepBusy(ctx context.Context) {
	for ctx.Err() == nil {
		for until := time.Now().Add(20 * time.Millisecond); time.Now().Before(until); {
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kill kills tarn's own processes at random.
func (c *cycles) kill(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
		own := c.own()
		if len(own) == 0 {
			continue
		}
		victim := own[r.IntN(len(own))]
		if victim.monitor {
			c.monitors.Add(1)
		}
		_ = syscall.Kill(victim.pid, syscall.SIGKILL)
	}
}

type process struct {
	pid     int
	monitor bool
}

// own lists tarn's processes that work with this store: they have it in their environment, which containers do not
// get.
func (c *cycles) own() (list []process) {
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(c.t, err)
	for _, name := range environments {
		text, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(text, []byte("TARN_ROOT="+c.root+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(name, "/")[2])
		require.NoError(c.t, err)
		args, err := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
		if err == nil {
			list = append(list, process{pid, bytes.Contains(args, []byte("monitor"))})
		}
	}
	return list
}

// cycler is one user.
type cycler struct {
	*cycles

	id int
	r  *rand.Rand
}

// cycle starts a container in one of the ways there are, and ends it in one.
func (u *cycler) cycle() {
	name := fmt.Sprintf("c%d-%d", u.id, u.r.IntN(3))
	network := []string{"none", "none", "net", "bridge"}[u.r.IntN(4)]
	args := []string{"run", "-d", "--name", name, "--network", network}
	if u.r.IntN(3) == 0 {
		args = append(args, "--rm")
	} else if u.r.IntN(3) == 0 {
		args = append(args, "--restart", "on-failure:2")
	}
	program := []string{"sleep 1000", "trap 'exit 0' TERM; while :; do sleep 0.02; done", "sleep 0.05; exit 3", "echo done"}[u.r.IntN(4)]
	args = append(args, "box", "sh", "-c", program)
	if u.r.IntN(6) == 0 { // in the foreground
		args = slices.DeleteFunc(args, func(arg string) bool { return arg == "-d" })
		args[len(args)-1] = "sleep 0.05"
	}
	u.tarn(args...)
	ways := [][]string{
		{"exec", name, "true"},
		{"stop", "-t", "1", name},
		{"kill", name},
		{"restart", "-t", "0", name},
		{"start", name},
		{"pause", name},
		{"unpause", name},
		{"ps", "-a"},
		{"logs", name},
		{"inspect", name},
	}
	for range u.r.IntN(4) {
		u.tarn(ways[u.r.IntN(len(ways))]...)
	}
	if u.r.IntN(2) == 0 {
		u.tarn("stop", "-t", "0", name)
	}
	if u.r.IntN(2) == 0 {
		u.tarn("rm", "-f", name)
	}
}

// tarn runs a command. It may fail, for much of what it meets was killed; but not by itself.
func (u *cycler) tarn(args ...string) {
	u.commands.Add(1)
	out, err := tarn(u.t, u.root, u.run, args...).CombinedOutput()
	exit, failed := errors.AsType[*exec.ExitError](err)
	if failed && exit.ExitCode() < 0 {
		u.killed.Add(1)
		return
	}
	if bytes.Contains(out, []byte("goroutine ")) || bytes.Contains(out, []byte("panic")) {
		u.t.Errorf("%v: %s", args, out)
	}
}

// verifyListed compares what is listed with what is there.
func (c *cycles) verifyListed() {
	list := func() map[string]string {
		states := make(map[string]string)
		for line := range strings.Lines(output(c.t, tarn(c.t, c.root, c.run, "ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}"))) {
			id, state, _ := strings.Cut(strings.TrimSpace(line), " ")
			states[id] = state
		}
		return states
	}
	// Restarts come to an end by themselves.
	require.Eventually(c.t, func() bool {
		for _, state := range list() {
			if state == "restarting" {
				return false
			}
		}
		return true
	}, time.Hour, 50*time.Millisecond)
	for id := range list() {
		// The monitor that was killed last takes its container with it, in a moment.
		require.Eventually(c.t, func() bool {
			lives := len(cgroupOf(c.t, id)) > 0
			state := list()[id]
			return lives == (state == "running" || state == "paused")
		}, time.Minute, 20*time.Millisecond, "%s is not listed as it is", id)
		switch state := list()[id]; state {
		case "running":
			output(c.t, tarn(c.t, c.root, c.run, "exec", id, "true"))
		case "paused":
			output(c.t, tarn(c.t, c.root, c.run, "unpause", id))
		default:
			require.Nil(c.t, cgroupOf(c.t, id), "%s is listed as %s", id, state)
		}
	}
	monitors := 0
	for _, p := range c.own() {
		if p.monitor {
			monitors++
		}
	}
	running := strings.Fields(output(c.t, tarn(c.t, c.root, c.run, "ps", "-q")))
	require.Len(c.t, running, monitors, "monitors and running containers")
}

// cgroupOf gives the processes in a container's cgroups; nil if there is none.
func cgroupOf(t *testing.T, id string) (processes []string) {
	t.Helper()
	dirs, err := filepath.Glob("/sys/fs/cgroup/tarn-" + id)
	require.NoError(t, err)
	more, err := filepath.Glob("/sys/fs/cgroup/*/tarn-" + id)
	require.NoError(t, err)
	for _, dir := range append(dirs, more...) {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
			continue // removed in this moment
		}
		require.NoError(t, err)
		processes = append(processes, strings.Fields(string(text))...)
		if processes == nil {
			processes = []string{}
		}
	}
	return processes
}

// links lists the network's links on the host's side.
func links(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "tv") { // not the bridges of networks
			names = append(names, entry.Name())
		}
	}
	return names
}

// verifyGone removes all containers. Nothing of any is left.
func (c *cycles) verifyGone(linksBefore []string) {
	t := c.t
	ids := strings.Fields(output(t, tarn(t, c.root, c.run, "ps", "-aq", "--no-trunc")))
	if len(ids) > 0 {
		output(t, tarn(t, c.root, c.run, append([]string{"rm", "-f"}, ids...)...))
	}
	require.Empty(t, output(t, tarn(t, c.root, c.run, "ps", "-aq")))
	output(t, tarn(t, c.root, c.run, "network", "ls")) // which collects
	require.Eventually(t, func() bool { return len(c.own()) == 0 }, time.Hour, 10*time.Millisecond)
	for _, dir := range []string{
		filepath.Join(c.root, "containers"), filepath.Join(c.root, "names"), filepath.Join(c.run, "attach"),
		filepath.Join(c.run, "networks", "containers"),
	} {
		entries, err := os.ReadDir(dir)
		if !errors.Is(err, fs.ErrNotExist) {
			require.NoError(t, err)
		}
		require.Empty(t, entries, dir)
	}
	text, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		at := strings.Fields(line)[1]
		if strings.HasPrefix(at, c.root+"/") || strings.HasPrefix(at, c.run+"/") {
			require.True(t, strings.HasPrefix(at, filepath.Join(c.run, "layers")), line) // they stay mounted
		}
	}
	require.Eventually(t, func() bool { return slices.Equal(linksBefore, links(t)) }, time.Minute, 10*time.Millisecond, "links")
	output(t, tarn(t, c.root, c.run, "check"))
}
