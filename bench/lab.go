package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// privateEnv marks the process that runs in a mount namespace of its own.
const privateEnv = "TARN_BENCH_PRIVATE"

// runPrivately runs the benchmark again in a private mount namespace: all mounts made on the way
// are gone with it, and a hybrid cgroup mount, which crun refuses, can be taken away.
func runPrivately(ctx context.Context, args []string) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, to mount and to drop caches")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	// Unshareflags makes every mount private as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	err = cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return errors.New("see above")
	}
	return err
}

// Lab is where figures are measured: a directory on a disk, the real input, and tarn itself.
type Lab struct {
	dir    string // for scratch, on the disk that everything is compared on
	tarn   string // the binary
	tar    string // a Debian root, uncompressed
	cache  string // where it and other input lies
	forced int    // number of runs, or 0 for each figure's own
	filled store  // see debian
}

// store is the environment of tarn commands that share a store.
type store []string

func newLab(ctx context.Context, tarn string, forcedRuns int) (*Lab, error) {
	// Only where both hierarchies are mounted is this one there to be unmounted.
	if err := syscall.Unmount("/sys/fs/cgroup/unified", syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("unmount the hybrid cgroup hierarchy: %w", err)
	}
	tarn, err := filepath.Abs(tarn)
	if err != nil {
		return nil, err
	}
	cache := os.Getenv("TARN_TEST_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		cache = filepath.Join(user, "tarn-test")
	}
	tar, err := filepath.EvalSymlinks(filepath.Join(cache, "debian.tar"))
	if err != nil {
		return nil, fmt.Errorf("%w: scripts/debian-root.sh makes it", err)
	}
	dir, err := os.MkdirTemp(cache, "bench-")
	if err != nil {
		return nil, err
	}
	if tarn, err = installed(ctx, tarn, filepath.Join(dir, "bin")); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Lab{dir: dir, tarn: tarn, tar: tar, cache: cache, forced: forcedRuns}, nil
}

// installed copies tarn, and the programs that lie beside it, as "make install" does. The linker writes through a
// mapping, which leaves single pages in the page cache: of a program so read a start takes 10 % more than of one that
// was copied, or read from the disk, as those that it is compared with were.
func installed(ctx context.Context, tarn, dir string) (string, error) {
	args := []string{"-D", "-t", dir, tarn}
	for _, name := range []string{"tarn-monitor", "tarn-runtime"} {
		beside := filepath.Join(filepath.Dir(tarn), name)
		if _, err := os.Stat(beside); err == nil {
			args = append(args, beside)
		}
	}
	return filepath.Join(dir, filepath.Base(tarn)), command(ctx, "install", args...)
}

// debian gives the store that holds the Debian root as the image "debian".
func (l *Lab) debian(ctx context.Context) (store, error) {
	if l.filled == nil {
		s := l.newStore("store")
		if err := l.tarnRun(ctx, s, "import", "--name", "debian", l.tar); err != nil {
			return nil, err
		}
		l.filled = s
	}
	return l.filled, nil
}

// close removes the scratch, whatever is still mounted in it included.
func (l *Lab) close() error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(info)), "\n")
	for i := range lines { // the latest first
		target := strings.Fields(lines[len(lines)-1-i])[4]
		if strings.HasPrefix(target, l.dir+"/") {
			if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", target, err)
			}
		}
	}
	return os.RemoveAll(l.dir)
}

func (l *Lab) runs(own int) int {
	if l.forced > 0 {
		return l.forced
	}
	return own
}

func (l *Lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *Lab) newStore(name string) store {
	return store{"TARN_ROOT=" + l.path(name+"/root"), "TARN_RUN=" + l.path(name+"/run")}
}

// tarnRun runs a tarn command to its end.
func (l *Lab) tarnRun(ctx context.Context, s store, args ...string) error {
	_, err := l.tarnOutput(ctx, s, args...)
	return err
}

func (l *Lab) tarnOutput(ctx context.Context, s store, args ...string) (string, error) {
	return output(ctx, s, l.tarn, args...)
}

// child runs a part of this program in a process of its own and gives what it prints.
func (l *Lab) child(ctx context.Context, name string, args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return output(ctx, nil, self, append([]string{name}, args...)...)
}

// command runs a program to its end.
func command(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, nil, name, args...)
	return err
}

func output(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// settle lets the disk finish what earlier measurements left to it.
func settle(context.Context) error {
	syscall.Sync()
	return nil
}

// dropCaches empties the page, inode and dentry caches (proc(5), drop_caches).
func dropCaches(context.Context) error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0)
}
