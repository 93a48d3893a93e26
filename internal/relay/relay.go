// Package relay catches the signals that somebody sends this program to say something to the
// program that it runs.
package relay

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
)

// Signals are caught signals. They wait in C until somebody takes them.
type Signals struct {
	C chan os.Signal
}

// Catch catches the usual signals, before somebody can know that there is a program. Package signal hands each that it
// is to catch from thread to thread, at some 50 µs: who starts a program had better do it when there is nothing else
// to wait for. The caller calls Stop at last.
func Catch() *Signals {
	s := &Signals{C: make(chan os.Signal, 64)} // as many as there are kinds, so that none is dropped
	signal.Notify(s.C, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGALRM, syscall.SIGCONT, syscall.SIGWINCH)
	return s
}

// rareDelay is how long a program has to run to be one that somebody sends rare signals.
const rareDelay = 20 * time.Millisecond

// CatchRare catches the others, when the program seems to stay. It returns when they are caught, or done is
// closed. Those that are never caught are about this process itself (SIGPIPE, SIGCHLD, faults), or about
// its place in the terminal (SIGTSTP).
func (s *Signals) CatchRare(done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-time.After(rareDelay):
	}
	rare := []os.Signal{syscall.SIGIO, syscall.SIGPWR}
	for n := sys.SIGRTMIN + 1; n <= sys.SIGRTMAX; n++ { // Go's runtime gives nobody the first
		rare = append(rare, n)
	}
	signal.Notify(s.C, rare...)
}

// Stop ends the catching: soon, signals mean to this program what they meant before. It does not wait for that, since
// most end with it.
func (s *Signals) Stop() { go signal.Stop(s.C) }
