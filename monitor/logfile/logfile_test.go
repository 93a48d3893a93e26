package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// both runs a test with each format.
func both(t *testing.T, test func(t *testing.T, format string)) {
	for _, format := range []string{FormatLocal, FormatJSON} {
		t.Run(format, func(t *testing.T) { test(t, format) })
	}
}

func create(t testing.TB, format string, files Files) Writer {
	t.Helper()
	w, err := Create(format, files)
	require.NoError(t, err)
	return w
}

// openAll opens the files of a log, the oldest first.
func openAll(t testing.TB, path string) (files []*os.File) {
	t.Helper()
	for n := 9; n >= 0; n-- {
		f, err := os.Open(Name(path, n))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
		files = append(files, f)
	}
	return files
}

// remember keeps a line beyond the next one.
func remember(l *Line) Line {
	kept := *l
	kept.Text = bytes.Clone(l.Text)
	return kept
}

// drain gives what a reader gives of files, the first of which it has opened.
func drain(t testing.TB, r Reader, files []*os.File) (lines []Line) {
	t.Helper()
	for {
		l, err := r.Next()
		if errors.Is(err, io.EOF) {
			if files = files[1:]; len(files) == 0 {
				break
			}
			r.Open(files[0])
			continue
		}
		require.NoError(t, err)
		lines = append(lines, remember(l))
	}
	for l := r.Rest(); l != nil; l = r.Rest() {
		lines = append(lines, remember(l))
	}
	return lines
}

func readAll(t testing.TB, format, path string) []Line {
	t.Helper()
	r, err := NewReader(format)
	require.NoError(t, err)
	files := openAll(t, path)
	r.Open(files[0])
	return drain(t, r, files)
}

func tail(t testing.TB, format, path string, n int) []Line {
	t.Helper()
	r, err := NewReader(format)
	require.NoError(t, err)
	files := openAll(t, path)
	first, err := r.Tail(files, n, true)
	require.NoError(t, err)
	return drain(t, r, files[first:])
}

// shown is a line as a word and its text.
func shown(lines []Line) []string {
	list := []string{}
	for _, l := range lines {
		list = append(list, l.Stream.String()+" "+string(l.Text))
	}
	return list
}

func TestLines(t *testing.T) {
	both(t, func(t *testing.T, format string) {
		path := filepath.Join(t.TempDir(), "log")
		w := create(t, format, Files{Path: path, MaxFile: 1})
		now := time.Date(2026, 1, 2, 3, 4, 5, 600, time.FixedZone("there", 3600))
		long := strings.Repeat("x", maxText)
		for _, write := range []struct {
			stream Stream
			text   string
		}{
			{Stdout, "one\ntw"},
			{Stderr, "error\n"},
			{Stdout, "o\n\n"},
			{Stdout, long + long + "end\n"},
			{Stdout, long + "\n"},
			{Stdout, long[1:] + "\n"},
			{Stderr, long + "xyz"},
			{Stdout, "no end"},
		} {
			w.Write(write.stream, []byte(write.text), now)
		}
		w.Close(now)
		lines := readAll(t, format, path)
		for _, l := range lines {
			require.True(t, l.Time.Equal(now))
		}
		require.Equal(t, []string{
			"stdout one\n", "stderr error\n", "stdout two\n", "stdout \n",
			"stdout " + long, "stdout " + long, "stdout end\n", "stdout " + long, "stdout \n", "stdout " + long[1:] + "\n",
			"stderr " + long, "stdout no end", "stderr xyz",
		}, shown(lines))
	})
}

// TestRotation writes much with little room: nothing is missing between the oldest that is kept and the newest,
// and no file is larger than it may be.
func TestRotation(t *testing.T) {
	both(t, func(t *testing.T, format string) {
		for _, files := range []int{1, 4} {
			path := filepath.Join(t.TempDir(), "log")
			const size, lines = 64 << 10, 20_000
			w := create(t, format, Files{path, size, files})
			var text bytes.Buffer
			for n := range lines {
				fmt.Fprintf(&text, "line %d\n", n)
			}
			for part := text.Bytes(); len(part) > 0; {
				n := min(len(part), 5000)
				w.Write(Stdout, part[:n], time.Now())
				part = part[n:]
			}
			w.Close(time.Now())
			list := readAll(t, format, path)
			require.NotEmpty(t, list)
			first := lines - len(list)
			for i, l := range list {
				require.Equal(t, fmt.Sprintf("line %d\n", first+i), string(l.Text))
			}
			kept, err := filepath.Glob(path + "*")
			require.NoError(t, err)
			require.Len(t, kept, files)
			for i, name := range kept {
				info, err := os.Stat(name)
				require.NoError(t, err)
				require.LessOrEqual(t, info.Size(), int64(size))
				if i > 0 { // all but the newest are full
					require.Greater(t, info.Size(), int64(size-200))
				}
			}
		}
	})
}

