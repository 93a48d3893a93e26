package logfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

// writeNumbered writes lines "NUMBER STREAM" of both streams in turn, each to its own chunk.
func writeNumbered(t testing.TB, path string, from, to int) {
	t.Helper()
	w := create(t, FormatLocal, Files{Path: path, MaxFile: 1})
	for n := from; n < to; n++ {
		s := Stdout + Stream(n%2)
		w.Write(s, fmt.Appendf(nil, "%d %s\n", n, s), time.Unix(int64(n), 0))
	}
	w.Close(time.Time{})
}

// TestKilledAtEachByte cuts a log wherever its writer may have been killed. What is there is read; and another writer
// goes on behind it.
func TestKilledAtEachByte(t *testing.T) {
	const lines = 12
	whole := filepath.Join(t.TempDir(), "log")
	writeNumbered(t, whole, 0, lines)
	text, err := os.ReadFile(whole)
	require.NoError(t, err)
	for size := headerSize; size <= len(text); size++ {
		path := filepath.Join(t.TempDir(), "log")
		require.NoError(t, os.WriteFile(path, text[:size], 0o600))
		before := shown(readAll(t, FormatLocal, path))
		writeNumbered(t, path, lines, lines+5)
		after := shown(readAll(t, FormatLocal, path))
		for n := range before {
			if n < len(before)-1 || strings.HasSuffix(before[n], "\n") {
				require.Equal(t, fmt.Sprintf("%s %d %s\n", Stdout+Stream(n%2), n, Stdout+Stream(n%2)), before[n])
			}
		}
		require.Equal(t, before, after[:len(before)], size)
		require.Len(t, after, len(before)+5, size)
		require.Equal(t, "stdout 16 stdout\n", after[len(after)-1])
	}
}

// TestDamage overwrites some of a log, and adds things to it. Lines far from that are all read, and no others come up.
func TestDamage(t *testing.T) {
	const lines = 3000
	whole := filepath.Join(t.TempDir(), "log")
	writeNumbered(t, whole, 0, lines)
	text, err := os.ReadFile(whole)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // for a test
	for range 100 {
		damaged := bytes.Clone(text)
		at := headerSize + r.IntN(len(text)-headerSize-100)
		for i := range 1 + r.IntN(100) {
			damaged[at+i] = byte(r.Uint32())
		}
		if r.IntN(2) == 0 {
			damaged = append(damaged, make([]byte, r.IntN(200<<10))...) // as after a power cut
		}
		path := filepath.Join(t.TempDir(), "log")
		require.NoError(t, os.WriteFile(path, damaged, 0o600))
		writeNumbered(t, path, lines, lines+5)
		seen := make(map[string]bool)
		for _, l := range readAll(t, FormatLocal, path) {
			seen[string(l.Text)] = true
		}
		missing := 0
		for n := range lines + 5 {
			if !seen[fmt.Sprintf("%d %s\n", n, Stdout+Stream(n%2))] {
				missing++
			}
		}
		require.LessOrEqual(t, missing, 5)
		require.Equal(t, "3004 stdout\n", string(tail(t, FormatLocal, path, 1)[0].Text))
	}
}

// TestContentLikeHeaders has a container write another log, which even has the right checksums. Where chunks are
// lost none of it is taken for one.
func TestContentLikeHeaders(t *testing.T) {
	other := filepath.Join(t.TempDir(), "log")
	w := create(t, FormatLocal, Files{Path: other, MaxFile: 1})
	w.Write(Stdout, []byte("forged\n"), time.Now())
	w.Close(time.Time{})
	forged, err := os.ReadFile(other)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "log")
	w = create(t, FormatLocal, Files{Path: path, MaxFile: 1})
	w.Write(Stdout, []byte("first\n"), time.Now())
	content := append(append(forged, forged[headerSize:]...), '\n')
	each := bytes.Count(content, []byte("\n")) // three, and those that a header has by chance
	for range 3 {
		w.Write(Stdout, content, time.Now())
	}
	w.Write(Stdout, []byte("last\n"), time.Now())
	w.Close(time.Time{})
	lines := readAll(t, FormatLocal, path)
	require.Len(t, lines, 3*each+2)

	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt(make([]byte, headerSize), headerSize) // the first chunk's header
	require.NoError(t, err)
	_, err = f.WriteAt(make([]byte, 4), headerSize+headerSize+int64(len("first\n"))+20) // the length of the second
	require.NoError(t, err)
	lines = readAll(t, FormatLocal, path)
	require.Len(t, lines, 2*each+1, "two of the three, and the last")
}

