package dbus

import (
	"bufio"
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// returned is a message that returns something, from a machine that writes big numbers first.
func returned() []byte {
	return []byte("B\x02\x01\x01\x00\x00\x00\x0e\x00\x00\x00\x07\x00\x00\x00\x0f" +
		"\x05\x01u\x00\x00\x00\x00\x03" + "\x08\x01g\x00\x01v\x00\x00" + // answer to 3; a variant
		"\x01s\x00\x00\x00\x00\x00\x05hello\x00")
}

func receive(text []byte) (message, error) {
	c := &Conn{in: bufio.NewReader(bytes.NewReader(text))}
	return c.receive()
}

func TestReceive(t *testing.T) {
	m, err := receive(returned())
	require.NoError(t, err)
	require.Equal(t, message{kind: typeReturn, replySerial: 3, text: "hello"}, m)
	for n := range returned() {
		_, err := receive(returned()[:n])
		require.Error(t, err, "cut at %d", n)
	}
}

// What a call looks like on the wire, byte for byte as the specification has it.
func TestCall(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	answer := returned()
	answer[23] = 1 // to the first call
	c := &Conn{f: w, in: bufio.NewReader(bytes.NewReader(answer))}
	var body Body
	body.Byte(7)
	body.Array(8, func() {
		body.Struct()
		body.String("a")
		body.Bool(true)
	})
	got, err := c.Call("a.b", "/p", "a.i", "M", "ya(sb)", body)
	require.NoError(t, err)
	require.Equal(t, "hello", got)
	require.NoError(t, w.Close())
	want := "l\x01\x00\x01\x14\x00\x00\x00\x01\x00\x00\x00\x4c\x00\x00\x00" +
		"\x01\x01o\x00\x02\x00\x00\x00/p\x00\x00\x00\x00\x00\x00" + "\x02\x01s\x00\x03\x00\x00\x00a.i\x00\x00\x00\x00\x00" +
		"\x03\x01s\x00\x01\x00\x00\x00M\x00\x00\x00\x00\x00\x00\x00" + "\x06\x01s\x00\x03\x00\x00\x00a.b\x00\x00\x00\x00\x00" +
		"\x08\x01g\x00\x06ya(sb)\x00\x00\x00\x00\x00" +
		"\x07\x00\x00\x00\x0c\x00\x00\x00" + "\x01\x00\x00\x00a\x00\x00\x00\x01\x00\x00\x00"
	sent := make([]byte, 4096)
	n, err := r.Read(sent)
	require.NoError(t, err)
	require.Equal(t, want, string(sent[:n]))
}

func FuzzReceive(f *testing.F) {
	f.Add(returned())
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = receive(text) })
}
