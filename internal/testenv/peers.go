package testenv

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Tool runs a command line tool with arguments and gives what it prints; the test fails if it fails.
type Tool func(args ...string) string

// NewTool gives a tool that is run with env added to the environment and first before all arguments.
func NewTool(t testing.TB, program string, env []string, first ...string) Tool {
	t.Helper()
	RequireTool(t, program)
	return func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, append(slices.Clip(first), args...)...)
		cmd.Env = append(os.Environ(), env...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, stderr.Bytes())
		}
		return string(out)
	}
}

// Podman gives a podman with a fresh store of its own.
func Podman(t testing.TB) Tool {
	t.Helper()
	RequireRoot(t)
	dir := TempDir(t)
	return NewTool(t, "podman", nil,
		"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs")
}

// Docker starts a Docker daemon with a fresh store of its own and without a network, stops it at the end
// of the test, and gives its client. scripts/docker.sh makes both. args are more arguments of the daemon.
func Docker(t testing.TB, args ...string) Tool {
	t.Helper()
	cache, env := dockerFiles(t)
	dir := TempDir(t)
	config := filepath.Join(dir, "daemon.json") // or it would read the machine's
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "docker.sock")
	startDaemon(t, socket, env, filepath.Join(cache, "usr/sbin/dockerd"), append([]string{
		"--host", "unix://" + socket, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "--config-file", config,
		"--storage-driver", "vfs", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none",
	}, args...)...)
	return NewTool(t, filepath.Join(cache, "usr/bin/docker"), []string{"DOCKER_CONFIG=" + dir}, "--host", "unix://"+socket)
}

// dockerFiles gives where Debian's Docker and containerd lie, and the environment for them.
func dockerFiles(t testing.TB) (dir string, env []string) {
	t.Helper()
	RequireRoot(t)
	dir = filepath.Join(CacheDir(t), "docker")
	if _, err := os.Stat(filepath.Join(dir, "usr/sbin/dockerd")); err != nil {
		Unmet(t, "needs Docker: scripts/docker.sh makes it")
	}
	var libs []string
	for _, pattern := range []string{"lib/*-linux-gnu*", "usr/lib/*-linux-gnu*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		libs = append(libs, found...)
	}
	return dir, append(os.Environ(),
		"PATH="+filepath.Join(dir, "usr/bin")+":"+filepath.Join(dir, "usr/sbin")+":"+os.Getenv("PATH"),
		"LD_LIBRARY_PATH="+strings.Join(libs, ":"))
}

// Containerd starts a containerd with a fresh store of its own, stops it at the end of the test, and
// gives its client, ctr. scripts/docker.sh makes both.
func Containerd(t testing.TB) Tool {
	t.Helper()
	cache, env := dockerFiles(t)
	dir := TempDir(t)
	socket, config := filepath.Join(dir, "c.sock"), filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"+
		"[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket, socket+".ttrpc")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	startDaemon(t, socket, env, filepath.Join(cache, "usr/bin/containerd"), "--config", config)
	return NewTool(t, filepath.Join(cache, "usr/bin/ctr"), nil, "--address", socket)
}

// startDaemon starts a program, waits for its socket, and ends it when the test is over.
func startDaemon(t testing.TB, socket string, env []string, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...) //nolint:noctx // ended in an orderly way, below
	cmd.Env = env
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended does not matter
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may be gone
		<-ended
	})
	for {
		if _, err := os.Stat(socket); err == nil {
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s:\n%s", program, log.Bytes())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
