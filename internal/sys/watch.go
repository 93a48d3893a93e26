package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Watch tells when something in a directory was written, made, renamed or removed (inotify(7)).
type Watch struct {
	file *os.File
}

// WatchDir begins to watch a directory.
func WatchDir(path string) (*Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	const what = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE | unix.IN_MOVE_SELF
	if _, err := unix.InotifyAddWatch(fd, path, what); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "watch", Path: path, Err: err}
	}
	return &Watch{os.NewFile(uintptr(fd), "inotify")}, nil
}

// Wait waits until something has happened since the last time, or ctx ends.
func (w *Watch) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 16<<10)
	_, err := w.file.Read(buf)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// Close ends the watch.
func (w *Watch) Close() { _ = w.file.Close() }
