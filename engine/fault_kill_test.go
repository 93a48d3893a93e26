package engine_test

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys/faultpoint"
)

// faultPoints tells how many points of each operation are tried: TARN_FAULT_POINTS, which may be "all", or few.
func faultPoints(t *testing.T) (n int, all bool) {
	t.Helper()
	text := os.Getenv("TARN_FAULT_POINTS")
	switch text {
	case "":
		return 5, false
	case "all":
		return 0, true
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n, false
}

// chooser chooses points to be tried.
func chooser(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TARN_FAULT_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("TARN_FAULT_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// choose gives numbers from 1 to n: all of them, or some, one from each stretch of the same length.
func choose(t *testing.T, r *rand.Rand, n int) []int {
	t.Helper()
	some, all := faultPoints(t)
	if all {
		some = n
	}
	some = min(some, n)
	var points []int
	for i := range some {
		from, to := i*n/some, (i+1)*n/some
		points = append(points, 1+from+r.IntN(to-from))
	}
	return points
}

// eachOperation runs a test for each operation, or for that of TARN_FAULT_OPERATION.
func eachOperation(t *testing.T, test func(s *scene, op *operation)) {
	t.Helper()
	rich := richStore(t)
	tarn := buildTarn(t)
	for _, op := range operations(t, rich) {
		if only := os.Getenv("TARN_FAULT_OPERATION"); only != "" && only != op.name {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			s := newScene(t, rich, tarn)
			s.prepare(op)
			test(s, op)
		})
	}
}

// count runs the operation once with what fails that else says to fail, and counts its points.
func (s *scene) count(op *operation, fails func(faultpoint.Call) syscall.Errno) (n int) {
	s.t.Helper()
	s.reset(op)
	out, err := s.watch(op, func(c faultpoint.Call) faultpoint.Verdict {
		n = c.N
		return faultpoint.Verdict{Errno: fails(c)}
	})
	require.NoError(s.t, err, out)
	s.requireDone(op)
	return n
}

// TestKilledAtEachCall kills commands before each of their calls that change a file system or the tree of
// mounts, and so after each: all that was committed is whole, what was to be is whole or absent, the next
// command removes what is left over, and the same command does its work then.
func TestKilledAtEachCall(t *testing.T) {
	r := chooser(t)
	eachOperation(t, func(s *scene, op *operation) { s.killAtEachCall(op, r, nothing) })
}

// TestKilledWithoutRoom does the same with commands that give room back, on a disk that has none at all.
func TestKilledWithoutRoom(t *testing.T) {
	r := chooser(t)
	eachOperation(t, func(s *scene, op *operation) {
		if op.frees {
			s.killAtEachCall(op, r, s.withoutRoom)
		}
	})
}

// withoutRoom takes calls as the file systems of TestFullDisks do, at worst.
func (s *scene) withoutRoom(c faultpoint.Call) syscall.Errno {
	path := c.Paths[len(c.Paths)-1]
	if !strings.HasPrefix(path, s.root+"/") {
		return 0
	}
	_, err := os.Lstat(path)
	opens := c.Kind == faultpoint.Make && err == nil
	punches := c.Name == "fallocate" || c.Name == "ftruncate"
	if c.Kind == faultpoint.Rename || c.Kind == faultpoint.Make && !opens || c.Kind == faultpoint.Write && !punches {
		return syscall.ENOSPC
	}
	return 0
}

// nothing fails.
func nothing(faultpoint.Call) syscall.Errno { return 0 }

func (s *scene) killAtEachCall(op *operation, r *rand.Rand, fails func(faultpoint.Call) syscall.Errno) {
	s.t.Helper()
	n := s.count(op, fails)
	points := choose(s.t, r, n)
	for _, point := range points {
		s.reset(op)
		var last faultpoint.Call
		out, err := s.watch(op, func(c faultpoint.Call) faultpoint.Verdict {
			last = c
			return faultpoint.Verdict{Kill: c.N == point, Errno: fails(c)}
		})
		// Which thread is how far differs from run to run, so it may have ended before.
		if last.N == point {
			requireKilled(s.t, err)
		}
		s.at("killed", last, out, func() {
			if op.heals { // it was not whole before
				s.requireDone(op)
				s.requireWhole(op)
			} else {
				s.requireWhole(op)
				s.requireCollected(s.open())
				s.requireDone(op)
			}
			s.requireRemovable()
		})
	}
	s.t.Logf("killed at %d of %d calls", len(points), n)
}

func requireKilled(t *testing.T, err error) {
	t.Helper()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	status, ok := exit.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	require.Equal(t, syscall.SIGKILL, status.Signal(), err)
}

// at says with a failure of check what happened to the command, and where.
func (s *scene) at(what string, call faultpoint.Call, out string, check func()) {
	s.t.Helper()
	defer func() {
		if s.t.Failed() {
			s.t.Logf("%s at call %s; it said: %s", what, call, out)
		}
	}()
	check()
}
