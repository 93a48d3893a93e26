package container_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/testenv"
)

// script is a hook that runs a line of shell on the host.
func script(line string, args ...string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: append([]string{"sh", "-c", line, "hook"}, args...), Env: []string{"PATH=/usr/bin:/bin", "HOOK=1"}}
}

// hooked is a box whose hooks tell in files of a directory where they are.
func hooked(t *testing.T) (b *box, dir string) {
	t.Helper()
	dir = testenv.TempDir(t)
	require.NoError(t, os.Chmod(dir, 0o777))
	b = newBox(t, "exit", "0")
	b.mkdir("bin")
	b.copy(testenv.Busybox(t), "bin/busybox")
	b.mount("/told", dir)
	b.cfg.State = specs.State{ID: "box", Bundle: "/bundle", Annotations: map[string]string{"k": "v"}}
	const tell = `cat > $1/state; for n in mnt pid net uts ipc user cgroup; do echo $n $(readlink /proc/self/ns/$n); done > $1/ns; env > $1/env; ` +
		`ls -l /proc/self/fd > $1/fd; id -u > $1/uid; test -e /probe && echo inside > $1/root; test -e /bin/bash && echo outside > $1/root; :`
	hook := func(name string) []specs.Hook {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o777))
		require.NoError(t, os.Chmod(filepath.Join(dir, name), 0o777))
		return []specs.Hook{script(tell, filepath.Join(dir, name))}
	}
	b.spec.Hooks = &specs.Hooks{
		Prestart:      hook("prestart"), //nolint:staticcheck // deprecated, and used
		CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"),
		Poststart: hook("poststart"), Poststop: hook("poststop"),
	}
	hook("startContainer")
	b.spec.Hooks.StartContainer = []specs.Hook{{
		Path: "/bin/busybox", Args: []string{"busybox", "sh", "-c", strings.NewReplacer(
			"cat ", "busybox cat ", "readlink ", "busybox readlink ", "env ", "busybox env ", "ls ", "busybox ls ", "id ", "busybox id ").Replace(tell), "hook", "/told/startContainer"},
	}}
	return b, dir
}

func readFile(t *testing.T, names ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(names...))
	require.NoError(t, err)
	return string(text)
}

// Each kind of hook runs when and where config.md, "POSIX-platform Hooks", says.
func TestHooks(t *testing.T) {
	for _, user := range []bool{false, true} {
		b, dir := hooked(t)
		b.spec.Process.Args = []string{"/probe", "hold"}
		if user {
			b.inUserNamespace()
		}
		p := b.mustStart()
		state := b.cfg.State
		state.Version, state.Pid, state.Status = specs.Version, p.Pid(), specs.StateRunning
		for _, kind := range []string{"poststart", "poststop"} {
			require.NoFileExists(t, filepath.Join(dir, kind, "state"), "these are the caller's to run")
		}
		require.NoError(t, container.PoststartHooks(t.Context(), b.spec, state))
		inside := make(map[string]string)
		for _, ns := range []string{"mnt", "pid", "net", "uts", "ipc", "user", "cgroup"} {
			to, err := os.Readlink("/proc/" + itoa(p.Pid()) + "/ns/" + ns)
			require.NoError(t, err)
			inside[ns] = to
		}
		require.NoError(t, p.Signal(syscall.SIGKILL))
		_, err := p.Wait()
		require.NoError(t, err)
		state.Status, state.Pid = specs.StateStopped, 0
		require.NoError(t, container.PoststopHooks(t.Context(), b.spec, state))

		for kind, want := range map[string]struct {
			status specs.ContainerState
			in     bool
			root   string
		}{
			"prestart": {specs.StateCreating, false, "outside"}, "createRuntime": {specs.StateCreating, false, "outside"},
			"createContainer": {specs.StateCreating, true, "outside"}, "startContainer": {specs.StateCreated, true, "inside"},
			"poststart": {specs.StateRunning, false, "outside"}, "poststop": {specs.StateStopped, false, "outside"},
		} {
			var got specs.State
			require.NoError(t, json.Unmarshal([]byte(readFile(t, dir, kind, "state")), &got), kind)
			pid := p.Pid()
			if kind == "poststop" {
				pid = 0
			}
			require.Equal(t, specs.State{Version: specs.Version, ID: "box", Status: want.status, Pid: pid, Bundle: "/bundle", Annotations: map[string]string{"k": "v"}}, got, kind)
			for line := range strings.Lines(readFile(t, dir, kind, "ns")) {
				ns, to, _ := strings.Cut(strings.TrimSpace(line), " ")
				if want.in {
					require.Equal(t, inside[ns], to, "%s: %s", kind, ns)
				} else {
					require.Equal(t, namespaceLink(t, ns), to, "%s: %s", kind, ns)
				}
			}
			require.Equal(t, want.root, strings.TrimSpace(readFile(t, dir, kind, "root")), kind)
			require.Equal(t, "0", strings.TrimSpace(readFile(t, dir, kind, "uid")), kind)
			fds := readFile(t, dir, kind, "fd")
			require.LessOrEqual(t, strings.Count(fds, " -> "), 4, "%s was given files:\n%s", kind, fds)
			if kind == "startContainer" {
				require.NotContains(t, readFile(t, dir, kind, "env"), "PATH=/usr", "hooks have their own environment")
			} else {
				require.Contains(t, readFile(t, dir, kind, "env"), "HOOK=1")
			}
		}
	}
}

