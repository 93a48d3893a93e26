package container_test

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
)

func TestExitStatus(t *testing.T) {
	for _, status := range []int{0, 1, 2, 125, 126, 127, 130, 255} {
		r, err := newBox(t, "exit", fmt.Sprint(status)).run()
		require.NoError(t, err)
		require.Equal(t, status, r.status)
	}
}

func TestSignals(t *testing.T) {
	for sig, want := range map[syscall.Signal]string{syscall.SIGTERM: "terminated\n", syscall.SIGUSR1: "user defined signal 1\n"} {
		b := newBox(t, "sleep")
		r, w := pipe(t)
		b.cfg.Stdout = w
		p := b.mustStart()
		require.Equal(t, "ready", readUntil(t, r, "ready"))
		require.NoError(t, p.Signal(sig))
		status, err := p.Wait()
		require.NoError(t, err)
		require.Zero(t, status)
		require.NoError(t, w.Close())
		require.Equal(t, want, readUntil(t, r, want[:4])+"\n")
		require.ErrorIs(t, p.Signal(sig), os.ErrProcessDone)
	}
}

func TestKilled(t *testing.T) {
	p := newBox(t, "hold").mustStart()
	const unhandled = 34 // by Go's runtime, which has handlers for others soon
	require.NoError(t, p.Signal(syscall.Signal(unhandled)), "the first process of a pid namespace ignores what it has no handler for")
	require.NoError(t, p.Signal(syscall.SIGKILL))
	status, err := p.Wait()
	require.NoError(t, err)
	require.Equal(t, 128+int(syscall.SIGKILL), status)
	again, err := p.Wait()
	require.NoError(t, err)
	require.Equal(t, status, again)
}

// A signal that was ignored or blocked here is not there.
func TestSignalDispositions(t *testing.T) {
	signal.Ignore(syscall.SIGUSR2)
	defer signal.Reset(syscall.SIGUSR2)
	b := newBox(t).withShell("grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; kill -PIPE $$; sleep 0; sh -c 'kill -PIPE $$'; echo $?")
	b.write("bin/busybox", "", 0o755)
	b.copy(b.path("bin/sh"), "bin/busybox")
	for _, name := range []string{"grep", "sleep"} {
		b.symlink("busybox", "bin/"+name)
	}
	require.Equal(t, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n141\n", b.output())
}

// When the first process ends, all others do.
func TestOrphansEnd(t *testing.T) {
	b := newBox(t, "orphans")
	r, w := pipe(t)
	b.cfg.Stdout = w // which the orphans keep open
	p := b.mustStart()
	require.NoError(t, w.Close())
	status, err := p.Wait()
	require.NoError(t, err)
	require.Zero(t, status)
	n, err := r.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err, "an orphan is alive")
	require.NoDirExists(t, cgroupDir(t, b))
}

func TestFailuresToExecute(t *testing.T) {
	for name, tc := range map[string]struct {
		args    []string
		prepare func(b *box)
		status  int
		message string
	}{
		"not in PATH":         {[]string{"missing"}, nil, 127, "exec missing: no such file in PATH"},
		"no such path":        {[]string{"/no/such"}, nil, 127, "exec /no/such: no such file"},
		"below a file":        {[]string{"/probe/x"}, nil, 127, "exec /probe/x: no such file"},
		"a directory":         {[]string{"/bin"}, func(b *box) { b.mkdir("bin") }, 126, "exec /bin: cannot be executed: it is a directory"},
		"a directory in PATH": {[]string{"x"}, func(b *box) { b.mkdir("bin/x") }, 126, "it is a directory"},
		"not executable":      {[]string{"/x"}, func(b *box) { b.write("x", "", 0o644) }, 126, "exec /x: cannot be executed: permission denied"},
		"a fifo": {
			[]string{"/x"},
			func(b *box) { require.NoError(b.t, syscall.Mkfifo(b.path("x"), 0o755)) }, 126, "no regular file",
		},
		"no program":             {[]string{"/x"}, func(b *box) { b.write("x", "\x00\x01", 0o755) }, 126, "exec /x: cannot be executed: exec format error"},
		"a script without #!":    {[]string{"/x"}, func(b *box) { b.write("x", "echo", 0o755) }, 126, "exec format error"},
		"no interpreter":         {[]string{"/x"}, func(b *box) { b.write("x", "#!/bin/gone -x\n", 0o755) }, 127, "exec /x: its interpreter /bin/gone: no such file"},
		"an empty interpreter":   {[]string{"/x"}, func(b *box) { b.write("x", "#! \n", 0o755) }, 126, "exec format error"},
		"interpreter is no file": {[]string{"/x"}, func(b *box) { b.write("x", "#!/dev\n", 0o755) }, 126, "it is a directory"},
		"no loader": {
			[]string{"/x"},
			func(b *box) { b.copy("/bin/ls", "x") }, 127, "exec /x: no such file (or its loader is missing)",
		},
		"a loop": {[]string{"/x"}, func(b *box) { b.symlink("y", "x"); b.symlink("x", "y") }, 126, "too many levels of symbolic links"},
		"not for this user": {
			[]string{"/private/probe"},
			func(b *box) {
				b.mkdir("private")
				b.copy(probe, "private/probe")
				require.NoError(b.t, os.Chmod(b.path("private"), 0o700))
				b.spec.Process.User.UID = 1000
				b.spec.Process.Capabilities = nil
			}, 126, "exec /private/probe: cannot be executed: permission denied",
		},
	} {
		b := newBox(t)
		if tc.prepare != nil {
			tc.prepare(b)
		}
		b.spec.Process.Args = tc.args
		_, err := b.start()
		require.ErrorContains(t, err, tc.message, name)
		require.Equal(t, tc.status, container.ExitCode(err), "%s: %v", name, err)
	}
}

