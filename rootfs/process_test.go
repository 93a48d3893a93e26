package rootfs_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

// roleVar makes the test binary play another process of the test.
const roleVar = "ROOTFS_TEST_ROLE"

func TestMain(m *testing.M) {
	role := os.Getenv(roleVar)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := play(role, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func play(role string, args []string) error {
	switch role {
	case "euid":
		fmt.Printf("euid %d", os.Geteuid())
		return nil
	case "caps":
		status, err := os.ReadFile("/proc/self/status")
		fmt.Printf("%s", status)
		return err
	case "mounter":
		return playMounter(args)
	case "container":
		return playContainer(args[0])
	}
	return fmt.Errorf("unknown role %q", role)
}

func runAs(t testing.TB, uid uint32, program, role string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), program)
	c.Env = []string{roleVar + "=" + role}
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// roleCommand prepares another process of the test; it waits at a barrier until its stdin closes.
func roleCommand(t testing.TB, role string, args ...string) *exec.Cmd {
	t.Helper()
	// Not ended with the test's context: a test's cleanup sees to its end.
	c := exec.CommandContext(context.WithoutCancel(t.Context()), "/proc/self/exe", args...)
	c.Env = append(os.Environ(), roleVar+"="+role)
	c.Stderr = os.Stderr
	return c
}

// playMounter mounts all layers from several goroutines at once: DRIVER RUN DIR...
func playMounter(args []string) error {
	layers := decodeLayers(args[2:])
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	errs := make(chan error)
	const goroutines = 4
	for range goroutines {
		go func() {
			// One of its own, as another process would have.
			d, err := rootfs.NewDriver(args[0], args[1])
			for _, l := range layers {
				if err == nil {
					err = mountAndRead(d, l)
				}
			}
			errs <- err
		}()
	}
	for range goroutines {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

func mountAndRead(d rootfs.Driver, l rootfs.Layer) error {
	f, err := d.Mount(context.Background(), l)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = os.Lstat(fmt.Sprintf("/proc/self/fd/%d/d/f", f.Fd()))
	return err
}

func encodeLayers(layers []rootfs.Layer) []string {
	var args []string
	for _, l := range layers {
		args = append(args, l.Dir)
	}
	return args
}

func decodeLayers(args []string) []rootfs.Layer {
	var layers []rootfs.Layer
	for _, dir := range args {
		layers = append(layers, layerIn(dir))
	}
	return layers
}

func TestManyProcessesMountOnce(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		var layers []rootfs.Layer
		for i := range 20 {
			layers = append(layers, storeLayer(t, s.root, dir("d", 0o755), file("d/f", 0o644), file(fmt.Sprint(i), 0o644)))
		}
		var gates []io.Closer
		var processes []*exec.Cmd
		for range 8 {
			c := roleCommand(t, "mounter", append([]string{s.driver.Name(), s.run}, encodeLayers(layers)...)...)
			gate, err := c.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, c.Start())
			gates, processes = append(gates, gate), append(processes, c)
		}
		for _, gate := range gates {
			require.NoError(t, gate.Close())
		}
		for _, c := range processes {
			require.NoError(t, c.Wait())
		}
		points := mountsBelow(t, s.base)
		switch s.driver.Name() {
		case rootfs.Erofs:
			require.Len(t, points, len(layers), "one mount for each layer")
		default:
			require.Empty(t, points)
			for _, l := range layers {
				entries, err := os.ReadDir(l.Dir)
				require.NoError(t, err)
				require.Len(t, entries, 3, "layer.tar, index.erofs, root; nothing half done")
			}
		}
		s.release(t, layers...)
	})
}

func TestGoroutinesMountAndReleaseAtOnce(t *testing.T) {
	requireDriver(t, rootfs.Erofs)
	s := newSite(t, rootfs.Erofs, testenv.TempDir(t))
	l := storeLayer(t, s.root, dir("d", 0o755), file("d/f", 0o644))
	var wg sync.WaitGroup
	errs := make(chan error, 1000)
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				if i == 0 {
					errs <- s.driver.Release(l)
				} else {
					errs <- mountAndRead(s.driver, l)
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	s.release(t, l)
}

// playContainer makes path its root as a container's first process does, and waits.
func playContainer(path string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Chdir(path); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := os.Mkdir("/dev", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", 0, ""); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// startContainer runs a process that has path, a mount point, as its root, until the test ends.
func startContainer(t testing.TB, path string) (pid int) {
	t.Helper()
	c := roleCommand(t, "container", path)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	stdin, err := c.StdinPipe()
	require.NoError(t, err)
	stdout, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() {
		require.NoError(t, stdin.Close())
		require.NoError(t, c.Wait())
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready", strings.TrimSpace(line))
	return c.Process.Pid
}
