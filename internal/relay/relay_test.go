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
	take(syscall.SIGHUP)
	take(syscall.SIGWINCH)
	s.CatchRare(t.Context().Done())
	take(sys.SIGRTMIN + 1)
	take(sys.SIGRTMAX)
}

// A program that ends soon has nobody wait for the rare ones.
func TestCatchRareEnds(t *testing.T) {
	s := Catch()
	defer s.Stop()
	done := make(chan struct{})
	close(done)
	s.CatchRare(done)
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	require.Equal(t, os.Signal(syscall.SIGUSR1), <-s.C)
}
