package monitor

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Kind says what a frame on an attach socket holds.
type Kind byte

// The first three go to the container, Names to its monitor, which answers with one; the others come from the container.
const (
	Stdin    Kind = 'i' // bytes to read for the container
	StdinEnd Kind = 'e' // no more of them: nothing
	Resize   Kind = 'r' // the size of the terminal: columns and rows, 2 bytes each
	Names    Kind = 'n' // a [NameService], its sockets passed with the frame; the answer: an error's text, or nothing
	Stdout   Kind = 'o' // bytes that the container has written
	Stderr   Kind = 'x'
	Exited   Kind = 'q' // the last frame: the exit status, 4 bytes
)

// MaxFrame bounds a frame's content in bytes.
const MaxFrame = 64 << 10

const headerSize = 5

// WriteFrame writes a frame: kind (1 byte), length of the content (4 bytes, big-endian), content.
// Longer content than MaxFrame becomes several frames.
func WriteFrame(w io.Writer, kind Kind, content []byte) error {
	for first := true; first || len(content) > 0; first = false {
		part := content[:min(len(content), MaxFrame)]
		content = content[len(part):]
		if _, err := w.Write(Frame(kind, part)); err != nil {
			return err
		}
	}
	return nil
}

// Frame is one frame, with at most MaxFrame bytes of content.
func Frame(kind Kind, content []byte) []byte {
	return fillFrame(append(make([]byte, headerSize), content...), kind)
}

// fillFrame makes a frame of its content, before which there is room for the header.
func fillFrame(frame []byte, kind Kind) []byte {
	frame[0] = byte(kind)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(frame)-headerSize))
	return frame
}

// FrameReader reads frames.
type FrameReader struct {
	r   io.Reader
	buf []byte
}

// NewFrameReader gives a reader of the frames of r.
func NewFrameReader(r io.Reader) *FrameReader { return &FrameReader{r: r} }

// Next gives the next frame; its content is valid until the one after. At the end it gives [io.EOF].
func (f *FrameReader) Next() (Kind, []byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(f.r, header[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size > MaxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes: %w", size, errArguments)
	}
	if int(size) > cap(f.buf) {
		f.buf = make([]byte, size)
	}
	content := f.buf[:size]
	_, err := io.ReadFull(f.r, content)
	return Kind(header[0]), content, err
}

// SizeFrame is the content of a [Resize] frame.
func SizeFrame(cols, rows uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, cols), rows)
}

// StatusFrame is the content of an [Exited] frame.
func StatusFrame(status int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(status)) }

// FrameStatus reads the content of an [Exited] frame.
func FrameStatus(content []byte) int {
	if len(content) != 4 {
		return -1
	}
	return int(int32(binary.BigEndian.Uint32(content)))
}
