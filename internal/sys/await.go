package sys

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pollStep bounds, in milliseconds, how long AwaitExit goes without a look at its context.
const pollStep = 50

// AwaitExit waits until the process behind a pidfd has ended, whoever's child it is.
func AwaitExit(ctx context.Context, pidfd *os.File) error {
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, pollStep)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for a process: %w", err)
		case n > 0:
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("wait for a process: %w", err)
		}
	}
}
