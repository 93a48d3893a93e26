package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// run serves a handler until the test stops it.
func run(t *testing.T, handler http.Handler) (address string, stop func() error) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, listener, nil, handler) }()
	return listener.Addr().String(), func() error {
		cancel()
		return <-ended
	}
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	return conn
}

// TestServeEnds lets a request go on that is going on.
func TestServeEnds(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	address, stop := run(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-goOn
		_, _ = io.WriteString(w, "to the end")
	}))
	conn := dial(t, address)
	defer conn.Close()
	_, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	<-began
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	close(goOn)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "to the end")
	require.NoError(t, <-ended)
	_, err = new(net.Dialer).DialContext(t.Context(), "tcp", address)
	require.Error(t, err)
}

// TestConnectionsAreBounded opens one too many.
func TestConnectionsAreBounded(t *testing.T) {
	address, stop := run(t, http.NotFoundHandler())
	conns := make([]net.Conn, maxConnections)
	for i := range conns {
		conns[i] = dial(t, address)
		defer conns[i].Close()
		_, err := io.WriteString(conns[i], "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		_, err = conns[i].Read(make([]byte, 1))
		require.NoError(t, err)
	}
	waits := dial(t, address)
	defer waits.Close()
	_, err := io.WriteString(waits, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	require.NoError(t, waits.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = waits.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, conns[0].Close())
	require.NoError(t, waits.SetReadDeadline(time.Time{}))
	_, err = waits.Read(make([]byte, 1))
	require.NoError(t, err, "now it is its turn")
	require.NoError(t, stop())
}

func TestHeadersAreBounded(t *testing.T) {
	address, stop := run(t, http.NotFoundHandler())
	conn := dial(t, address)
	defer conn.Close()
	_, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", bytes.Repeat([]byte("x"), 2*maxHeaderBytes))
	require.NoError(t, err)
	answer := make([]byte, len("HTTP/1.1 431"))
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 431", string(answer))
	require.NoError(t, stop())
}

// fakeConn is a connection as far as watch sees it.
type fakeConn struct {
	http.ResponseWriter
	read, write []time.Time
	sources     []io.Reader
}

func (f *fakeConn) SetReadDeadline(d time.Time) error  { f.read = append(f.read, d); return nil }
func (f *fakeConn) SetWriteDeadline(d time.Time) error { f.write = append(f.write, d); return nil }
func (f *fakeConn) ReadFrom(src io.Reader) (int64, error) {
	f.sources = append(f.sources, src)
	return io.Copy(io.Discard, src)
}

func TestWatch(t *testing.T) {
	conn := new(fakeConn)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "/", bytes.NewReader(make([]byte, 3*step+5)))
	require.NoError(t, err)
	w, watched := watch(conn, r)
	_, err = io.Copy(io.Discard, watched.Body)
	require.NoError(t, err)
	require.Len(t, conn.read, 5, "one for each step, and none when all was read")
	require.True(t, conn.read[4].IsZero())
	require.False(t, conn.read[3].IsZero())

	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, make([]byte, 2*step+5), 0o600))
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	n, err := io.CopyN(w, file, 2*step+5)
	require.NoError(t, err)
	require.Equal(t, int64(2*step+5), n)
	require.Len(t, conn.sources, 3)
	for _, source := range conn.sources {
		limited, ok := source.(*io.LimitedReader)
		require.True(t, ok)
		require.Same(t, file, limited.R, "below one LimitedReader, net finds the file and sends it without copying")
	}
	require.Len(t, conn.write, 4)
}
