package engine_test

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/diskusage"
	"github.com/tarnfs/tarn/internal/sys/faultpoint"
	"github.com/tarnfs/tarn/rootfs"
)

// trouble is how a disk fails.
type trouble struct {
	name  string
	errno syscall.Errno
	once  bool // only one call fails; else all from then on
	hits  func(faultpoint.Kind) bool
}

func troubles() []trouble {
	needsRoom := func(k faultpoint.Kind) bool {
		return k == faultpoint.Write || k == faultpoint.Make || k == faultpoint.Rename
	}
	onDisk := func(k faultpoint.Kind) bool { return k != faultpoint.Mount }
	return []trouble{
		{"disk full", syscall.ENOSPC, false, needsRoom},
		{"quota", syscall.EDQUOT, false, needsRoom},
		{"read-only", syscall.EROFS, false, func(k faultpoint.Kind) bool { return needsRoom(k) || k == faultpoint.Remove }},
		{"one I/O error", syscall.EIO, true, func(faultpoint.Kind) bool { return true }},
		{"I/O errors", syscall.EIO, false, onDisk},
	}
}

// strike decides that the call with that number fails if it is of a kind that the trouble hits, and maybe all
// that follow. hit tells whether there was one.
func (x *trouble) strike(point int, hit *bool) func(faultpoint.Call) faultpoint.Verdict {
	return func(c faultpoint.Call) faultpoint.Verdict {
		if c.N < point || x.once && c.N > point || !x.hits(c.Kind) {
			return faultpoint.Verdict{}
		}
		*hit = true
		return faultpoint.Verdict{Errno: x.errno}
	}
}

// TestErrorsAtEachCall has the calls of commands that change a file system fail, as they do on a disk that is full,
// broken or not to be written any more. The command says so in one line, or did its work although; all that was
// committed is whole, the room is given back, and when the trouble is over the same command does its work.
func TestErrorsAtEachCall(t *testing.T) {
	r := chooser(t)
	eachOperation(t, func(s *scene, op *operation) {
		n := s.count(op, nothing)
		usual := s.usualSize(op)
		failed, tried := 0, 0
		for i, point := range choose(s.t, r, n) {
			x := troubles()[(i+r.IntN(2))%len(troubles())]
			s.reset(op)
			var first faultpoint.Call
			hit := false
			strike := x.strike(point, &hit)
			out, err := s.watch(op, func(c faultpoint.Call) faultpoint.Verdict {
				verdict := strike(c)
				if verdict.Errno != 0 && first.N == 0 {
					first = c
				}
				return verdict
			})
			if !hit {
				continue
			}
			tried++
			s.at(x.name, first, out, func() {
				if err != nil {
					failed++
					requireClearError(s.t, op, out, err, x.errno)
				} else if op.done != nil {
					op.done(s.t, s.open())
				}
				if op.heals {
					s.requireDone(op)
					s.requireWhole(op)
				} else {
					s.requireWhole(op)
					s.requireCollected(s.open())
					if !s.hasMore() {
						require.LessOrEqual(s.t, s.sizeUnused(), usual+slack)
					}
					s.requireDone(op)
				}
				s.requireRemovable()
			})
		}
		s.t.Logf("%d errors at %d calls, %d of them told", tried, n, failed)
	})
}

// hasMore tells whether there are images or containers that were not there before, besides the next command's: of
// several, some may be done.
func (s *scene) hasMore() bool {
	s.t.Helper()
	e := s.open()
	return len(records(s.t, e)) > len(s.trees)+1 || len(s.containers(e)) > len(s.diffs)
}

// slack is what directories that have grown take, in bytes.
const slack = 64 << 10

// usualSize is what the store takes after the next command, if the operation is not done.
func (s *scene) usualSize(op *operation) int64 {
	s.t.Helper()
	if op.heals {
		return 0
	}
	s.reset(op)
	s.requireCollected(s.open())
	usual := s.sizeUnused()
	if op.driver == rootfs.Dirs { // what it extracts stays with the layers
		s.requireDone(op)
		usual = max(usual, s.sizeUnused())
	}
	return usual
}

// sizeUnused is what the store takes when what nothing refers to is gone, in bytes.
func (s *scene) sizeUnused() int64 {
	s.t.Helper()
	_, err := s.open().Prune(s.t.Context(), engine.PruneFilter{}, engine.PruneReport{})
	require.NoError(s.t, err)
	size, err := diskusage.Of(s.t.Context(), s.root)
	require.NoError(s.t, err)
	return size
}

// requireClearError wants a line that says what is wrong, for each object of the command at most.
func requireClearError(t *testing.T, op *operation, out string, err error, errno syscall.Errno) {
	t.Helper()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	// The last is that of a container which is killed because nobody would find it.
	require.Contains(t, []int{1, 125, 126, 127, 137}, exit.ExitCode(), out)
	told := 0
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "tarn: ") {
			told++
		}
	}
	require.NotZero(t, told, out)
	text := errno.Error()
	if errno == syscall.EROFS {
		text = "read-only" // overlayfs has words of its own
	}
	require.Contains(t, out, text) // not in that line if it is about several objects
	require.LessOrEqual(t, told, max(1, len(op.args)-1), out)
	require.NotContains(t, out, "goroutine")
}
