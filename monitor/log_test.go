package monitor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

type entry struct {
	Log, Stream string
	Time        time.Time
}

// entries reads the files of a log, the oldest first.
func entries(t *testing.T, path string) (list []entry) {
	t.Helper()
	n := 0
	for ; ; n++ {
		if _, err := os.Stat(RotatedLog(path, n)); err != nil {
			break
		}
	}
	for n--; n >= 0; n-- {
		text, err := os.ReadFile(RotatedLog(path, n))
		require.NoError(t, err)
		for line := range bytes.Lines(text) {
			var e entry
			require.NoError(t, json.Unmarshal(line, &e), "%s", line)
			list = append(list, e)
		}
	}
	return list
}

func TestLogSplitsLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := OpenLog(path, 0, 1)
	require.NoError(t, err)
	now := time.Date(2026, 1, 2, 3, 4, 5, 600, time.FixedZone("there", 3600))
	long := strings.Repeat("x", maxEntry)
	for _, write := range [][2]string{
		{stdoutName, "one\ntw"},
		{stderrName, "error\n"},
		{stdoutName, "o\n\n"},
		{stdoutName, long + long + "end\n"},
		{stdoutName, long + "\n"},
		{stdoutName, long[1:] + "\n"},
		{stderrName, long + "xyz"},
		{stdoutName, "no end"},
	} {
		l.Write(write[0], []byte(write[1]), now)
	}
	l.Close(now)
	var got []string
	for _, e := range entries(t, path) {
		require.True(t, e.Time.Equal(now))
		got = append(got, e.Stream+" "+e.Log)
	}
	require.Equal(t, []string{
		"stdout one\n", "stderr error\n", "stdout two\n", "stdout \n",
		"stdout " + long, "stdout " + long, "stdout end\n", "stdout " + long, "stdout \n", "stdout " + long[1:] + "\n",
		"stderr " + long, "stdout no end", "stderr xyz",
	}, got)
}

// TestLogRotates writes much with little room: nothing is missing between the oldest that is kept and the newest,
// and no file is larger than it may be.
func TestLogRotates(t *testing.T) {
	for _, files := range []int{1, 4} {
		path := filepath.Join(t.TempDir(), "log")
		const size, lines = 64 << 10, 20_000
		l, err := OpenLog(path, size, files)
		require.NoError(t, err)
		var text bytes.Buffer
		for n := range lines {
			fmt.Fprintf(&text, "line %d\n", n)
		}
		for part := text.Bytes(); len(part) > 0; {
			n := min(len(part), readSize)
			l.Write(stdoutName, part[:n], time.Now())
			part = part[n:]
		}
		l.Close(time.Now())
		list := entries(t, path)
		first := lines - len(list)
		for i, e := range list {
			require.Equal(t, fmt.Sprintf("line %d\n", first+i), e.Log)
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
}

// TestLogGoesOn has a second monitor append, and count what is there.
func TestLogGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for n := range 3 {
		l, err := OpenLog(path, 200, 2)
		require.NoError(t, err)
		l.Write(stdoutName, fmt.Appendf(nil, "start %d\n", n), time.Now())
		l.Close(time.Now())
	}
	list := entries(t, path)
	require.Len(t, list, 3)
	require.FileExists(t, path+".1")
}

// TestLogOutlivesAFullDisk loses what cannot be written, and no more.
func TestLogOutlivesAFullDisk(t *testing.T) {
	l, err := OpenLog("/dev/full", 0, 1)
	require.NoError(t, err)
	for range 10 {
		l.Write(stdoutName, bytes.Repeat([]byte("lost\n"), 100_000), time.Now())
	}
	l.Close(time.Now())
}

func FuzzAppendJSON(f *testing.F) {
	for _, text := range []string{"", "plain text that is long", "a\"b\\c\n\r\t\x00\x1f\x7f", "é€😀", "\xff\xc3", "12345678\"", "<&>\u2028"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		quoted := append(appendJSON([]byte{'"'}, text), '"')
		require.True(t, utf8.Valid(quoted))
		var got string
		require.NoError(t, json.Unmarshal(quoted, &got))
		require.Equal(t, strings.ToValidUTF8(string(text), "\ufffd"), collapse(got, text))
	})
}

// collapse gives what ToValidUTF8 makes of text: that replaces a run of bad bytes once, and we each.
func collapse(got string, text []byte) string {
	if utf8.Valid(text) {
		return got
	}
	want := string([]rune(string(text))) // each bad byte is one U+FFFD
	if got != want {
		return got
	}
	return strings.ToValidUTF8(string(text), "\ufffd")
}

func BenchmarkLog(b *testing.B) {
	l, err := OpenLog(filepath.Join(b.TempDir(), "log"), 100<<20, 2)
	require.NoError(b, err)
	line := "2026-11-25 21:50:00 INFO request handled path=/index.html status=200 bytes=5120 duration=12ms client=10.0.0.1\n"
	data := bytes.Repeat([]byte(line), readSize/len(line))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		l.Write(stdoutName, data, time.Now())
	}
	l.Close(time.Now())
}

func TestConfigAsArguments(t *testing.T) {
	want := Config{
		ID: "id", PID: 1, Stdin: 2, Stdout: 3, Stderr: 4, TTY: 5, Socket: 6, Client: 7, StdinOnce: true,
		Held: []int{8, 9}, Proxied: []Proxied{{12, netip.MustParseAddrPort("172.18.0.2:80")}, {13, netip.MustParseAddrPort("172.18.0.2:81")}}, NamesUDP: 10, NamesTCP: 11, NamesRun: "/run", NameServers: []netip.AddrPort{netip.MustParseAddrPort("[::1]:53"), netip.MustParseAddrPort("1.2.3.4:53")},
		Log: "/a log=x", MaxSize: 1 << 40, MaxFile: 8, StopSignal: 9, Exit: "/exit",
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
