package sys

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// TryFlock takes a lock on f's open file description (flock(2)) if no other holds one against it,
// and reports whether it did. It ends when f is closed, by whatever kind of death.
func TryFlock(f *os.File, exclusive bool) (bool, error) {
	err := flock(f, flockHow(exclusive)|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("flock %s: %w", f.Name(), err)
	}
	return true, nil
}

// Flock waits for the lock that TryFlock takes. When ctx ends first, f still waits in the
// background: the caller must not use f again, and Flock closes it.
func Flock(ctx context.Context, f *os.File, exclusive bool) error {
	if got, err := TryFlock(f, exclusive); got || err != nil {
		return err
	}
	var err error
	done := make(chan struct{})
	go func() {
		err = flock(f, flockHow(exclusive))
		close(done)
	}()
	select {
	case <-done:
		if err != nil {
			return fmt.Errorf("flock %s: %w", f.Name(), err)
		}
		return nil
	case <-ctx.Done():
		// A blocked flock(2) cannot be called back; the lock is given up once it comes.
		go func() {
			<-done
			_ = f.Close()
		}()
		return fmt.Errorf("flock %s: %w", f.Name(), context.Cause(ctx))
	}
}

// WaitFlock waits for the lock that TryFlock takes, for locks that are only held for moments.
func WaitFlock(f *os.File, exclusive bool) error {
	if err := flock(f, flockHow(exclusive)); err != nil {
		return fmt.Errorf("flock %s: %w", f.Name(), err)
	}
	return nil
}

// Unlock gives up the lock, with f open.
func Unlock(f *os.File) error {
	if err := flock(f, unix.LOCK_UN); err != nil {
		return fmt.Errorf("flock %s: %w", f.Name(), err)
	}
	return nil
}

func flock(f *os.File, how int) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var lockErr error
	err = raw.Control(func(fd uintptr) {
		for {
			if lockErr = unix.Flock(int(fd), how); !errors.Is(lockErr, unix.EINTR) {
				return
			}
		}
	})
	return errors.Join(err, lockErr)
}

func flockHow(exclusive bool) int {
	if exclusive {
		return unix.LOCK_EX
	}
	return unix.LOCK_SH
}