// A hook that fails has the container not start, and tells in one line why.
func TestHooksThatFail(t *testing.T) {
	inPrivate(t, setting{}, func(t *testing.T) {
		one := 1
		slow := script("echo slow; sleep 1000 & sleep 1000")
		slow.Timeout = &one
		left := script("sleep 3 & exit 7")
		for message, spoil := range map[string]func(h *specs.Hooks){
			"prestart hook /bin/sh: exit status 3: no":              func(h *specs.Hooks) { h.Prestart = []specs.Hook{script("echo no >&2; exit 3")} }, //nolint:staticcheck // deprecated, and used
			"createRuntime hook /bin/sh: killed":                    func(h *specs.Hooks) { h.CreateRuntime = []specs.Hook{script("kill -9 $$")} },
			"createContainer hook /nothing: cannot be executed: no": func(h *specs.Hooks) { h.CreateContainer = []specs.Hook{{Path: "/nothing"}} },
			"startContainer hook /bin/busybox: exit":                func(h *specs.Hooks) { h.StartContainer = []specs.Hook{{Path: "/bin/busybox", Args: []string{"false"}}} },
			"is not absolute":                                       func(h *specs.Hooks) { h.CreateRuntime = []specs.Hook{{Path: "sh"}} },
			"its timeout of 1 s":                                    func(h *specs.Hooks) { h.CreateRuntime = []specs.Hook{slow} },
			"exit status 7":                                         func(h *specs.Hooks) { h.CreateRuntime = []specs.Hook{left} },
		} {
			b, _ := hooked(t)
			ran := filepath.Join(testenv.TempDir(t), "ran")
			before := host(t)
			spoil(b.spec.Hooks)
			b.mount("/ran", filepath.Dir(ran))
			b.withShell("echo > /ran/ran")
			_, err := b.start()
			require.ErrorContains(t, err, message)
			require.NotContains(t, strings.TrimSpace(err.Error()), "\n")
			require.Equal(t, 125, container.ExitCode(err))
			require.NoFileExists(t, ran, "the program was executed: %s", message)
			before.unchanged(t)
		}
	})
}

// Of the hooks that come after, all run, whatever happens.
func TestLaterHooksAllRun(t *testing.T) {
	b, dir := hooked(t)
	b.spec.Hooks.Poststop = append([]specs.Hook{script("exit 4")}, b.spec.Hooks.Poststop...)
	err := container.PoststopHooks(t.Context(), b.spec, b.cfg.State)
	require.ErrorContains(t, err, "poststop hook /bin/sh: exit status 4")
	require.FileExists(t, filepath.Join(dir, "poststop", "state"))
}

// A hook can be given up, and nothing of it stays.
func TestHooksCanBeGivenUp(t *testing.T) {
	inPrivate(t, setting{}, func(t *testing.T) {
		b, dir := hooked(t)
		b.spec.Hooks.CreateRuntime = []specs.Hook{script("sleep 1000 & echo > $1/waits; wait", dir)}
		before := host(t)
		ctx, cancel := contextWithCancel(t)
		go func() {
			for {
				if _, err := os.Stat(filepath.Join(dir, "waits")); err == nil {
					cancel()
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		_, err := b.startIn(ctx, b.openRoot())
		require.ErrorContains(t, err, "never mind")
		before.unchanged(t)
	})
}

// Hooks of the network kind find the container's namespaces by its process.
func TestHooksFindTheContainer(t *testing.T) {
	b, dir := hooked(t)
	pid := `sed 's/.*"pid":\([0-9]*\).*/\1/'`
	b.spec.Hooks.CreateRuntime = []specs.Hook{script("pid=$("+pid+"); nsenter -t $pid -n ip link set lo mtu 1234 2>&1 || nsenter -t $pid -n sh -c 'cat /sys/class/net/lo/mtu'; readlink /proc/$pid/ns/net > $1/found", dir)}
	s := b.look("/sys/class/net/lo/mtu")
	require.Equal(t, s.NS["net"], strings.TrimSpace(readFile(t, dir, "found")))
}
