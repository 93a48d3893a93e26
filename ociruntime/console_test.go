package ociruntime_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// consoleSocket receives one terminal, as conmon and containerd's shim do.
func (b *bundle) consoleSocket() (path string, receive func() *os.File) {
	b.t.Helper()
	// Longer than an address may be.
	dir := filepath.Join(b.t.TempDir(), strings.Repeat("d", 120))
	require.NoError(b.t, os.Mkdir(dir, 0o700))
	b.t.Chdir(dir)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: "console", Net: "unix"})
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = listener.Close() })
	return filepath.Join(dir, "console"), func() *os.File {
		b.t.Helper()
		conn, err := listener.AcceptUnix()
		require.NoError(b.t, err)
		defer conn.Close()
		data, control := make([]byte, 4096), make([]byte, 4096)
		_, n, _, _, err := conn.ReadMsgUnix(data, control)
		require.NoError(b.t, err)
		messages, err := syscall.ParseSocketControlMessage(control[:n])
		require.NoError(b.t, err)
		require.Len(b.t, messages, 1)
		fds, err := syscall.ParseUnixRights(&messages[0])
		require.NoError(b.t, err)
		require.Len(b.t, fds, 1)
		return os.NewFile(uintptr(fds[0]), "terminal")
	}
}

func TestConsoleSocket(t *testing.T) {
	b := newBundle(t, "tty; tty <&1; stat -c %F /dev/console; touch /printed; read line; echo got $line")
	b.spec.Process.Terminal = true
	b.spec.Process.ConsoleSize = &specs.Box{Width: 90, Height: 30}
	socket, receive := b.consoleSocket()
	b.must("create", "--bundle", b.dir, "--console-socket", socket, b.id)
	terminal := receive()
	defer terminal.Close()
	b.must("start", b.id)
	b.awaitFile("printed")
	_, err := terminal.WriteString("hello\n")
	require.NoError(t, err)
	b.awaitEnd()
	require.Equal(t, "/dev/pts/0\r\n/dev/pts/0\r\ncharacter special file\r\nhello\r\ngot hello\r\n", readToEnd(t, terminal))
}

// readToEnd reads what was printed until nobody has the terminal open any more: then reads give EIO.
// The kernel hands over what was printed piece by piece, also after the one who printed it ended.
func readToEnd(t *testing.T, terminal *os.File) string {
	t.Helper()
	text, err := io.ReadAll(terminal)
	require.ErrorIs(t, err, syscall.EIO)
	return string(text)
}

func TestConsoleSocketNeedsTerminal(t *testing.T) {
	b := newBundle(t, "true")
	b.refuse("has a terminal", "create", "--console-socket", "/nosuch", b.id)
	b.spec.Process.Terminal = true
	b.refuse("console socket", "create", "--console-socket", "/nosuch", b.id)
	b.requireNothingLeft()
}
