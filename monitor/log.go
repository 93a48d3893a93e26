package monitor

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"
)

// maxEntry is the most that is one entry of the log, in bytes, as in Docker: a longer line is several, of
// which only the last one ends with a newline.
const maxEntry = 16 << 10

// flushAt is how much is collected for one write while another is done.
const flushAt = 256 << 10

// Log writes a container's output in Docker's format "json-file": for each line an object
// {"log":"line\n","stream":"stdout","time":"2006-01-02T15:04:05.000000000Z"}, and a newline.
//
// What is collected is written by a goroutine of its own, as soon as that is done with what came before:
// so little output is written at once, and much in large pieces while more of it is being read.
//
// A write that fails loses what it was to write: a full disk must not stop the container.
type Log struct {
	path    string
	maxSize int64
	maxFile int

	partial map[string][]byte // the beginning of a line of each stream
	tail    []byte            // what an entry ends with
	size    int64             // of the file, with all that is still to be written

	mu      sync.Mutex // all below
	changed sync.Cond
	file    *os.File
	out     []byte // to be written
	writing bool   // something before it is
	ended   bool
	done    chan struct{}
}

// OpenLog opens the log at path, behind what is there. maxSize is the size in bytes after which it is rotated, 0 for
// never, and maxFile how many files there are then.
func OpenLog(path string, maxSize int64, maxFile int) (*Log, error) {
	l := &Log{
		path: path, maxSize: maxSize, maxFile: max(maxFile, 1), partial: make(map[string][]byte), done: make(chan struct{}),
	}
	l.changed.L = &l.mu
	if err := l.open(); err != nil {
		return nil, err
	}
	go l.writeOut()
	return l, nil
}

func (l *Log) open() (err error) {
	if l.file, err = os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640); err != nil {
		return err
	}
	info, err := l.file.Stat()
	if err == nil {
		l.size = info.Size()
	}
	return err
}

// writeOut writes what is collected, until the end.
func (l *Log) writeOut() {
	defer close(l.done)
	var spare []byte
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for len(l.out) == 0 && !l.ended {
			l.changed.Wait()
		}
		if len(l.out) == 0 {
			return
		}
		out, file := l.out, l.file
		l.out, l.writing = spare[:0], true
		l.mu.Unlock()
		if file != nil {
			_, _ = file.Write(out) // see Log
		}
		l.mu.Lock()
		spare, l.writing = out, false
		l.changed.Broadcast()
	}
}

// Write takes what a stream, "stdout" or "stderr", has given at a time. Lines that are whole are written at once.
func (l *Log) Write(stream string, data []byte, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(append(append(l.tail[:0], `","stream":"`...), stream...), `","time":"`...)
	l.tail = append(now.UTC().AppendFormat(l.tail, TimeFormat), "\"}\n"...)
	rest := l.partial[stream]
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n') + 1
		if end == 0 {
			rest = append(rest, data...)
			for len(rest) >= maxEntry {
				l.entry(rest[:maxEntry])
				rest = append(rest[:0], rest[maxEntry:]...)
			}
			break
		}
		line := data[:end]
		data = data[end:]
		if len(rest) > 0 {
			rest = append(rest, line...)
			line = rest
		}
		for len(line) > maxEntry {
			l.entry(line[:maxEntry])
			line = line[maxEntry:]
		}
		l.entry(line)
		rest = rest[:0]
	}
	l.partial[stream] = rest
	l.changed.Broadcast()
}

// TimeFormat is how the log has a time: RFC 3339, always as long.
const TimeFormat = "2006-01-02T15:04:05.000000000Z"

// entry adds one entry. l.mu is held.
func (l *Log) entry(line []byte) {
	start := len(l.out)
	l.out = append(l.out, `{"log":"`...)
	l.out = append(appendJSON(l.out, line), l.tail...)
	length := int64(len(l.out) - start)
	if l.maxSize > 0 && l.size > 0 && l.size+length > l.maxSize {
		entry := bytes.Clone(l.out[start:])
		l.out = l.out[:start]
		l.drain(0)
		l.rotate()
		l.out = append(l.out, entry...)
	}
	l.size += length
	l.drain(flushAt)
}

// drain waits until no more than so many bytes are to be written. l.mu is held.
func (l *Log) drain(most int) {
	for len(l.out) > most || most == 0 && l.writing {
		l.changed.Broadcast()
		l.changed.Wait()
	}
}

// rotate gives the file the name that ends in .1, that one .2, and so on. The oldest goes.
func (l *Log) rotate() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
	if l.maxFile == 1 {
		_ = os.Remove(l.path)
	}
	for n := l.maxFile - 1; n > 0; n-- {
		if err := os.Rename(RotatedLog(l.path, n-1), RotatedLog(l.path, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	_ = l.open()
}

// RotatedLog is the name of the n-th file of a log, 0 being the newest.
func RotatedLog(path string, n int) string {
	if n == 0 {
		return path
	}
	return path + "." + strconv.Itoa(n)
}

// Close writes what was no whole line yet, and waits until all is written.
func (l *Log) Close(now time.Time) {
	for _, stream := range []string{stdoutName, stderrName} {
		if rest := l.partial[stream]; len(rest) > 0 {
			l.partial[stream] = nil
			l.Write(stream, nil, now) // the tail
			l.mu.Lock()
			l.entry(rest)
			l.mu.Unlock()
		}
	}
	l.mu.Lock()
	l.ended = true
	l.changed.Broadcast()
	l.mu.Unlock()
	<-l.done
	if l.file != nil {
		_ = l.file.Close()
	}
}

// Streams of the log.
const (
	stdoutName = "stdout"
	stderrName = "stderr"
)