// TestNotALog is put aside by who writes, and told of by who reads.
func TestNotALog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("something else\n", 10)), 0o600))
	r := newLocalReader()
	r.Open(openAll(t, path)[0])
	_, err := r.Next()
	require.ErrorIs(t, err, ErrFormat)
	writeNumbered(t, path, 0, 1)
	require.Equal(t, []string{"stdout 0 stdout\n"}, shown(readAllOf(t, path)))
	require.FileExists(t, path+".1")
	_, err = Create("syslog", Files{Path: path})
	require.ErrorIs(t, err, ErrFormat)
	_, err = NewReader("syslog")
	require.ErrorIs(t, err, ErrFormat)
}

// readAllOf reads one file.
func readAllOf(t *testing.T, path string) []Line {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	r := newLocalReader()
	r.Open(f)
	return drain(t, r, []*os.File{f})
}

// TestFollowing reads while it is written: a chunk's content may come later than its header, or never.
func TestFollowing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := createLocal(Files{Path: path, MaxFile: 1})
	require.NoError(t, err)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	r := newLocalReader()
	r.Open(f)
	nothing := func() {
		_, err := r.Next()
		require.ErrorIs(t, err, io.EOF)
	}
	next := func(want string) {
		line, err := r.Next()
		require.NoError(t, err)
		require.Equal(t, want, string(line.Text))
	}
	nothing()
	require.Equal(t, 9, l.begin(Stdout, 9, time.Now()))
	nothing()
	_, err = l.file.WriteAt([]byte("one\nt"), l.size+headerSize)
	require.NoError(t, err)
	next("one\n")
	nothing()
	_, err = l.file.WriteAt([]byte("wo\nx"), l.size+headerSize+5)
	require.NoError(t, err)
	l.end(9, 'x', true)
	next("two\n")
	nothing()
	// The disk is full: the next chunk is cut off after a part of it was read.
	l.begin(Stdout, 100, time.Now())
	_, err = l.file.WriteAt([]byte("yz\nlost"), l.size+headerSize)
	require.NoError(t, err)
	next("xyz\n")
	nothing()
	l.end(100, '?', false)
	l.Write(Stdout, []byte("rest\nfour\n"), time.Now())
	next("lost") // what came was not known to be lost
	next("four\n")
	nothing()
	l.Close(time.Time{})
	// Another writer comes after one that was killed, while somebody reads.
	require.NoError(t, os.WriteFile(path, append(readFile(t, path), (&chunk{number: l.next.number, length: 50, stream: Stderr}).append(nil, l.marker)...), 0o600))
	appendFile(t, path, "half")
	nothing()
	l, err = createLocal(Files{Path: path, MaxFile: 1})
	require.NoError(t, err)
	l.Write(Stdout, []byte("after\n"), time.Now())
	next("half")
	next("after\n")
	nothing()
	l.Close(time.Time{})
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return text
}

func appendFile(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteString(text)
	require.NoError(t, err)
}

// newPipe gives a pipe for Splice, which holds so much.
func newPipe(t *testing.T) (from int, to *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	raw, err := r.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { from = int(fd) }))
	return from, w
}

// TestSplice moves numbered lines of two streams through pipes, with rotation: they come back as they were, each
// stream in its order.
func TestSplice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := createLocal(Files{path, 300_000, 10})
	require.NoError(t, err)
	from, to := newPipe(t)
	_, err = l.Splice(Stdout, from, time.Now())
	require.ErrorIs(t, err, syscall.EAGAIN)
	r := rand.New(rand.NewPCG(5, 6)) //nolint:gosec // for a test
	var want [2]bytes.Buffer
	for n := range 2000 {
		s := Stdout + Stream(r.IntN(2))
		text := []byte(fmt.Sprintf("%d %s", n, strings.Repeat("x", r.IntN(2000))))
		if r.IntN(4) > 0 {
			text = append(text, '\n')
		}
		want[s-1].Write(text)
		_, err := to.Write(text)
		require.NoError(t, err)
		taken, err := l.Splice(s, from, time.Now())
		require.NoError(t, err)
		require.Equal(t, len(text), taken)
	}
	require.NoError(t, to.Close())
	taken, err := l.Splice(Stdout, from, time.Now())
	require.NoError(t, err)
	require.Zero(t, taken)
	l.Close(time.Time{})
	var got [2]bytes.Buffer
	for _, line := range readAll(t, FormatLocal, path) {
		got[line.Stream-1].Write(line.Text)
	}
	for i := range want {
		require.True(t, bytes.Equal(want[i].Bytes(), got[i].Bytes()), i)
	}
	require.FileExists(t, path+".1")
}

