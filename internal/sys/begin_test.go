package sys

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/internal/testenv"
)

// What a process does after it was told to go on may be about what it has opened before, and about what
// we have opened meanwhile; its exec comes last.
func TestBegin(t *testing.T) {
	for _, share := range []bool{true, false} {
		dir := t.TempDir()
		name := filepath.Join(dir, "first")
		self, err := PidFD(os.Getpid())
		require.NoError(t, err)
		defer self.Close()
		p := &Program{}
		p.DieWithParent(self)
		opened := p.opens(p.call("open", unix.SYS_OPENAT, fdcwd, p.str(name), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600))
		b, err := Begin(0, nil, p, share)
		require.NoError(t, err)
		require.NoError(t, b.Wait())
		first := b.File(opened, name)
		later, err := os.OpenFile(filepath.Join(dir, "later"), os.O_CREATE|os.O_RDWR, 0o600)
		require.NoError(t, err)
		p.Write("write", later, "later")
		p.Dup(later, 1)
		p.call("write", unix.SYS_WRITE, 0, p.str("first"), 5).from(0, opened)
		p.KeepUntilExec(first)
		p.ResetSignals()
		p.Exec("exec", "/bin/sh", []string{"sh", "-c", "ls /proc/self/fd | wc -l; kill -TERM $$"}, []string{"PATH=/bin:/usr/bin"})
		require.NoError(t, b.Continue())
		status, err := WaitPidFD(b.PidFD)
		require.NoError(t, err)
		require.NoError(t, b.Failure())
		require.Equal(t, syscall.SIGTERM, status.Signal(), "signals have their meaning")
		require.NoError(t, first.Close())
		require.NoError(t, later.Close())
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, "first", string(text))
		text, err = os.ReadFile(later.Name())
		require.NoError(t, err)
		require.Equal(t, "later4", strings.TrimSpace(string(text)), "0, 1, 2 and that of ls: nothing of ours")
		require.NoError(t, b.PidFD.Close())
		b.Close()
		p.Close()
	}
	requireNoChild(t)
}

func TestBegunTellsWhatFailed(t *testing.T) {
	self, err := PidFD(os.Getpid())
	require.NoError(t, err)
	defer self.Close()
	for _, share := range []bool{true, false} {
		p := &Program{}
		p.DieWithParent(self)
		bad := func() { p.call("open it", unix.SYS_OPENAT, fdcwd, p.str("/does/not/exist"), unix.O_RDONLY) }
		bad()
		b, err := Begin(0, nil, p, share)
		require.NoError(t, err)
		err = b.Wait()
		step, ok := errors.AsType[*StepError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, &StepError{Step: "open it", Errno: syscall.ENOENT}, step)
		b.End()
		b.Close()
		p.Close()

		p = &Program{}
		p.DieWithParent(self)
		b, err = Begin(0, nil, p, share)
		require.NoError(t, err)
		require.NoError(t, b.Wait())
		bad()
		require.NoError(t, b.Continue())
		_, err = SeeExit(b.PidFD)
		require.NoError(t, err)
		require.EqualError(t, b.Failure(), "open it: no such file or directory")
		b.End()
		b.Close()
		p.Close()

		p = &Program{}
		p.DieWithParent(self)
		b, err = Begin(0, nil, p, share)
		require.NoError(t, err)
		require.NoError(t, b.Wait())
		require.NoError(t, SignalPidFD(b.PidFD, unix.SIGKILL))
		require.ErrorIs(t, b.Continue(), ErrKilled)
		b.End()
		b.Close()
		p.Close()
	}
	requireNoChild(t)
}

// Who is waiting to be told to go on ends with its parent.
func TestBegunEndsWithItsParent(t *testing.T) {
	testenv.RequireRoot(t)
	for _, share := range []bool{true, false} {
		var b *Begun
		begun := make(chan error)
		ended := make(chan struct{})
		OnOwnThread(func() {
			self, err := PidFD(os.Getpid())
			if err == nil {
				p := &Program{}
				p.DieWithParent(self)
				if b, err = Begin(NewPID, nil, p, share); err == nil {
					err = b.Wait()
				}
			}
			begun <- err
			<-ended
		})
		require.NoError(t, <-begun)
		close(ended) // the thread ends, as it would if all of us did
		status, err := WaitPidFD(b.PidFD)
		require.NoError(t, err)
		require.Equal(t, syscall.SIGKILL, status.Signal())
		require.NoError(t, b.PidFD.Close())
		b.Close()
	}
}
