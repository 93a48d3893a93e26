package container_test

import (
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

func TestDev(t *testing.T) {
	s := newBox(t).look()
	want := map[string]string{
		"/dev/null": "Dcrw-rw-rw- 1:3 0:0", "/dev/zero": "Dcrw-rw-rw- 1:5 0:0", "/dev/full": "Dcrw-rw-rw- 1:7 0:0",
		"/dev/random": "Dcrw-rw-rw- 1:8 0:0", "/dev/urandom": "Dcrw-rw-rw- 1:9 0:0", "/dev/tty": "Dcrw-rw-rw- 5:0 0:0",
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
		"/dev/core": "/proc/kcore", "/dev/ptmx": "pts/ptmx",
		"/dev": "drwxr-xr-x 0:0 0:0", "/dev/pts": "drwxr-xr-x 0:0 0:0", "/dev/pts/ptmx": "Dcrw-rw-rw- 5:2 0:0",
		"/dev/shm": "dtrwxrwxrwx 0:0 0:0", "/dev/mqueue": "dtrwxrwxrwx 0:0 0:0",
	}
	require.Equal(t, want, s.Dev)
}

func TestDevCanBeUsed(t *testing.T) {
	b := newBox(t)
	require.Equal(t, map[string]string{
		"open:/dev/null": "ok", "write:/dev/full": "ok", "open:/dev/urandom": "ok", "open:/dev/ptmx": "ok", "create:/dev/shm/file": "ok",
		"queue:work": "ok", "open:/dev/mqueue/work": "ok", "create:/dev/file": "ok", "null:/dev/other": "ok", "null:/other": "ok",
		// The first disk, whose node anybody with CAP_MKNOD can make.
		"disk:/disk": "open: open /disk: operation not permitted", "disk:/dev/disk": "open: open /dev/disk: operation not permitted",
	}, b.try("open:/dev/null", "write:/dev/full", "open:/dev/urandom", "open:/dev/ptmx", "create:/dev/shm/file", "queue:work",
		"open:/dev/mqueue/work", "create:/dev/file", "null:/dev/other", "null:/other", "disk:/disk", "disk:/dev/disk"))
	// What was made in /dev is the container's own.
	entries, err := os.ReadDir(b.path("dev"))
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestDevices(t *testing.T) {
	b := newBox(t)
	mode, uid := os.FileMode(0o640), uint32(7)
	b.spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/mine", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: &uid},
		{Path: "/dev/sub/fifo", Type: "p"},
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	}
	s := b.look()
	require.Equal(t, "Dcrw-r----- 1:5 7:0", s.Dev["/dev/mine"])
	require.Equal(t, "prw-rw-rw- 0:0 0:0", s.Dev["/dev/sub/fifo"])
	require.Equal(t, map[string]string{"open:/dev/mine": "ok"}, b.try("open:/dev/mine"))

	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 5}}
	_, err := b.start()
	require.ErrorContains(t, err, "null is not the device 1:5", "a container was given another device than it asked for")
}

// The specification's rules decide about other devices than those every container has. The example
// is FUSE's: whether this kernel has it or not, a rule that lets it pass is told from one that does
// not.
func TestDeviceRules(t *testing.T) {
	const denied = "open: open /fuse: operation not permitted"
	rule := func(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
	}
	for name, tc := range map[string]struct {
		rules  []specs.LinuxDeviceCgroup
		denied bool
	}{
		"none is for it":       {nil, true},
		"read":                 {[]specs.LinuxDeviceCgroup{rule(true, "c", 10, 229, "r")}, false},
		"all":                  {[]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, false},
		"all but it":           {[]specs.LinuxDeviceCgroup{{Allow: true, Type: "a"}, rule(false, "c", 10, -1, "r")}, true},
		"write":                {[]specs.LinuxDeviceCgroup{rule(true, "c", 10, 229, "wm")}, true},
		"another kind":         {[]specs.LinuxDeviceCgroup{rule(true, "b", 10, 229, "rwm")}, true},
		"another minor":        {[]specs.LinuxDeviceCgroup{rule(true, "c", 10, 1, "rwm")}, true},
		"the last one decides": {[]specs.LinuxDeviceCgroup{rule(false, "c", 10, 229, "r"), rule(true, "c", -1, -1, "r")}, false},
	} {
		b := newBox(t)
		b.spec.Linux.Resources.Devices = append(b.spec.Linux.Resources.Devices, tc.rules...)
		require.Equal(t, tc.denied, b.try("fuse:/fuse")["fuse:/fuse"] == denied, name)
	}
	b := newBox(t)
	for _, bad := range []specs.LinuxDeviceCgroup{rule(true, "x", 1, 1, "r"), rule(true, "c", 1, 1, "z"), rule(true, "c", 1<<40, 1, "r")} {
		b.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{bad}
		_, err := b.start()
		require.ErrorContains(t, err, "device rule")
	}
}

// An image's own /dev serves where nothing is mounted on it, and what it has there must be what it
// seems.
func TestDevOfTheRoot(t *testing.T) {
	withoutDev := func(b *box) *box {
		var rest []specs.Mount
		for _, m := range b.spec.Mounts {
			if !strings.HasPrefix(m.Destination, "/dev") {
				rest = append(rest, m)
			}
		}
		b.spec.Mounts = rest
		return b
	}
	b := withoutDev(newBox(t))
	require.Equal(t, "Dcrw-rw-rw- 1:3 0:0", b.look().Dev["/dev/null"])

	b = withoutDev(newBox(t))
	b.write("dev/null", "", 0o666)
	_, err := b.start()
	require.ErrorContains(t, err, "null is not the device 1:3", "a file of the image would have masked secrets, and got what is written to /dev/null")
}

func TestReadOnlyDev(t *testing.T) {
	b := newBox(t)
	for i, m := range b.spec.Mounts {
		if m.Destination == "/dev" {
			b.spec.Mounts[i].Options = append(m.Options, "ro")
		}
	}
	require.Equal(t, map[string]string{"open:/dev/null": "ok", "create:/dev/shm/f": "ok", "create:/dev/f": "open /dev/f: read-only file system"},
		b.try("open:/dev/null", "create:/dev/shm/f", "create:/dev/f"))
}