// TestSpliceByHand is what is done where the file system cannot.
func TestSpliceByHand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := createLocal(Files{Path: path, MaxFile: 1})
	require.NoError(t, err)
	from, to := newPipe(t)
	_, err = to.WriteString("first\n")
	require.NoError(t, err)
	_, err = l.Splice(Stdout, from, time.Now())
	require.NoError(t, err)
	text := strings.Repeat("second\n", 5000)
	_, err = syscall.Write(l.pipe[1], []byte(text))
	require.NoError(t, err)
	require.Equal(t, len(text), l.begin(Stderr, len(text), time.Now()))
	require.Equal(t, len(text), l.copy(len(text), l.size+headerSize))
	l.end(len(text), '\n', true)
	l.Close(time.Time{})
	require.Len(t, readAll(t, FormatLocal, path), 5001)
}

// TestFullDiskLocal fills a disk, and frees it again: what could be written is there, and no line is made of two halves.
func TestFullDiskLocal(t *testing.T) {
	testenv.RequireRoot(t)
	t.Run("write", func(t *testing.T) {
		fillDisk(t, func(l *Local, text []byte) { l.Write(Stdout, text, time.Now()) })
	})
	t.Run("splice", func(t *testing.T) {
		from, to := newPipe(t)
		fillDisk(t, func(l *Local, text []byte) {
			_, err := to.Write(text)
			require.NoError(t, err)
			taken, err := l.Splice(Stdout, from, time.Now())
			require.NoError(t, err)
			require.Equal(t, len(text), taken)
		})
	})
}

func fillDisk(t *testing.T, write func(l *Local, text []byte)) {
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	path, ballast := filepath.Join(dir, "log"), filepath.Join(dir, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, 128<<10), 0o600))
	l, err := createLocal(Files{Path: path, MaxFile: 1})
	require.NoError(t, err)
	n := 0
	lines := func() []byte { // the last of which goes on in the next
		var text []byte
		for len(text) < 5000 {
			text = fmt.Appendf(text, "line %d\nli", n)
			n++
		}
		return append(text, []byte("ne\nx")...)
	}
	for range 40 {
		write(l, lines())
	}
	full := len(readAll(t, FormatLocal, path))
	require.NoError(t, os.Remove(ballast))
	last := n
	for range 3 {
		write(l, lines())
	}
	l.Close(time.Time{})
	all := shown(readAll(t, FormatLocal, path))
	require.Greater(t, len(all), full)
	require.Contains(t, all, fmt.Sprintf("stdout liline %d\n", last+1))
	for _, line := range all {
		require.Regexp(t, `^stdout x?(li)?line( [0-9]+)?\n$|^stdout x$`, line)
	}
}

// model is what lines are to be read of writes, said simply.
type model struct {
	lines []string
	open  [streams]string

	restarted bool // since the last write
}

func (m *model) write(s Stream, data []byte) {
	if m.restarted && len(data) > 0 {
		m.end()
		m.restarted = false
	}
	for _, b := range data {
		open := &m.open[s-1]
		*open += string([]byte{b})
		if b == '\n' || len(*open) == maxText {
			m.lines = append(m.lines, s.String()+" "+*open)
			*open = ""
		}
	}
}

// end ends the lines that are not whole.
func (m *model) end() {
	for i, text := range m.open {
		if text != "" {
			m.lines = append(m.lines, (Stdout+Stream(i)).String()+" "+text)
		}
		m.open[i] = ""
	}
}

