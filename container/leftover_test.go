package container_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
)

// A start can be given up at any moment, and nothing of it stays.
func TestNothingIsLeftOfWhatIsGivenUp(t *testing.T) {
	inPrivate(t, setting{}, func(t *testing.T) {
		b := newBox(t, "hold")
		before := host(t)
		require.NoError(t, container.New(b.spec).Close())
		before.unchanged(t)

		c, root := container.New(b.spec), b.openRoot()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("never mind"))
		_, err := c.Start(ctx, container.Config{Root: root})
		require.ErrorContains(t, err, "never mind")
		_, err = c.Start(t.Context(), container.Config{Root: root})
		require.ErrorContains(t, err, "is started once")
		require.NoError(t, c.Close())
		require.NoError(t, root.Close())
		before.unchanged(t)
	})
}

func TestNothingIsLeftAtTheEnd(t *testing.T) {
	inPrivate(t, setting{}, func(t *testing.T) {
		for _, args := range [][]string{{"exit", "0"}, {"exit", "7"}, {"orphans"}} {
			b := newBox(t, args...)
			before := host(t)
			_, err := b.mustStart().Wait()
			require.NoError(t, err)
			before.unchanged(t)
		}
		for _, args := range [][]string{{"/missing"}, {"/"}} {
			b := newBox(t)
			b.spec.Process.Args = args
			before := host(t)
			_, err := b.start()
			require.Error(t, err)
			before.unchanged(t)
		}
	})
}

// Whatever call of the kernel fails, the start fails, and nothing is left behind.
func TestNothingIsLeftWhenACallFails(t *testing.T) {
	for _, name := range []string{
		// of the thread
		"unshare", "mount", "umask", "openat2", "open_tree", "fsopen", "fsconfig", "fsmount", "move_mount", "mount_setattr",
		"mkdirat", "symlinkat", "sethostname", "ioctl", "socket", "pidfd_open", "pivot_root", "umount2", "fchdir", "fstatfs",
		// of the child
		"setsid", "keyctl", "prctl", "prlimit64", "setgroups", "setresgid", "setresuid", "capset", "dup3", "seccomp", "ppoll", "execve",
		"close_range",
	} {
		t.Run(name, func(t *testing.T) {
			inPrivate(t, setting{}, func(t *testing.T) {
				b := newBox(t, "exit", "0")
				b.cfg.DieWithParent = true
				b.spec.Process.User.UID = 1000
				before := host(t)
				root := b.openRoot()
				deny(t, []string{name}, syscall.EPERM)
				_, err := b.startIn(t.Context(), root)
				require.ErrorIs(t, err, syscall.EPERM)
				before.unchanged(t)
			})
		})
	}
}

// What root of a user namespace alone may not do is done without: the host's nodes are shown, and without a filter for
// devices no mount has others.
func TestRightsThatMayLack(t *testing.T) {
	for _, name := range []string{"mknodat", "bpf"} {
		t.Run(name, func(t *testing.T) {
			inPrivate(t, setting{}, func(t *testing.T) {
				b := newBox(t)
				b.mount("/host", "/dev")
				before := host(t)
				deny(t, []string{name}, syscall.EPERM)
				results := b.try("write:/dev/null", "open:/dev/zero", "open:/dev/ptmx", "open:/host/zero")
				require.Equal(t, []string{"ok", "ok", "ok"}, []string{results["write:/dev/null"], results["open:/dev/zero"], results["open:/dev/ptmx"]})
				if name == "bpf" {
					require.Equal(t, "open /host/zero: permission denied", results["open:/host/zero"])
				}
				before.unchanged(t)
			})
		})
	}
}

// A program that takes its time to be found can be given up, too.
func TestNothingIsLeftOfAHangingStart(t *testing.T) {
	inPrivate(t, setting{}, func(t *testing.T) {
		b := newBox(t, "exit", "0")
		before := host(t)
		hang(t, "setsid") // which only the child calls
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			for len(children()) == 0 { // until the child is there
				time.Sleep(time.Millisecond)
			}
			cancel(errors.New("enough"))
		}()
		_, err := b.startIn(ctx, b.openRoot())
		require.ErrorContains(t, err, "enough")
		before.files++ // the listener
		before.unchanged(t)
	})
}

// When this program is killed, so is the container.
func TestDiesWithParent(t *testing.T) {
	const rootEnv, cgroupEnv = "TARN_TEST_ROOT", "TARN_TEST_CGROUP"
	if root := os.Getenv(rootEnv); root != "" {
		b := newBox(t, "hold")
		b.root = root
		b.cfg.DieWithParent = true
		b.spec.Linux.CgroupsPath = os.Getenv(cgroupEnv)
		fmt.Printf("pid %d\n", b.mustStart().Pid())
		select {} // until it is killed
	}
	b := newBox(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDiesWithParent$")
	cmd.Env = append(os.Environ(), rootEnv+"="+b.root, cgroupEnv+"="+b.spec.Linux.CgroupsPath, probeEnv+"="+probe)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var pid int
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
			pid, err = strconv.Atoi(text)
			require.NoError(t, err)
			break
		}
	}
	require.NotZero(t, pid)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	for syscall.Kill(pid, 0) == nil { // it ends, or the test does not
		time.Sleep(time.Millisecond)
	}
	// The kernel takes away all but the cgroup, which then is empty.
	if root := cgroupRoot(t); root != "" {
		require.DirExists(t, filepath.Join(root, b.spec.Linux.CgroupsPath))
	}
	require.NoError(t, container.RemoveCgroup(b.spec.Linux.CgroupsPath))
	require.NoDirExists(t, filepath.Join(cgroupRoot(t), b.spec.Linux.CgroupsPath))
	require.NoError(t, container.RemoveCgroup(b.spec.Linux.CgroupsPath), "one that is gone is no error")
	require.ErrorIs(t, container.RemoveCgroup("../x"), container.ErrSpec)
}

func TestManyAtOnce(t *testing.T) {
	inPrivate(t, setting{}, func(t *testing.T) {
		const containers = 20
		boxes := make([]*box, containers)
		for i := range boxes {
			boxes[i] = newBox(t, "exit", strconv.Itoa(i))
		}
		before := host(t)
		var all sync.WaitGroup
		statuses, errs := make([]int, containers), make([]error, containers)
		for i, b := range boxes {
			root := b.openRoot()
			all.Go(func() {
				p, err := b.startIn(t.Context(), root)
				if errs[i] = err; err == nil {
					statuses[i], errs[i] = p.Wait()
				}
			})
		}
		all.Wait()
		for i := range boxes {
			require.NoError(t, errs[i])
			require.Equal(t, i, statuses[i])
		}
		before.unchanged(t)
	})
}