func TestProgramIsFound(t *testing.T) {
	for name, prepare := range map[string]func(b *box){
		"by PATH": func(b *box) {
			b.copy(probe, "b/p")
			b.spec.Process.Args, b.spec.Process.Env = []string{"p"}, []string{"PATH=/a:/b"}
		},
		"by the last PATH": func(b *box) {
			b.copy(probe, "b/p")
			b.spec.Process.Args, b.spec.Process.Env = []string{"p"}, []string{"PATH=/a", "PATH=/b"}
		},
		"without a PATH": func(b *box) {
			b.mkdir("usr/bin")
			b.copy(probe, "usr/bin/p")
			b.spec.Process.Args, b.spec.Process.Env = []string{"p"}, nil
		},
		"in an empty entry": func(b *box) {
			b.copy(probe, "b/p")
			b.spec.Process.Cwd = "/b"
			b.spec.Process.Args, b.spec.Process.Env = []string{"p"}, []string{"PATH="}
		},
		"from the directory": func(b *box) { b.copy(probe, "b/p"); b.spec.Process.Cwd = "/b"; b.spec.Process.Args = []string{"./p"} },
		"up": func(b *box) {
			b.copy(probe, "b/p")
			b.spec.Process.Cwd = "/b"
			b.spec.Process.Args = []string{"../probe"}
		},
		"after what is denied": func(b *box) {
			b.write("a/p", "", 0o644)
			b.copy(probe, "b/p")
			b.spec.Process.Args, b.spec.Process.Env = []string{"p"}, []string{"PATH=/a:/b"}
		},
		"a script": func(b *box) { b.write("s", "#!/probe\n", 0o755); b.spec.Process.Args = []string{"/s"} },
		"a script's script": func(b *box) {
			b.write("s", "#!/probe\n", 0o755)
			b.write("u", "#!/s\n", 0o755)
			b.spec.Process.Args = []string{"/u"}
		},
		"through a link inside": func(b *box) { b.symlink("/../../probe", "l"); b.spec.Process.Args = []string{"/l"} },
	} {
		b := newBox(t)
		b.mkdir("a")
		b.mkdir("b")
		prepare(b)
		r, err := b.run()
		require.NoError(t, err, name)
		require.Zero(t, r.status, "%s: %s", name, r.errOut)
	}
}

func TestSpecificationsThatAreRefused(t *testing.T) {
	for message, spoil := range map[string]func(b *box){
		"no program":                       func(b *box) { b.spec.Process.Args = nil },
		"NUL in":                           func(b *box) { b.spec.Process.Args = []string{"a\x00b"} },
		"is not absolute":                  func(b *box) { b.spec.Process.Cwd = "work" },
		"there is no user or group ID":     func(b *box) { b.spec.Process.User.UID = ^uint32(0) },
		"process is missing":               func(b *box) { b.spec.Process = nil },
		"linux is missing":                 func(b *box) { b.spec.Linux = nil },
		"process.apparmorProfile":          func(b *box) { b.spec.Process.ApparmorProfile = "x" },
		"linux.uidMappings":                func(b *box) { b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, ns("user")) },
		"two pid namespaces":               func(b *box) { b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, ns("pid")) },
		"rootfsPropagation needs a mount":  func(b *box) { b.spec.Linux.RootfsPropagation = "slave"; b.spec.Linux.Namespaces = remove(b, "mount") },
		"no array of instructions":         func(b *box) { b.cfg.Seccomp = []byte{1} },
		"it is not one of a namespace":     func(b *box) { b.spec.Linux.Sysctl = map[string]string{"kernel.panic": "1"} },
		"want a path below":                func(b *box) { b.spec.Linux.CgroupsPath = "../out" },
		"takes no other standard files":    func(b *box) { b.spec.Process.Terminal, b.cfg.Stdin = true, os.Stdin },
		"sysctl \"net/../kernel/panic\"":   func(b *box) { b.spec.Linux.Sysctl = map[string]string{"net/../kernel/panic": "1"} },
		"shares the host's network":        func(b *box) { b.spec.Linux.Namespaces = remove(b, "network") },
		"a host name needs":                func(b *box) { b.spec.Linux.Sysctl = nil; b.spec.Linux.Namespaces = remove(b, "uts") },
		"a terminal needs a devpts":        func(b *box) { b.spec.Process.Terminal = true; b.spec.Mounts = b.spec.Mounts[:2] },
		"seccomp: invalid argument":        func(b *box) { b.cfg.Seccomp = make([]byte, 16) },
		"root propagation \"sideways\"":    func(b *box) { b.spec.Linux.RootfsPropagation = "sideways" },
		"set host name \"" + long() + "\"": func(b *box) { b.spec.Hostname = long() },
	} {
		b := newBox(t)
		spoil(b)
		_, err := b.start()
		require.ErrorContains(t, err, message)
		require.Equal(t, 125, container.ExitCode(err))
	}
}

func TestOOMScore(t *testing.T) {
	b := newBox(t)
	score := 321
	b.spec.Process.OOMScoreAdj = &score
	require.Equal(t, "321", b.look().OOM)
}
