package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// Stream says what one can do with an open file besides reading and writing it.
type Stream int

// Kinds of streams.
const (
	StreamOther Stream = iota // it has a name, an owner, a mode: a file, a terminal, a fifo on disk
	StreamPipe                // a pipe or socket without a name: nothing but a way for bytes
	StreamNull                // the null device
)

// Numbers of linux/magic.h and Documentation/admin-guide/devices.txt.
const (
	magicPipe = 0x50495045
	magicSock = 0x534f434b

	nullMajor, nullMinor = 1, 3
)

// StreamOf tells what kind of stream f is.
func StreamOf(f *os.File) (Stream, error) {
	node, err := StatNode(f)
	if err != nil {
		return StreamOther, err
	}
	if node.Type == TypeChar && node.Major == nullMajor && node.Minor == nullMinor {
		return StreamNull, nil
	}
	if node.Type != TypeFifo && node.Type != unix.S_IFSOCK {
		return StreamOther, nil
	}
	magic, err := FSType(f)
	if err == nil && (magic == magicPipe || magic == magicSock) {
		return StreamPipe, nil
	}
	return StreamOther, err
}