// FuzzRoundTrip writes what the fuzzer says, with restarts, in files of the size that it says; all of it comes back,
// as far as it is kept.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("\x01\x05hello\x02\x03\nxy\x01\x01\n"), uint16(100))
	f.Add([]byte("\x11\x05hello\x12\x03\nxy\x02\x01\n\x00\x21\xffaaaaaaaaaaaaaaa\x01\x02\n\n"), uint16(70))
	f.Fuzz(func(t *testing.T, program []byte, size uint16) {
		program = program[:min(len(program), 500)]
		path := filepath.Join(t.TempDir(), "log")
		files := Files{path, int64(size)%5000 + 1000, 1 << 20}
		l, err := createLocal(files)
		require.NoError(t, err)
		m := model{lines: []string{}}
		for len(program) > 2 {
			op := program[0]
			data := program[2:]
			data = data[:min(len(data), int(program[1]))]
			program = program[2+len(data):]
			s := Stdout + Stream(op&1)
			if op&0x10 != 0 { // much of it
				data = bytes.Repeat(data, 200)
			}
			if op&0x20 != 0 {
				l.Close(time.Time{})
				l, err = createLocal(files)
				require.NoError(t, err)
				m.restarted = true
			}
			l.Write(s, data, time.Now())
			m.write(s, data)
		}
		l.Close(time.Time{})
		var lines []Line
		r := newLocalReader()
		var parts []*os.File
		for n := 0; ; n++ {
			f, err := os.Open(Name(path, n))
			if err != nil {
				break
			}
			defer f.Close()
			parts = append([]*os.File{f}, parts...)
		}
		r.Open(parts[0])
		lines = drain(t, r, parts)
		two := m.open[0] != "" && m.open[1] != ""
		m.end()
		got := shown(lines)
		if n := len(got); two && n == len(m.lines) && got[n-1] != m.lines[n-1] {
			got[n-1], got[n-2] = got[n-2], got[n-1] // the one that began first comes first
		}
		require.Equal(t, m.lines, got)
		n := len(program) + int(size)%10
		first, err := r.Tail(parts, n, true)
		require.NoError(t, err)
		// Of a long line only what it begins with counts.
		last := drain(t, r, parts[first:])
		begun := 0
		for _, l := range last {
			if !l.Continues {
				begun++
			}
		}
		require.LessOrEqual(t, begun, n)
	})
}

// FuzzReader reads what is no log, or a damaged one: where the input has "@", a header is that has its rest from the bytes
// that follow. It always ends, and gives no lines that are too long.
func FuzzReader(f *testing.F) {
	f.Add([]byte("@\x01\x00\x05hello@\x02\x00\x02x\n"))
	f.Add([]byte("@\x01\x03\xffhello\n@\x01\x03\xff@\x02\x00\x02x\n"))
	f.Add([]byte("nothing"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m := marker{1, 2, 3, 4, 5, 6, 7, 8}
		file := fileHeader(m)
		for number := uint32(0); len(text) > 0; {
			if text[0] != '@' || len(text) < 4 {
				file = append(file, text[0])
				text = text[1:]
				continue
			}
			c := chunk{number: number, length: uint32(text[3]), stream: Stream(text[1] & 3), inside: inside(text[2] & 3)}
			if text[1]&4 != 0 {
				c.length *= 100
			}
			if text[2]&4 == 0 {
				number++
			}
			file = c.append(file, m)
			text = text[4:]
		}
		path := filepath.Join(t.TempDir(), "log")
		require.NoError(t, os.WriteFile(path, file, 0o600))
		all := 0
		lines := readAll(t, FormatLocal, path)
		for _, l := range lines {
			require.LessOrEqual(t, len(l.Text), maxText)
			require.NotEmpty(t, l.Text)
			all += len(l.Text)
		}
		require.LessOrEqual(t, all, len(file))
		last := tail(t, FormatLocal, path, 2)
		require.LessOrEqual(t, len(last), len(lines))
		writeNumbered(t, path, 0, 1)
		after := readAll(t, FormatLocal, path)
		require.Equal(t, "0 stdout\n", string(after[len(after)-1].Text))
	})
}

// TestHeaders is the example for docs/format.md: bytes at their offsets.
func TestHeaders(t *testing.T) {
	c := chunk{time: 0x0102030405060708, number: 0x0a0b0c0d, length: 0x000e0f10, stream: Stderr, inside: 2}
	b := c.append(nil, marker{1, 1, 1, 1, 1, 1, 1, 1})
	require.Equal(t, "\x01\x01\x01\x01\x01\x01\x01\x01\x08\x07\x06\x05\x04\x03\x02\x01\x0d\x0c\x0b\x0a\x10\x0f\x0e\x00\x02\x02\x00\x00", string(b[:28]))
	require.Len(t, b, headerSize)
	got, ok := parseChunk(b, marker{1, 1, 1, 1, 1, 1, 1, 1})
	require.True(t, ok)
	require.Equal(t, c, got)
	for i := range b {
		bad := bytes.Clone(b)
		bad[i]++
		_, ok := parseChunk(bad, marker{1, 1, 1, 1, 1, 1, 1, 1})
		require.False(t, ok, i)
	}
	for _, length := range []uint32{0, maxChunk + 1, 1 << 31} {
		binary.LittleEndian.PutUint32(b[20:], length)
		_, ok := parseChunk(seal(b), marker{1, 1, 1, 1, 1, 1, 1, 1})
		require.False(t, ok, length)
	}
	_, err := (&window{file: bytes.NewReader([]byte("TARNLOG1"))}).fileHeader()
	require.ErrorIs(t, err, ErrFormat)
	_, err = (&window{file: bytes.NewReader(nil)}).fileHeader()
	require.ErrorIs(t, err, io.EOF)
}
