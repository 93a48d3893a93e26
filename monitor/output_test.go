package monitor

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tarnfs/tarn/monitor/logfile"
)

// copied is a monitor's copying, with the test in the container's place.
type copied struct {
	*monitor

	stdout, stderr *os.File // to write to
}

func startCopying(t *testing.T, format string, files logfile.Files) *copied {
	t.Helper()
	c := &copied{monitor: &monitor{cfg: &Config{Log: files, Format: format}}}
	for fd, to := range map[*int]**os.File{&c.cfg.Stdout: &c.stdout, &c.cfg.Stderr: &c.stderr} {
		var pipe [2]int
		require.NoError(t, syscall.Pipe2(pipe[:], syscall.O_CLOEXEC))
		*fd, *to = pipe[0], os.NewFile(uintptr(pipe[1]), "pipe")
	}
	require.NoError(t, c.openLog())
	require.NoError(t, c.copyOutput())
	return c
}

// end ends it, as the monitor does.
func (c *copied) end(t *testing.T) {
	t.Helper()
	require.NoError(t, errors.Join(c.stdout.Close(), c.stderr.Close()))
	c.finish(0)
}

// readLog gives all lines of a log.
func readLog(t *testing.T, format, path string, do func(l *logfile.Line)) {
	t.Helper()
	r, err := logfile.NewReader(format)
	require.NoError(t, err)
	for n := 100; n >= 0; n-- {
		f, err := os.Open(logfile.Name(path, n))
		if err != nil {
			continue
		}
		defer f.Close()
		r.Open(f)
		for {
			l, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			do(l)
		}
	}
	for l := r.Rest(); l != nil; l = r.Rest() {
		do(l)
	}
}

func bothFormats(t *testing.T, test func(t *testing.T, format string)) {
	for _, format := range []string{logfile.FormatLocal, logfile.FormatJSON} {
		t.Run(format, func(t *testing.T) { test(t, format) })
	}
}

// writeNumbered writes lines "NUMBER xxx", some at a time.
func writeNumbered(w io.Writer, lines, size int) error {
	b := bufio.NewWriterSize(w, size)
	for n := range lines {
		if _, err := fmt.Fprintf(b, "%d %060d\n", n, 0); err != nil {
			return err
		}
	}
	return b.Flush()
}

// TestNothingIsLost writes much to both pipes at once. With room for all of it in rotated files all of it comes back, in
// order; with less room the newest, without holes.
func TestNothingIsLost(t *testing.T) {
	const lines = 300_000 // of 68 bytes
	bothFormats(t, func(t *testing.T, format string) {
		for _, files := range []int{100, 3} {
			path := filepath.Join(t.TempDir(), "log")
			c := startCopying(t, format, logfile.Files{Path: path, MaxSize: 1_500_000, MaxFile: files})
			var writers sync.WaitGroup
			writers.Go(func() { _ = writeNumbered(c.stdout, lines, 4096) })
			writers.Go(func() { _ = writeNumbered(c.stderr, lines/10, 100) })
			writers.Wait()
			c.end(t)
			next := map[logfile.Stream]int{}
			first := map[logfile.Stream]int{}
			readLog(t, format, path, func(l *logfile.Line) {
				number, _, _ := bytes.Cut(l.Text, []byte(" "))
				n, err := strconv.Atoi(string(number))
				require.NoError(t, err)
				if _, known := next[l.Stream]; !known {
					next[l.Stream], first[l.Stream] = n, n
				}
				require.Equal(t, next[l.Stream], n)
				require.Len(t, l.Text, len(number)+62)
				next[l.Stream]++
			})
			require.Equal(t, lines, next[logfile.Stdout])
			if files == 100 {
				require.Equal(t, map[logfile.Stream]int{logfile.Stdout: 0, logfile.Stderr: 0}, first)
				require.Equal(t, lines/10, next[logfile.Stderr])
			} else {
				require.Positive(t, first[logfile.Stdout])
			}
		}
	})
}

