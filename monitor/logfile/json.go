package logfile

import (
	"bytes"
	"os"
	"sync"
	"time"
)

// flushAt is how much is collected for one write while another is done.
const flushAt = 256 << 10

// jsonWriter writes a container's output in Docker's format "json-file": for each line an object
// {"log":"line\n","stream":"stdout","time":"2006-01-02T15:04:05.000000000Z"}, and a newline.
//
// What is collected is written by a goroutine of its own, as soon as that is done with what came before:
// so little output is written at once, and much in large pieces while more of it is being read.
type jsonWriter struct {
	mu       sync.Mutex // all below
	changed  sync.Cond
	partial  map[Stream][]byte // the beginning of a line of each stream
	tail     []byte            // what an entry ends with
	rotating                   // its size is with all that is still to be written
	out      []byte            // to be written
	writing  bool              // something before it is
	ended    bool
	done     chan struct{}
}

// createJSON opens a log for writing, behind what is there.
func createJSON(files Files) (*jsonWriter, error) {
	l := &jsonWriter{rotating: rotating{Files: files, flags: os.O_WRONLY | os.O_APPEND}, partial: make(map[Stream][]byte), done: make(chan struct{})}
	l.changed.L = &l.mu
	if err := l.open(); err != nil {
		return nil, err
	}
	go l.writeOut()
	return l, nil
}

// writeOut writes what is collected, until the end.
func (l *jsonWriter) writeOut() {
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
			_, _ = file.Write(out) // see Writer
		}
		l.mu.Lock()
		spare, l.writing = out, false
		l.changed.Broadcast()
	}
}

// Write takes what a stream has given at a time. Lines that are whole are written at once.
func (l *jsonWriter) Write(stream Stream, data []byte, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(append(append(l.tail[:0], `","stream":"`...), stream.String()...), `","time":"`...)
	l.tail = append(now.UTC().AppendFormat(l.tail, timeFormat), "\"}\n"...)
	rest := l.partial[stream]
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n') + 1
		if end == 0 {
			rest = append(rest, data...)
			for len(rest) >= maxText {
				l.entry(rest[:maxText])
				rest = append(rest[:0], rest[maxText:]...)
			}
			break
		}
		line := data[:end]
		data = data[end:]
		if len(rest) > 0 {
			rest = append(rest, line...)
			line = rest
		}
		for len(line) > maxText {
			l.entry(line[:maxText])
			line = line[maxText:]
		}
		l.entry(line)
		rest = rest[:0]
	}
	l.partial[stream] = rest
	l.changed.Broadcast()
}

// timeFormat is how the log has a time: RFC 3339, always as long.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// entry adds one entry. l.mu is held.
func (l *jsonWriter) entry(line []byte) {
	start := len(l.out)
	l.out = append(l.out, `{"log":"`...)
	l.out = append(appendJSON(l.out, line), l.tail...)
	length := int64(len(l.out) - start)
	if l.MaxSize > 0 && l.size > 0 && l.size+length > l.MaxSize {
		entry := bytes.Clone(l.out[start:])
		l.out = l.out[:start]
		l.drain(0)
		_ = l.rotate() // then there is no file
		l.out = append(l.out, entry...)
	}
	l.size += length
	l.drain(flushAt)
}

// drain waits until no more than so many bytes are to be written. l.mu is held.
func (l *jsonWriter) drain(most int) {
	for len(l.out) > most || most == 0 && l.writing {
		l.changed.Broadcast()
		l.changed.Wait()
	}
}

// Close writes what was no whole line yet, and waits until all is written.
func (l *jsonWriter) Close(now time.Time) {
	for _, stream := range []Stream{Stdout, Stderr} {
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
