package container_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

func TestNoStdio(t *testing.T) {
	s := newBox(t, "look")
	out := tempFile(t)
	s.cfg.Stdout = out
	p := s.mustStart()
	status, err := p.Wait()
	require.NoError(t, err)
	require.Zero(t, status)
	fds := decode[sight](t, content(t, out)).FDs
	require.Equal(t, "0 /dev/null", fds[0])
	require.Equal(t, "2 /dev/null", fds[2])

	// It is not the host's: that one's mode stays as it is.
	info, err := os.Stat("/dev/null")
	require.NoError(t, err)
	s.spec.Process.Args = []string{"/probe", "try", "chmod:/proc/self/fd/0"}
	out = tempFile(t)
	s.cfg.Stdout = out
	_, err = s.mustStart().Wait()
	require.NoError(t, err)
	require.Equal(t, "chmod:/proc/self/fd/0 ok\n", content(t, out))
	after, err := os.Stat("/dev/null")
	require.NoError(t, err)
	require.Equal(t, info.Mode(), after.Mode(), "a container changed the mode of the host's /dev/null")
}

// Much data goes through both ways at once, and its end is seen.
func TestPipesBothWays(t *testing.T) {
	b := newBox(t, "echo")
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	b.cfg.Stdin, b.cfg.Stdout = inR, outW
	p := b.mustStart()
	require.NoError(t, inR.Close())
	require.NoError(t, outW.Close())

	const size = 48 << 20
	sent := sha256.New()
	go func() {
		_, _ = io.CopyN(io.MultiWriter(inW, sent), rand.NewChaCha8([32]byte{1}), size)
		_ = inW.Close()
	}()
	received := sha256.New()
	n, err := io.Copy(received, outR)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	require.Equal(t, sent.Sum(nil), received.Sum(nil))
	status, err := p.Wait()
	require.NoError(t, err)
	require.Zero(t, status)
}

func TestReaderThatGoesAway(t *testing.T) {
	b := newBox(t, "flood")
	r, w := pipe(t)
	errOut := tempFile(t)
	b.cfg.Stdout, b.cfg.Stderr = w, errOut
	p := b.mustStart()
	require.NoError(t, w.Close())
	_, err := io.ReadFull(r, make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, r.Close())
	status, err := p.Wait()
	require.NoError(t, err)
	require.NotZero(t, status+len(content(t, errOut)), "it went on writing to nobody")
}

func TestClosedStdin(t *testing.T) {
	b := newBox(t, "sum")
	r, w := pipe(t)
	require.NoError(t, w.Close())
	out := tempFile(t)
	b.cfg.Stdin, b.cfg.Stdout = r, out
	p := b.mustStart()
	_, err := p.Wait()
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("%x 0 <nil>\n", sha256.New().Sum(nil)), content(t, out))
}

// A user who is not root can open what /dev/stdout leads to; a file of the host stays its owner's.
func TestStdioOfAnOrdinaryUser(t *testing.T) {
	b := newBox(t)
	r, w := pipe(t)
	errOut := tempFile(t)
	b.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	b.spec.Process.Args = []string{"/probe", "try", "write:/dev/stdout", "write:/dev/stderr"}
	b.cfg.Stdout, b.cfg.Stderr = w, errOut
	p := b.mustStart()
	require.NoError(t, w.Close())
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	_, err = p.Wait()
	require.NoError(t, err)
	require.Contains(t, string(text), "write:/dev/stdout ok\n")
	require.Contains(t, string(text), "permission denied")
	info, err := errOut.Stat()
	require.NoError(t, err)
	require.Zero(t, info.Sys().(*syscall.Stat_t).Uid) //nolint:forcetypeassert // it is Linux's
}

func TestTerminal(t *testing.T) {
	b := newBox(t, "tty")
	b.spec.Process.Terminal = true
	b.spec.Process.ConsoleSize = &specs.Box{Width: 132, Height: 43}
	b.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	p := b.mustStart()
	tty := p.Terminal()
	defer tty.Close()
	require.Equal(t, "terminal /dev/pts/0 132 43 controlling: true", readUntil(t, tty, "terminal"))
	require.NoError(t, p.Resize(80, 24))
	require.Equal(t, "terminal /dev/pts/0 80 24 controlling: true", readUntil(t, tty, "terminal"))
	require.NoError(t, p.Resize(200, 50))
	require.Equal(t, "terminal /dev/pts/0 200 50 controlling: true", readUntil(t, tty, "terminal"))

	// The terminal's interrupt character becomes SIGINT for who is in its foreground. Go's programs end
	// with 2 then, when the kernel does not let the signal end them.
	_, err := tty.Write([]byte{3})
	require.NoError(t, err)
	status, err := p.Wait()
	require.NoError(t, err)
	require.Equal(t, 2, status)
	_, err = io.Copy(io.Discard, tty)
	require.ErrorIs(t, err, syscall.EIO, "nobody has the other end")
}

func TestConsole(t *testing.T) {
	b := newBox(t).withShell("ls -l /dev/console /dev/pts/0; echo said > /dev/console; cat /proc/self/mountinfo | grep console; test -t 0 && test -t 1 && test -t 2 && echo all")
	b.symlink("sh", "bin/ls")
	b.symlink("sh", "bin/cat")
	b.symlink("sh", "bin/grep")
	b.spec.Process.Args[0] = "/bin/sh"
	b.write("bin/busybox", "", 0o755)
	b.copy(b.path("bin/sh"), "bin/busybox")
	for _, name := range []string{"ls", "cat", "grep"} {
		require.NoError(t, os.Remove(b.path("bin/"+name)))
		b.symlink("busybox", "bin/"+name)
	}
	b.spec.Process.Terminal = true
	p := b.mustStart()
	tty := p.Terminal()
	defer tty.Close()
	text, _ := io.ReadAll(tty)
	status, err := p.Wait()
	require.NoError(t, err)
	require.Zero(t, status, "%s", text)
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(text), "\r", "")), "\n")
	require.Len(t, lines, 5, "%s", text)
	require.Regexp(t, `^crw--w---- .* 136, +0 .*/dev/console$`, lines[0])
	require.Regexp(t, `^crw--w---- .* 136, +0 .*/dev/pts/0$`, lines[1])
	require.Equal(t, "said", lines[2])
	require.Contains(t, lines[3], " /dev/console rw,nosuid,noexec")
	require.Equal(t, "all", lines[4])

	// Without a terminal there is no console.
	require.NotContains(t, newBox(t).look().Dev, "/dev/console")
	require.Nil(t, newBox(t, "exit", "0").mustStart().Terminal())
}
