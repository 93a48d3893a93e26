// Package testenv says what a test needs of the machine it runs on, and gives it
// real input to work with.
//
// A need that is not met skips the test on a developer's machine and fails it when
// the environment variable CI is set: there, "make test" has installed everything,
// so a skipped test would be one that nobody ever runs.
package testenv

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Unmet skips a test that cannot run here, and says why; in CI it fails.
func Unmet(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI is set, so this may not be skipped: "+format, args...)
	}
	t.Skipf(format, args...)
}

// RequireRoot skips the test (fails it in CI) unless it runs as root.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Unmet(t, "needs root: run it with \"make test\"")
	}
}

// RequireTool skips the test (fails it in CI) unless every named program is in PATH.
func RequireTool(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Unmet(t, "needs the program %q: scripts/setup.sh installs it", name)
		}
	}
}

// RequireKernel skips the test (fails it in CI) unless the running Linux is at least major.minor.
func RequireKernel(t testing.TB, major, minor int) {
	t.Helper()
	release := KernelRelease(t)
	gotMajor, gotMinor, ok := parseRelease(release)
	if !ok {
		t.Fatalf("cannot read the kernel release %q", release)
	}
	if gotMajor < major || (gotMajor == major && gotMinor < minor) {
		Unmet(t, "needs Linux %d.%d, this is %s", major, minor, release)
	}
}

// RequireFilesystem skips the test (fails it in CI) unless the kernel has, or can load, the named
// file system type ("erofs", "overlay", "xfs").
func RequireFilesystem(t testing.TB, name string) {
	t.Helper()
	if hasFilesystem(t, name) {
		return
	}
	if os.Geteuid() == 0 {
		// Its own error says less than the second look does.
		_ = exec.CommandContext(t.Context(), "modprobe", name).Run()
	}
	if !hasFilesystem(t, name) {
		Unmet(t, "needs a kernel with the file system %q", name)
	}
}

// RequirePowerDisk skips the test (fails it in CI) unless root can mount one of these file systems on a loop device over
// a file of FUSE, as package powerdisk does.
func RequirePowerDisk(t testing.TB, fsTypes ...string) {
	t.Helper()
	RequireRoot(t)
	RequireFilesystem(t, "fuse")
	for _, fsType := range fsTypes {
		RequireTool(t, "mkfs."+fsType)
		RequireFilesystem(t, fsType)
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); err != nil {
			Unmet(t, "needs loop devices and FUSE: %v", err)
		}
	}
}

// RequireErofsFile skips the test (fails it in CI) unless root can mount an EROFS image that
// is a plain file, without a loop device (Linux 6.12 and newer).
func RequireErofsFile(t testing.TB) {
	t.Helper()
	RequireRoot(t)
	RequireKernel(t, 6, 12)
	RequireFilesystem(t, "erofs")
}

// KernelRelease gives the running kernel's release as uname does, such as "6.12.43-amd64".
func KernelRelease(t testing.TB) string {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(release))
}

func hasFilesystem(t testing.TB, name string) bool {
	t.Helper()
	list, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(list) {
		fields := bytes.Fields(line)
		if len(fields) > 0 && string(fields[len(fields)-1]) == name {
			return true
		}
	}
	return false
}

// TempDir makes a directory on a disk file system (t.TempDir may give a tmpfs, on which neither
// file-backed EROFS nor overlay's trusted xattrs work). At the test's end whatever is still
// mounted beneath it is unmounted, then it is removed; failing to is the test's failure.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(diskDir(t), "tarn-test-") //nolint:usetesting // t.TempDir takes no parent
	if err != nil {
		t.Fatal(err)
	}
	// mountinfo shows resolved paths, and unmounting compares with those.
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		UnmountBeneath(t, dir)
		err := os.RemoveAll(dir)
		// The monitor of a container that was removed by force may look at the store once more, and make directories.
		for tries := 0; errors.Is(err, syscall.ENOTEMPTY) && tries < 100; tries++ {
			time.Sleep(20 * time.Millisecond)
			err = os.RemoveAll(dir)
		}
		if err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return dir
}

// TarnRoot makes a fresh pair of directories for tarn's store and its run-time state,
// the values of --root and --run, cleaned up as TempDir's are.
func TarnRoot(t testing.TB) (root, run string) {
	t.Helper()
	dir := TempDir(t)
	root, run = filepath.Join(dir, "root"), filepath.Join(dir, "run")
	for _, d := range []string{root, run} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return root, run
}

// Magic numbers of file systems that cannot carry a store, from linux/magic.h.
const (
	tmpfsMagic   = 0x01021994
	ramfsMagic   = 0x858458f6
	overlayMagic = 0x794c7630
)

// diskDir finds a directory for temporary files that lies on a disk.
func diskDir(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{os.Getenv("TARN_TEST_TMP"), os.TempDir(), "/var/tmp", CacheDir(t)} {
		if dir == "" {
			continue
		}
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			continue
		}
		if !slices.Contains([]int64{tmpfsMagic, ramfsMagic, overlayMagic}, int64(st.Type)) { //nolint:unconvert // int32 on some architectures
			return dir
		}
	}
	Unmet(t, "needs a temporary directory on a disk: point TARN_TEST_TMP at one")
	return ""
}

// UnmountBeneath detaches every mount at or below dir, the innermost first.
func UnmountBeneath(t testing.TB, dir string) {
	t.Helper()
	// Of this thread: that of the process is that of its first one, which may have become a container's.
	info, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Error(err)
		return
	}
	// A mount is listed after the one it lies on.
	for _, target := range slices.Backward(mountsBeneath(string(info), dir)) {
		if err := syscall.Unmount(target, syscall.MNT_DETACH|umountNoFollow); err != nil {
			t.Errorf("unmount %s: %v", target, err)
		}
	}
}

// umountNoFollow is UMOUNT_NOFOLLOW of umount2(2), which package syscall lacks.
const umountNoFollow = 0x8

// mountsBeneath lists the mount points at or below dir, in the order of mountinfo.
func mountsBeneath(mountinfo, dir string) []string {
	var targets []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		// proc(5): these four are written as octal escapes.
		target := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		if target == dir || strings.HasPrefix(target, dir+"/") {
			targets = append(targets, target)
		}
	}
	return targets
}

// parseRelease takes major and minor from a kernel release such as "6.12.43-amd64".
func parseRelease(release string) (major, minor int, ok bool) {
	first, rest, ok := strings.Cut(release, ".")
	if !ok {
		return 0, 0, false
	}
	major, ok = leadingInt(first)
	if !ok {
		return 0, 0, false
	}
	minor, ok = leadingInt(rest)
	return major, minor, ok
}

func leadingInt(s string) (n int, ok bool) {
	for _, c := range s {
		if c < '0' || c > '9' {
			break
		}
		n, ok = n*10+int(c-'0'), true
	}
	return n, ok
}