// TestRotationThatWasCutShort finds names missing, as when it is killed between two renames.
func TestRotationThatWasCutShort(t *testing.T) {
	both(t, func(t *testing.T, format string) {
		path := filepath.Join(t.TempDir(), "log")
		files := Files{path, 1 << 10, 4}
		n := 0
		write := func(lines int) {
			w := create(t, format, files)
			for range lines {
				w.Write(Stdout, fmt.Appendf(nil, "line %d\n", n), time.Now())
				n++
			}
			w.Close(time.Now())
		}
		write(200)
		for i := 3; i > 1; i-- { // the oldest is gone, two have new names, the newest not yet
			require.NoError(t, os.Rename(Name(path, i-1), Name(path, i)))
		}
		before := readAll(t, format, path)
		write(12)
		list := readAll(t, format, path)
		require.Equal(t, string(before[0].Text), string(list[0].Text), "a name that is free is used first")
		for i, l := range list {
			require.Equal(t, fmt.Sprintf("line %d\n", n-len(list)+i), string(l.Text))
		}
	})
}

// TestGoingOn has a second and a third monitor append. What had no end is not joined with what comes after it.
func TestGoingOn(t *testing.T) {
	both(t, func(t *testing.T, format string) {
		path := filepath.Join(t.TempDir(), "log")
		for n := range 3 {
			w := create(t, format, Files{path, 140, 6})
			w.Write(Stdout, fmt.Appendf(nil, "start %d\nno end", n), time.Now())
			w.Close(time.Now())
		}
		require.Equal(t, []string{
			"stdout start 0\n", "stdout no end", "stdout start 1\n", "stdout no end", "stdout start 2\n", "stdout no end",
		}, shown(readAll(t, format, path)))
		require.FileExists(t, path+".1")
	})
}

// TestTail compares the last lines of logs of two streams, with short and long lines in pieces, with those of
// the whole.
func TestTail(t *testing.T) {
	both(t, func(t *testing.T, format string) {
		r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // for a test
		for range 10 {
			path := filepath.Join(t.TempDir(), "log")
			w := create(t, format, Files{path, 100 << 10, 5})
			for range 2000 {
				text := bytes.Repeat([]byte("a"), r.IntN(300))
				if r.IntN(3) > 0 {
					text = append(text, '\n')
				}
				w.Write(Stdout+Stream(r.IntN(2)), text, time.Now())
			}
			w.Close(time.Now())
			all := readAll(t, format, path)
			for _, n := range []int{0, 1, 2, 10, 100, 500, len(all) - 1, len(all), len(all) + 1, 1 << 40} {
				require.Equal(t, shown(all[max(0, len(all)-n):]), shown(tail(t, format, path, n)), n)
			}
		}
	})
}

// TestFullDisk loses what cannot be written, and no more.
func TestFullDisk(t *testing.T) {
	w := create(t, FormatJSON, Files{Path: "/dev/full", MaxFile: 1})
	for range 10 {
		w.Write(Stdout, bytes.Repeat([]byte("lost\n"), 100_000), time.Now())
	}
	w.Close(time.Now())
}

func BenchmarkWrite(b *testing.B) {
	for _, format := range []string{FormatLocal, FormatJSON} {
		b.Run(format, func(b *testing.B) {
			w := create(b, format, Files{filepath.Join(b.TempDir(), "log"), 100 << 20, 2})
			line := "2026-11-25 21:50:00 INFO request handled path=/index.html status=200 bytes=5120 duration=12ms client=10.0.0.1\n"
			data := bytes.Repeat([]byte(line), 64<<10/len(line))
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				w.Write(Stdout, data, time.Now())
			}
			w.Close(time.Now())
		})
	}
}
