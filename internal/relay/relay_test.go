package relay

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
)

func TestSignalsAreCaught(t *testing.T) {
	s := Catch()
	defer s.Stop()
	take := func(want syscall.Signal) {
		t.Helper()
		require.NoError(t, syscall.Kill(os.Getpid(), want))
		require.Equal(t, os.Signal(want), <-s.C)
	}
	take(syscall.SIGINT)
	take(syscall.SIGTERM)
	s.CatchMore(t.Context().Done())
	take(syscall.SIGHUP)
	take(syscall.SIGWINCH)
	take(sys.SIGRTMIN + 1)
	take(sys.SIGRTMAX)
}

func TestCatchMoreEnds(t *testing.T) {
	s := Catch()
	defer s.Stop()
	done := make(chan struct{})
	close(done)
	s.CatchMore(done)
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	require.Equal(t, os.Signal(syscall.SIGUSR1), <-s.C)
}
