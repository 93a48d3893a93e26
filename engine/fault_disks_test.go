package engine_test

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys/faultpoint"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

// smallDisk is a file system that is easily full.
type smallDisk struct {
	driver string
	errno  syscall.Errno // that says that it is full; 0 is ENOSPC
	make   func(t *testing.T, dir string)
	fill   func(t *testing.T, dir string, level int) // leaves more room with each level
}

func smallDisks() map[string]smallDisk {
	return map[string]smallDisk{
		"ext4":        {make: loopDisk("80M", "mkfs.ext4", "-q", "-F", "-m", "0"), fill: fillBytes},
		"ext4 inodes": {make: loopDisk("80M", "mkfs.ext4", "-q", "-F", "-N", "2000"), fill: fillInodes},
		"xfs":         {make: loopDisk("300M", "mkfs.xfs", "-q", "-f"), fill: fillBytes},
		"btrfs, quota": {errno: syscall.EDQUOT, make: func(t *testing.T, dir string) {
			t.Helper()
			loopDisk("300M", "mkfs.btrfs", "-q", "-f")(t, dir)
			do(t, "btrfs", "quota", "enable", dir)
			do(t, "btrfs", "qgroup", "limit", "80M", dir)
		}, fill: fillBytes},
		"tmpfs": {driver: rootfs.Dirs, make: func(t *testing.T, dir string) {
			t.Helper()
			do(t, "mount", "-t", "tmpfs", "-o", "size=80m,mode=0700", "tmpfs", dir)
		}, fill: fillBytes},
	}
}

func do(t *testing.T, program string, args ...string) {
	t.Helper()
	testenv.RequireTool(t, program)
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	require.NoError(t, err, "%s %q: %s", program, args, out)
}

// loopDisk mounts a new file system, which lies in a file.
func loopDisk(size string, mkfs ...string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		disk := filepath.Join(testenv.TempDir(t), "disk")
		do(t, "truncate", "-s", size, disk)
		do(t, mkfs[0], append(mkfs[1:], disk)...)
		do(t, "mount", "-o", "loop", disk, dir)
	}
}

const filler = "filler"

// fillBytes leaves nothing, or 4 KiB x 4^level.
func fillBytes(t *testing.T, dir string, level int) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, filler), os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	defer f.Close()
	size := int64(0)
	for step := int64(64 << 20); step >= 4096; {
		if err := syscall.Fallocate(int(f.Fd()), 0, size, step); err == nil {
			size += step
		} else {
			step /= 2
		}
	}
	if level > 0 {
		require.NoError(t, f.Truncate(max(0, size-4096<<(2*level))))
	}
	require.NoError(t, f.Sync())
}

// fillInodes leaves as many inodes as level says.
func fillInodes(t *testing.T, dir string, level int) {
	t.Helper()
	in := filepath.Join(dir, filler)
	require.NoError(t, os.Mkdir(in, 0o700))
	for n := 0; ; n++ {
		f, err := os.OpenFile(filepath.Join(in, fmt.Sprint(n)), os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			f.Close()
			continue
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
		for i := range level {
			require.NoError(t, os.Remove(filepath.Join(in, fmt.Sprint(i))))
		}
		return
	}
}

// TestFullDisks runs commands on disks that have no room, or little: who needs more says so, and all that was committed
// is whole; who gives room back can do so.
func TestFullDisks(t *testing.T) {
	r := chooser(t)
	_, all := faultPoints(t)
	eachOperation(t, func(s *scene, op *operation) {
		names := slices.Sorted(maps.Keys(smallDisks()))
		levels := []int{0, 1, 2, 3, 4, 5}
		if !all {
			names = []string{names[r.IntN(len(names))]}
			levels = []int{r.IntN(2), 2 + r.IntN(4)}
		}
		for _, name := range names {
			if op.erofs && smallDisks()[name].driver == rootfs.Dirs {
				continue
			}
			s.t.Run(name, func(t *testing.T) { s.in(t).onSmallDisk(op, smallDisks()[name], levels) })
		}
	})
}

// in gives the same scene for a part of its test.
func (s *scene) in(t *testing.T) *scene {
	t.Helper()
	part := *s
	part.t = t
	return &part
}

func (s *scene) onSmallDisk(op *operation, disk smallDisk, levels []int) {
	s.t.Helper()
	dir := testenv.TempDir(s.t)
	disk.make(s.t, dir)
	s.root = filepath.Join(dir, "root")
	here := *op
	if here.driver == "" {
		here.driver = disk.driver
	}
	for _, level := range levels {
		s.reset(&here)
		disk.fill(s.t, dir, level)
		out, err := s.command(&here, op.args).CombinedOutput()
		require.NoError(s.t, os.RemoveAll(filepath.Join(dir, filler)))
		do(s.t, "sync", "-f", dir) // for btrfs, to count anew
		s.at("disk full", faultpoint.Call{N: level, Name: "level"}, string(out), func() {
			if err != nil {
				require.False(s.t, op.frees)
				requireClearError(s.t, op, string(out), err, cmp.Or(disk.errno, syscall.ENOSPC))
			}
			if !op.heals {
				s.requireWhole(op)
				s.requireCollected(s.open())
			}
			s.requireDone(&here)
			s.requireRemovable()
		})
	}
}

// TestReadOnlyDisk: of a store on a disk that cannot be written all can be seen, and whoever would change it says
// why that cannot be.
func TestReadOnlyDisk(t *testing.T) {
	eachOperation(t, func(s *scene, op *operation) {
		disk := testenv.TempDir(s.t)
		loopDisk("80M", "mkfs.ext4", "-q", "-F")(s.t, disk)
		s.root = filepath.Join(disk, "root")
		s.reset(op)
		do(s.t, "mount", "-o", "remount,ro", disk)
		if !op.heals {
			s.requireWhole(op)
		}
		if out, err := s.command(op, op.args).CombinedOutput(); err != nil {
			requireClearError(s.t, op, string(out), err, syscall.EROFS)
		} else if op.done != nil {
			op.done(s.t, s.open())
		}
		testenv.UnmountBeneath(s.t, s.run) // they keep the disk from being written
		do(s.t, "mount", "-o", "remount,rw", disk)
		s.requireDone(op)
		s.requireRemovable()
	})
}
