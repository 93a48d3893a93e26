package rootfs_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

// TestFilesystems keeps a store on each file system, with the driver that is used where nobody
// chose one.
func TestFilesystems(t *testing.T) {
	for name, tc := range map[string]struct {
		make   func(t *testing.T, point string)
		mounts int  // EROFS mounts for two layers: 0 where the kernel refuses
		direct bool // contents are read past the tar's page cache
	}{
		"ext4":  {make: loopFilesystem("mkfs.ext4", "-q", "-F"), mounts: 2, direct: true},
		"xfs":   {make: loopFilesystem("mkfs.xfs", "-q", "-f"), mounts: 2, direct: true},
		"btrfs": {make: loopFilesystem("mkfs.btrfs", "-q", "-f"), mounts: 2, direct: true},
		// On a disk with such blocks the kernel refuses to read a tar's at 512.
		"ext4 on blocks of 4096": {make: bigBlocks, mounts: 2},
		"tmpfs":                  {make: tmpfs},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.RequireErofsFile(t)
			testenv.RequireTool(t, "tar")
			base := filepath.Join(testenv.TempDir(t), "point")
			require.NoError(t, os.Mkdir(base, 0o700))
			tc.make(t, base)
			s := newSite(t, rootfs.Auto, base)
			layers := storeOddLayers(t, s)
			lowers := mountAll(t, s.driver, layers...)

			points := mountsBelow(t, base)
			require.Len(t, points, tc.mounts)
			for _, point := range points {
				options := mountOptions(t, point)
				require.Equal(t, tc.direct, strings.Contains(options, "directio"), options)
			}
			for i, l := range layers {
				want := filepath.Join(base, fmt.Sprint("want", i))
				untar(t, tarPath(l), want)
				// The tars say nothing about the root directory, the first that is listed.
				require.Equal(t, listing(t, want)[1:], listing(t, sys.FDPath(lowers[len(lowers)-1-i]))[1:])
			}
			st := overlayOn(t, base, lowers, rootfs.OverlayOptions{})
			require.NoError(t, os.Chmod(filepath.Join(st.path, "large"), 0o600))
			require.NoError(t, os.Remove(filepath.Join(st.path, "d", "5")))
			require.NoFileExists(t, filepath.Join(st.path, "d", "5"))
			require.NoError(t, st.mount.Close())
			for _, f := range append(lowers, st.upper, st.work) {
				require.NoError(t, f.Close())
			}
			s.release(t, layers...)
		})
	}
}

// storeOddLayers stores two layers whose contents begin at odd multiples of 512 and end anywhere.
func storeOddLayers(t *testing.T, s site) []rootfs.Layer {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	content := func(n int) []byte {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		return data
	}
	entries := []entry{{Header: dir("d", 0o755)}}
	for i := range 100 {
		entries = append(entries, entry{Header: file(fmt.Sprint("d/", i), 0o644), content: content(random.IntN(20_000))})
	}
	return []rootfs.Layer{
		storeEntries(t, s.root, entries...),
		storeEntries(t, s.root, entry{Header: file("large", 0o644), content: content(3<<20 + 17)}),
	}
}

func mountOptions(t *testing.T, point string) string {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(info)) {
		if fields := strings.Fields(line); fields[4] == point {
			return fields[len(fields)-1]
		}
	}
	t.Fatalf("nothing is mounted at %s", point)
	return ""
}

// sparseFile makes a file that is big enough for every file system's smallest.
func sparseFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(testenv.TempDir(t), "disk")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(400<<20))
	return name
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	testenv.RequireTool(t, program)
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	require.NoError(t, err, "%s %q: %s", program, args, out)
	return strings.TrimSpace(string(out))
}

// mountDevice mounts until the test ends.
func mountDevice(t *testing.T, point string, args ...string) {
	t.Helper()
	run(t, "mount", append(args, point)...)
	t.Cleanup(func() { require.NoError(t, sys.Unmount(point)) })
}

func loopFilesystem(mkfs string, args ...string) func(*testing.T, string) {
	return func(t *testing.T, point string) {
		t.Helper()
		disk := sparseFile(t)
		testenv.RequireFilesystem(t, strings.TrimPrefix(mkfs, "mkfs."))
		run(t, mkfs, append(args, disk)...)
		mountDevice(t, point, "-o", "loop", disk)
	}
}

func bigBlocks(t *testing.T, point string) {
	t.Helper()
	disk := sparseFile(t)
	device := run(t, "losetup", "--find", "--show", "--sector-size", "4096", disk)
	t.Cleanup(func() {
		out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "losetup", "--detach", device).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	run(t, "mkfs.ext4", "-q", "-F", device)
	mountDevice(t, point, device)
}

func tmpfs(t *testing.T, point string) {
	t.Helper()
	mountDevice(t, point, "-t", "tmpfs", "tmpfs")
}
