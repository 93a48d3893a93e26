package monitor

import (
	"bufio"
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/monitor/logfile"
)

func TestConfigAsArguments(t *testing.T) {
	want := Config{
		ID: "id", PID: 1, Stdin: 2, Stdout: 3, Stderr: 4, TTY: 5, Socket: 6, Client: 7, StdinOnce: true,
		Held: []int{8, 9}, Proxied: []Proxied{{12, netip.MustParseAddrPort("172.18.0.2:80")}, {13, netip.MustParseAddrPort("172.18.0.2:81")}}, NamesUDP: 10, NamesTCP: 11, NamesRun: "/run", NameServers: []netip.AddrPort{netip.MustParseAddrPort("[::1]:53"), netip.MustParseAddrPort("1.2.3.4:53")},
		Log: logfile.Files{Path: "/a log=x", MaxSize: 1 << 40, MaxFile: 8}, Format: "local", StopSignal: 9, Exit: "/exit",
		Health: []string{"/tarn", "tarn", "then=3"}, HealthInterval: time.Second, HealthStart: 2, HealthStartInterval: 3,
		Then: []string{"/tarn", "tarn", "", "id"},
	}
	got, err := ParseArgs(want.Args())
	require.NoError(t, err)
	require.Equal(t, &want, got)
	for _, bad := range []string{"unknown=1", "pid=x", "then=1", "then=-1", "health=99999999999", "pid"} {
		_, err := ParseArgs([]string{bad})
		require.ErrorIs(t, err, errArguments, bad)
	}
}

func TestFrames(t *testing.T) {
	var pipe bytes.Buffer
	long := bytes.Repeat([]byte("0123456789"), MaxFrame/5)
	require.NoError(t, WriteFrame(&pipe, Stdout, []byte("hello")))
	require.NoError(t, WriteFrame(&pipe, StdinEnd, nil))
	require.NoError(t, WriteFrame(&pipe, Stderr, long))
	require.NoError(t, WriteFrame(&pipe, Exited, StatusFrame(137)))
	r := NewFrameReader(bufio.NewReader(&pipe))
	next := func() (Kind, string) {
		kind, content, err := r.Next()
		require.NoError(t, err)
		return kind, string(content)
	}
	kind, content := next()
	require.Equal(t, Stdout, kind)
	require.Equal(t, "hello", content)
	kind, content = next()
	require.Equal(t, StdinEnd, kind)
	require.Empty(t, content)
	var all string
	for len(all) < len(long) {
		kind, content = next()
		require.Equal(t, Stderr, kind)
		all += content
	}
	require.Equal(t, string(long), all)
	_, content = next()
	require.Equal(t, 137, FrameStatus([]byte(content)))
	_, _, err := NewFrameReader(strings.NewReader("o\xff\xff\xff\xff")).Next()
	require.ErrorIs(t, err, errArguments)
	_, _, err = NewFrameReader(strings.NewReader("o\x00\x00\x00\x09short")).Next()
	require.Error(t, err)
}

func TestExitRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exit")
	_, err := ReadExit(path)
	require.ErrorIs(t, err, os.ErrNotExist)
	want := Exit{Status: 137, At: time.Unix(1_700_000_000, 123).UTC(), Asked: true}
	require.NoError(t, WriteExit(path, want))
	got, err := ReadExit(path)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, os.WriteFile(path, nil, 0o600)) // as one that was killed may leave it
	_, err = ReadExit(path)
	require.Error(t, err)
}
