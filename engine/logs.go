package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/monitor/logfile"
)

// LogOptions selects what of a container's output is given.
type LogOptions struct {
	Follow       bool      // wait for more, until the container ends or Until has come
	Since, Until time.Time // zero: no bound
	Tail         int       // so many lines at the end; negative for all
}

// LogLine is a line that a container has written, or a piece of a long one.
type LogLine = logfile.Line

// Logs gives what a container has written, in its order, to do.
func (e *Engine) Logs(ctx context.Context, key string, opts LogOptions, do func(*LogLine) error) error {
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	if c.logFormat() == LogNone {
		return fmt.Errorf("logs of container %s: it keeps none (--log-driver none)", c.Name)
	}
	if c.Running() && c.Settings.Host.AutoRemove {
		if _, err := os.Lstat(e.socketPath(c)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("logs of container %s: it is run in the foreground with --rm, and keeps none", c.Name)
		}
	}
	l, err := openLogs(c)
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.begin(opts); err != nil {
		return fmt.Errorf("logs of container %s: %w", c.Name, err)
	}
	give := func(line *LogLine) error {
		if !opts.Until.IsZero() && line.Time.After(opts.Until) || line.Time.Before(opts.Since) {
			return nil
		}
		return do(line)
	}
	for more := true; more; {
		line, err := l.next()
		if err == nil {
			err = give(line)
		} else if errors.Is(err, io.EOF) {
			more, err = opts.Follow, nil
			if more {
				more, err = l.await(ctx, opts.Until)
			}
		}
		if err != nil {
			return err
		}
	}
	for line := l.reader.Rest(); line != nil && ctx.Err() == nil; line = l.reader.Rest() {
		if err := give(line); err != nil {
			return err
		}
	}
	return l.damaged
}

// logReader reads the files of a container's log, from the oldest on.
type logReader struct {
	c       *Container
	where   logfile.Files
	files   []*os.File // to be read, the oldest first; the last is the newest, as far as is known
	reader  logfile.Reader
	watch   *sys.Watch
	ended   bool  // the container has, before the last look
	damaged error // of a file that could not be read
}

func openLogs(c *Container) (*logReader, error) {
	where, err := c.logFiles()
	if err != nil {
		return nil, err
	}
	l := &logReader{c: c, where: where}
	if l.reader, err = logfile.NewReader(c.logFormat()); err != nil {
		return nil, err
	}
	if l.watch, err = sys.WatchDir(c.Dir()); err != nil {
		return nil, err
	}
	if l.files, err = l.newer(nil); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// newer opens the files that are newer than one, or all that there are, the oldest first. Should they be rotated
// meanwhile, the newest is missing, and found later.
func (l *logReader) newer(than *os.File) (files []*os.File, err error) {
	for n := range l.where.MaxFile {
		f, err := os.Open(logfile.Name(l.where.Path, n))
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing was written yet, it is being rotated, or who did that was killed
		}
		if err != nil {
			return files, err
		}
		if than != nil && sameFile(f, than) {
			_ = f.Close()
			break
		}
		if len(files) > 0 && sameFile(f, files[len(files)-1]) { // renamed meanwhile
			_ = f.Close()
			continue
		}
		files = append(files, f)
	}
	slices.Reverse(files)
	return files, nil
}

// begin opens the first file that is to be read.
func (l *logReader) begin(opts LogOptions) error {
	if len(l.files) == 0 {
		return nil
	}
	if opts.Tail < 0 {
		l.reader.Open(l.files[0])
		return nil
	}
	first, err := l.reader.Tail(l.files, opts.Tail, !opts.Follow)
	for range first {
		l.forget()
	}
	return err
}

func (l *logReader) close() {
	l.watch.Close()
	for len(l.files) > 0 {
		l.forget()
	}
}

// forget closes the oldest file.
func (l *logReader) forget() {
	_ = l.files[0].Close()
	l.files = l.files[1:]
}

// next gives the next line, valid until the one after, or [io.EOF] if there is none now.
func (l *logReader) next() (*LogLine, error) {
	for len(l.files) > 0 {
		line, err := l.reader.Next()
		if errors.Is(err, logfile.ErrFormat) {
			l.damaged = fmt.Errorf("logs of container %s: %s: %w", l.c.Name, filepath.Base(l.files[0].Name()), err)
			err = io.EOF
		}
		if !errors.Is(err, io.EOF) {
			return line, err
		}
		if len(l.files) == 1 {
			break
		}
		l.forget()
		l.reader.Open(l.files[0])
	}
	return nil, io.EOF
}

// await waits until there may be more, and tells whether there can be: not after a time, if that is not zero.
func (l *logReader) await(ctx context.Context, until time.Time) (bool, error) {
	if l.ended {
		return false, nil
	}
	came, err := l.openNewer()
	if came || err != nil {
		return true, err
	}
	now := l.c.refreshed()
	past := !until.IsZero() && !time.Now().Before(until)
	if past || !now.Running() && now.State.Status != StatusRestarting || now.gone() {
		l.ended = true // one more look: it may have written before
		return true, nil
	}
	// A monitor that was killed writes nothing that wakes us.
	wake := time.Now().Add(time.Second)
	if !until.IsZero() && until.Before(wake) {
		wake = until
	}
	bounded, cancel := context.WithDeadline(ctx, wake)
	defer cancel()
	err = l.watch.Wait(bounded)
	if ctx.Err() != nil {
		return false, nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return true, err
}

// openNewer opens the files that have come since the last look, if there are some.
func (l *logReader) openNewer() (bool, error) {
	var newest *os.File
	if len(l.files) > 0 {
		newest = l.files[len(l.files)-1]
		// What was at this place when the newest file was read to its end: then a new one follows.
		if is, err := isAt(newest, l.where.Path); is || err != nil {
			return false, err
		}
	}
	files, err := l.newer(newest)
	if newest == nil && len(files) > 0 {
		l.reader.Open(files[0])
	}
	l.files = append(l.files, files...)
	return len(files) > 0, err
}
