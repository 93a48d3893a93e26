package powerdisk_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/internal/powerdisk"
	"github.com/tarnfs/tarn/internal/testenv"
)

// lab mounts disks until the test ends.
type lab struct {
	t      *testing.T
	server *powerdisk.Server
	fsType string
	count  int
}

func newLab(t *testing.T, fsType string) *lab {
	t.Helper()
	testenv.RequirePowerDisk(t, fsType)
	server, err := powerdisk.Serve(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return &lab{t: t, server: server, fsType: fsType}
}

func (l *lab) mkfs(d *powerdisk.Disk) {
	l.t.Helper()
	path := l.server.Add("new", d)
	out, err := exec.CommandContext(l.t.Context(), "mkfs."+l.fsType, "-q", path).CombinedOutput()
	require.NoError(l.t, err, "%s", out)
	l.server.Remove("new")
}

// mount gives the directory, and what unmounts it.
func (l *lab) mount(d *powerdisk.Disk) (dir string, unmount func()) {
	l.t.Helper()
	l.count++
	name := fmt.Sprintf("disk%d", l.count)
	dir = l.t.TempDir()
	options := ""
	if l.fsType == "xfs" {
		options = "nouuid"
	}
	require.NoError(l.t, powerdisk.Mount(l.server.Add(name, d), l.fsType, dir, options))
	mounted := true
	unmount = func() {
		if mounted {
			require.NoError(l.t, unix.Unmount(dir, 0))
			mounted = false
		}
	}
	l.t.Cleanup(unmount)
	return dir, unmount
}

// TestWhatIsSyncedStays is the promise that tests of power cuts rest on: the flushes of a real file system
// arrive, what was synced is there after every cut, and what was not is not after some.
func TestWhatIsSyncedStays(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			l := newLab(t, fsType)
			disk := powerdisk.New(320 << 20)
			l.mkfs(disk)
			dir, _ := l.mount(disk)
			r := rand.New(rand.NewPCG(1, 2))
			lost := 0
			for i := range 12 {
				synced, loose := fmt.Sprintf("synced%d", i), fmt.Sprintf("loose%d", i)
				content := bytes.Repeat([]byte{byte(i + 1)}, 50_000)
				require.NoError(t, os.WriteFile(filepath.Join(dir, loose), content, 0o600))
				f, err := os.OpenFile(filepath.Join(dir, synced), os.O_CREATE|os.O_WRONLY, 0o600)
				require.NoError(t, err)
				_, err = f.Write(content)
				require.NoError(t, err)
				before := disk.Flushes()
				require.NoError(t, f.Sync())
				require.Greater(t, disk.Flushes(), before, "fsync of %s is no flush of the disk", fsType)
				require.NoError(t, f.Close())

				cut, fate := disk.Cut(r)
				after, unmount := l.mount(cut)
				got, err := os.ReadFile(filepath.Join(after, synced))
				require.NoError(t, err, fate)
				require.True(t, bytes.Equal(content, got), fate)
				if got, err := os.ReadFile(filepath.Join(after, loose)); err != nil || !bytes.Equal(content, got) {
					lost++
				}
				unmount()
			}
			require.Positive(t, lost, "nothing was ever lost: these are no power cuts")
		})
	}
}

// TestCut looks at all fates of a few writes.
func TestCut(t *testing.T) {
	testenv.RequirePowerDisk(t)
	server, err := powerdisk.Serve(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	disk := powerdisk.New(16 << 12)
	f, err := os.OpenFile(server.Add("disk", disk), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	put := func(at int64, size int, b byte) {
		_, err := f.WriteAt(bytes.Repeat([]byte{b}, size), at)
		require.NoError(t, err)
	}
	put(0, 8192, 'a')
	require.NoError(t, f.Sync())
	put(1000, 5000, 'b')
	put(4096, 512, 'c')
	require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 6144, 1024))
	_, err = f.WriteAt([]byte("x"), 16<<12)
	require.Error(t, err, "beyond the end")

	shown := make([]byte, 16<<12)
	_, err = f.ReadAt(shown, 0)
	require.NoError(t, err)
	require.Equal(t, "abbcbaa\x00a", string([]byte{shown[999], shown[1000], shown[4095], shown[4096], shown[5999], shown[6000], shown[6143], shown[6144], shown[7168]}))

	r := rand.New(rand.NewPCG(3, 4))
	fates := map[string]bool{}
	for i := range 300 {
		cut, fate := disk.Cut(r)
		name := fmt.Sprintf("cut%d", i)
		got, err := os.ReadFile(server.Add(name, cut))
		require.NoError(t, err)
		server.Remove(name)
		require.Equal(t, "aaa\x00", string([]byte{got[0], got[999], got[8191], got[8192]}), "what was flushed: %s", fate)
		state := string([]byte{got[1000], got[4095], got[4096], got[5999], got[6144]})
		require.Regexp(t, "^[ab][ab][abc][ab][a\x00]$", state)
		fates[state] = true
	}
	require.True(t, fates["aaaaa"] && fates["bbcb\x00"] && fates["bbbba"] && fates["aaca\x00"] && fates["abaaa"], "%q", fates)
}