// TestOrderOfStreams has one stream write often, and then the other: that comes last, although the first one's
// pipe is resting. It can be otherwise where a thread was kept from running for long.
func TestOrderOfStreams(t *testing.T) {
	bothFormats(t, func(t *testing.T, format string) {
		path := filepath.Join(t.TempDir(), "log")
		c := startCopying(t, format, logfile.Files{Path: path, MaxFile: 1})
		const rounds = 100
		for range rounds {
			_, err := c.stdout.WriteString("out\n")
			require.NoError(t, err)
			for !empty(t, c.cfg.Stdout) {
			}
			for _, f := range []*os.File{c.stdout, c.stdout, c.stderr} {
				_, err := f.WriteString(map[*os.File]string{c.stdout: "out\n", c.stderr: "error\n"}[f])
				require.NoError(t, err)
			}
			for !empty(t, c.cfg.Stdout) || !empty(t, c.cfg.Stderr) {
				time.Sleep(rest)
			}
			time.Sleep(50 * rest)
		}
		c.end(t)
		var text strings.Builder
		readLog(t, format, path, func(l *logfile.Line) { text.Write(l.Text) })
		const round = "out\nout\nout\nerror\n"
		got, right := text.String(), 0
		require.Len(t, got, rounds*len(round))
		for ; got != ""; got = got[len(round):] {
			if got[:len(round)] == round {
				right++
			}
		}
		require.Greater(t, right, rounds*9/10)
	})
}

// empty tells whether there is nothing in a pipe (FIONREAD, pipe(7)).
func empty(t *testing.T, fd int) bool {
	t.Helper()
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	require.NoError(t, err)
	return n == 0
}

// TestAttachedMeanwhile has somebody attach and go while much is written: he sees a part of it, without holes, and the
// log has all.
func TestAttachedMeanwhile(t *testing.T) {
	bothFormats(t, func(t *testing.T, format string) {
		path := filepath.Join(t.TempDir(), "log")
		c := startCopying(t, format, logfile.Files{Path: path, MaxFile: 1})
		const lines = 200_000
		var want bytes.Buffer
		require.NoError(t, writeNumbered(&want, lines, 1<<20))
		written := make(chan error, 1)
		go func() { written <- writeNumbered(c.stdout, lines, 4096) }()
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		ours := os.NewFile(uintptr(pair[0]), "ours")
		c.add(t.Context(), openFile(pair[1], "theirs"))
		var seen bytes.Buffer
		frames := NewFrameReader(ours)
		for seen.Len() < 3<<20 {
			kind, content, err := frames.Next()
			require.NoError(t, err)
			require.Equal(t, Stdout, kind)
			seen.Write(content)
		}
		require.NoError(t, ours.Close())
		require.NoError(t, <-written)
		c.end(t)
		require.True(t, bytes.Contains(want.Bytes(), seen.Bytes()))
		var got bytes.Buffer
		readLog(t, format, path, func(l *logfile.Line) { got.Write(l.Text) })
		require.True(t, bytes.Equal(want.Bytes(), got.Bytes()))
	})
}

// TestWriterThatStays has a process keep the pipes when the container has ended. What it wrote before is there; it is
// not waited for.
func TestWriterThatStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	c := startCopying(t, logfile.FormatLocal, logfile.Files{Path: path, MaxFile: 1})
	_, err := c.stdout.WriteString("last words")
	require.NoError(t, err)
	c.finish(0)
	var text strings.Builder
	readLog(t, logfile.FormatLocal, path, func(l *logfile.Line) { text.Write(l.Text) })
	require.Equal(t, "last words", text.String())
	require.NoError(t, errors.Join(c.stdout.Close(), c.stderr.Close()))
}

// TestNoLog copies to nobody: the container must not wait.
func TestNoLog(t *testing.T) {
	c := startCopying(t, "none", logfile.Files{})
	require.NoError(t, writeNumbered(c.stdout, 100_000, 4096))
	c.end(t)
}
