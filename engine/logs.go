package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/monitor"
)

// LogOptions selects what of a container's output is given.
type LogOptions struct {
	Follow       bool      // wait for more, until the container ends
	Since, Until time.Time // zero: no bound
	Tail         int       // so many entries at the end; negative for all
}

// LogEntry is a line that a container has written, or a piece of a long one: only the last ends with a
// newline.
type LogEntry struct {
	Log    string    `json:"log"`
	Stream string    `json:"stream"` // "stdout" or "stderr"
	Time   time.Time `json:"time"`
}

// Logs gives what a container has written, in its order, to do.
func (e *Engine) Logs(ctx context.Context, key string, opts LogOptions, do func(*LogEntry) error) error {
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	if c.Settings.Host.LogConfig.Type == LogNone {
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
	if opts.Tail >= 0 {
		if err := l.skipTo(opts.Tail); err != nil {
			return err
		}
	}
	for {
		line, err := l.next()
		if err == nil {
			err = giveEntry(line, opts, do)
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return err
		default:
			more := false
			if opts.Follow {
				if more, err = l.await(ctx); err != nil && ctx.Err() == nil {
					return err
				}
			}
			if !more {
				return nil
			}
		}
	}
}

// giveEntry gives an entry that is selected. After opts.Until there is none.
func giveEntry(line []byte, opts LogOptions, do func(*LogEntry) error) error {
	var entry LogEntry
	if err := json.Unmarshal(line, &entry); err != nil {
		return nil //nolint:nilerr // a line that a full disk has cut short
	}
	if !opts.Until.IsZero() && entry.Time.After(opts.Until) || entry.Time.Before(opts.Since) {
		return nil
	}
	return do(&entry)
}

// logReader reads the files of a container's log, from the oldest on.
type logReader struct {
	c     *Container
	path  string
	files []*os.File // to be read, the oldest first; the last is the newest, as far as is known
	r     *bufio.Reader
	line  []byte // a line that is not whole yet
	watch *sys.Watch
	ended bool // the container has, before the last look
}

func openLogs(c *Container) (*logReader, error) {
	watch, err := sys.WatchDir(c.Dir())
	if err != nil {
		return nil, err
	}
	l := &logReader{c: c, path: c.logPath(), watch: watch}
	if err := l.open(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// open opens all files. Should they be rotated meanwhile, the newest is missing, and found later.
func (l *logReader) open() error {
	for n := 0; ; n++ {
		f, err := os.Open(monitor.RotatedLog(l.path, n))
		if errors.Is(err, fs.ErrNotExist) && n > 0 {
			break
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing was written yet, or it is being rotated
		}
		if err != nil {
			return err
		}
		if len(l.files) > 0 && sameFile(f, l.files[len(l.files)-1]) {
			_ = f.Close()
			continue
		}
		l.files = append(l.files, f)
	}
	slices.Reverse(l.files)
	if len(l.files) > 0 {
		l.r = bufio.NewReaderSize(l.files[0], 64<<10)
	}
	return nil
}

func (l *logReader) close() {
	l.watch.Close()
	for _, f := range l.files {
		_ = f.Close()
	}
}

// next gives the next line, valid until the one after, or [io.EOF] if there is none now.
func (l *logReader) next() ([]byte, error) {
	for l.r != nil {
		part, err := l.r.ReadSlice('\n')
		l.line = append(l.line, part...)
		switch {
		case err == nil:
			line := l.line
			l.line = l.line[:0]
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case !errors.Is(err, io.EOF):
			return nil, err
		case len(l.files) > 1:
			l.advance()
		default:
			return nil, io.EOF
		}
	}
	return nil, io.EOF
}

// advance goes on with the next file.
func (l *logReader) advance() {
	_ = l.files[0].Close()
	l.files, l.line = l.files[1:], l.line[:0]
	l.r.Reset(l.files[0])
}

// await waits until there may be more, and tells whether there can be.
func (l *logReader) await(ctx context.Context) (bool, error) {
	if l.ended {
		return false, nil
	}
	if len(l.files) > 0 {
		// What was at this place when the newest file was read to its end: then a new one follows.
		is, err := isAt(l.files[len(l.files)-1], l.path)
		if err != nil {
			return false, err
		}
		if !is {
			return true, l.openNewer()
		}
	} else if _, err := os.Stat(l.path); err == nil {
		return true, l.openNewer()
	}
	now := l.c.refreshed()
	if !now.Running() && now.State.Status != StatusRestarting || now.gone() {
		l.ended = true // one more look: it may have written before
		return true, nil
	}
	// A monitor that was killed writes nothing that wakes us.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := l.watch.Wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return true, nil
	}
	return err == nil, err
}

// openNewer opens the files that have come since the last look: those before the one that was the newest.
func (l *logReader) openNewer() error {
	var newer []*os.File
	for n := 0; ; n++ {
		f, err := os.Open(monitor.RotatedLog(l.path, n))
		if errors.Is(err, fs.ErrNotExist) && n == 0 {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			break // the one that was the newest is gone already
		}
		if err != nil {
			return err
		}
		if len(l.files) > 0 && sameFile(f, l.files[len(l.files)-1]) {
			_ = f.Close()
			break
		}
		newer = append(newer, f)
	}
	slices.Reverse(newer)
	l.files = append(l.files, newer...)
	if l.r == nil && len(l.files) > 0 {
		l.r = bufio.NewReaderSize(l.files[0], 64<<10)
	}
	return nil
}

// tailBlock is how much is read at once from the end of a log.
const tailBlock = 64 << 10

// skipTo leaves out all but the last n lines.
func (l *logReader) skipTo(n int) error {
	for i := len(l.files) - 1; i >= 0; i-- {
		offset, left, err := lastLines(l.files[i], n)
		if err != nil {
			return err
		}
		if n = left; n > 0 && i > 0 {
			continue
		}
		if _, err := l.files[i].Seek(offset, io.SeekStart); err != nil {
			return err
		}
		for ; i > 0; i-- {
			_ = l.files[0].Close()
			l.files = l.files[1:]
		}
		l.r.Reset(l.files[0])
		return nil
	}
	return nil
}

// lastLines finds where the last n lines of a file begin; left is how many are missing.
func lastLines(f *os.File, n int) (offset int64, left int, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	if n == 0 {
		return info.Size(), 0, nil
	}
	buf := make([]byte, tailBlock)
	for end := info.Size(); end > 0; {
		start := max(0, end-tailBlock)
		block := buf[:end-start]
		if _, err := f.ReadAt(block, start); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", filepath.Base(f.Name()), err)
		}
		for i := bytes.LastIndexByte(block, '\n'); i >= 0; i = bytes.LastIndexByte(block[:i], '\n') {
			at := start + int64(i) + 1
			if at == info.Size() {
				continue // the end of the last line
			}
			if n--; n == 0 {
				return at, 0, nil
			}
		}
		end = start
	}
	if info.Size() > 0 {
		n--
	}
	return 0, n, nil
}
