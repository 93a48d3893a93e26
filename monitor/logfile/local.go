package logfile

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
)

// Local writes what comes out of a container's pipes as it comes, in chunks, each with a short header. See
// docs/format.md, "A log of the kind local".
type Local struct {
	mu       sync.Mutex // all below
	rotating            // its size is where the next chunk goes
	marker   marker
	next     chunk  // what is known of the next chunk's header
	header   []byte // for one
	pipe     [2]int // to read from, and to write to; zeros until there is one
	grown    bool   // the pipe is
}

// createLocal opens a log for writing, behind what is there.
func createLocal(files Files) (*Local, error) {
	l := &Local{rotating: rotating{Files: files, flags: os.O_RDWR}, header: make([]byte, 0, headerSize)}
	err := l.open()
	if err == nil && l.size > 0 {
		err = l.resume()
	}
	if errors.Is(err, ErrFormat) { // that nobody can read: it must not be in the way
		l.shift(max(l.MaxFile, 2))
		_ = l.file.Close()
		err = l.open()
	}
	return l, err
}

// resume finds the end of a file that was written to before. If its writer was killed it mends the end.
func (l *Local) resume() error {
	w := window{file: l.file}
	var err error
	if l.marker, err = w.fileHeader(); err != nil {
		return err
	}
	end := int64(headerSize)
	for at := max(end, l.size-maxChunk-headerSize); ; at = end {
		found, c, err := w.find(at, l.marker)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		l.next.number = c.number + 1
		end = found + headerSize + int64(c.length)
		if end <= l.size {
			continue
		}
		c.length = uint32(l.size - found - headerSize)
		if end = l.size; c.length == 0 {
			end = found
		} else if _, err := l.file.WriteAt(c.append(l.header, l.marker), found); err != nil {
			return err
		}
		break
	}
	if l.size-end > headerSize {
		return nil // who reads it finds out what of it counts
	}
	l.size = end
	return l.file.Truncate(end)
}

// begin writes the header of a chunk, in a new file if there is no room, and gives how much of n bytes is to follow.
// With 0 it could not.
func (l *Local) begin(stream Stream, n int, now time.Time) int {
	if l.file == nil || l.room() < 1 {
		_ = l.rotate() // then there is no file, or no room
	}
	n = int(min(int64(n), l.room(), maxChunk))
	l.next.stream, l.next.time, l.next.length = stream, now.UnixNano(), uint32(max(n, 0))
	if l.file == nil || n < 1 {
		return 0
	}
	if l.size == 0 {
		_, _ = rand.Read(l.marker[:]) // it never fails
		if _, err := l.file.WriteAt(fileHeader(l.marker), 0); err != nil {
			_ = l.file.Truncate(0)
			return 0
		}
		l.size = headerSize
	}
	if _, err := l.file.WriteAt(l.next.append(l.header, l.marker), l.size); err != nil {
		return 0
	}
	return n
}

// room gives how much a chunk can have in the file that is open.
func (l *Local) room() int64 {
	if l.MaxSize <= 0 {
		return maxChunk
	}
	return l.MaxSize - max(l.size, headerSize) - headerSize
}

// end ends a chunk of n bytes, the last of which is given; written says whether it is there.
func (l *Local) end(n int, last byte, written bool) {
	if written {
		l.size += headerSize + int64(n)
	} else if l.file != nil {
		_ = l.file.Truncate(l.size)
	}
	l.next.number++ // of what is missing, too: so one sees that it is
	l.next.inside.put(l.next.stream, last)
}

// Write takes what a stream has given at a time.
func (l *Local) Write(stream Stream, data []byte, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(data) > 0 {
		n := l.begin(stream, len(data), now)
		written := n > 0
		if written {
			_, err := l.file.WriteAt(data[:n], l.size+headerSize)
			written = err == nil
		} else {
			n = len(data)
		}
		l.end(n, data[n-1], written)
		data = data[n:]
	}
}

// Splice takes what is in a stream's pipe, a descriptor, at most as much as a large chunk has, and gives how much
// that was: 0 at the pipe's end, EAGAIN if there is none now.
//
// The kernel moves it: into a pipe of ours first, in no time, and from there into the file. While a pipe's content is
// written, nobody else can write to that pipe.
func (l *Local) Splice(stream Stream, from int, now time.Time) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pipe == [2]int{} {
		if err := syscall.Pipe2(l.pipe[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
			return 0, err
		}
	}
	taken, err := sys.Splice(from, l.pipe[1], nil, maxChunk)
	if err != nil {
		return 0, err
	}
	if taken >= smallPipe/2 && !l.grown {
		sys.GrowPipe(l.pipe[1], maxChunk) // there is more where this comes from
		l.grown = true
	}
	for left := taken; left > 0; {
		n := l.begin(stream, left, now)
		moved := l.move(n)
		left -= moved
		if moved < n || n == 0 {
			l.end(n, l.discard(), false)
			break
		}
		var last [1]byte
		_, err := l.file.ReadAt(last[:], l.size+headerSize+int64(n)-1)
		l.end(n, last[0], err == nil)
	}
	return taken, nil
}

// smallPipe is what a pipe holds that was not made larger.
const smallPipe = 64 << 10

// move moves n bytes from the pipe to the chunk that was begun, and gives how many it could.
func (l *Local) move(n int) (moved int) {
	at := l.size + headerSize
	for moved < n {
		got, err := sys.Splice(l.pipe[0], int(l.file.Fd()), &at, n-moved)
		if errors.Is(err, syscall.EINVAL) { // this file system cannot
			return moved + l.copy(n-moved, at)
		}
		if err != nil || got == 0 {
			break
		}
		moved += got
	}
	return moved
}

// copy is move by hand, to a place in the file.
func (l *Local) copy(n int, at int64) (moved int) {
	buf := make([]byte, min(n, smallPipe))
	for moved < n {
		got, err := syscall.Read(l.pipe[0], buf[:min(n-moved, len(buf))])
		if err == nil {
			_, err = l.file.WriteAt(buf[:got], at+int64(moved))
		}
		if err != nil {
			break
		}
		moved += got
	}
	return moved
}

// discard empties the pipe, and gives the last byte of what was in it.
func (l *Local) discard() (last byte) {
	var buf [4 << 10]byte
	for {
		got, err := syscall.Read(l.pipe[0], buf[:])
		if got < 1 || err != nil {
			return last
		}
		last = buf[got-1]
	}
}

// Close closes the file.
func (l *Local) Close(time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
	}
	if l.pipe != [2]int{} {
		_ = syscall.Close(l.pipe[0])
		_ = syscall.Close(l.pipe[1])
	}
}
