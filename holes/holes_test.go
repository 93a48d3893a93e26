package holes_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/holes"
)

// model is a tar with what it borrows, made at random, and all files as they would be.
type model struct {
	tar     []byte
	m       holes.Map
	devices [][]byte
}

func newModel(r *rand.Rand) model {
	blocks := 1 + r.IntN(60)
	size := blocks*holes.BlockSize - r.IntN(2)*r.IntN(holes.BlockSize)
	md := model{tar: make([]byte, size), devices: make([][]byte, 1+r.IntN(4))}
	for i := range md.tar {
		md.tar[i] = byte(r.Uint32())
	}
	md.m = holes.Map{Size: int64(size), Packed: r.IntN(2) == 0, Generation: r.Uint32()}
	for i := range md.devices[1:] {
		md.m.Lenders = append(md.m.Lenders, holes.TarID{DiffID: [32]byte{byte(i)}, Generation: uint32(i)})
	}
	md.fill(r, size)
	return md
}

// fill chooses ranges, and puts each stretch of the tar where it belongs.
func (md *model) fill(r *rand.Rand, size int) {
	own := make([]byte, 0, size)
	at := 0
	for at < size {
		count := 1 + r.IntN(5)
		end := min(at+count*holes.BlockSize, size)
		lender := r.IntN(len(md.devices))
		if lender == 0 || end%holes.BlockSize != 0 {
			own = append(own, md.tar[at:end]...)
			at = end
			continue
		}
		device := &md.devices[lender]
		*device = append(*device, make([]byte, r.IntN(3)*holes.BlockSize)...)
		md.m.Ranges = append(md.m.Ranges, holes.Range{
			Start: uint32(at / holes.BlockSize), Count: uint32((end - at) / holes.BlockSize),
			Device: uint32(lender), At: uint32(len(*device) / holes.BlockSize),
		})
		*device = append(*device, md.tar[at:end]...)
		if !md.m.Packed {
			own = append(own, make([]byte, end-at)...)
		}
		at = end
	}
	md.devices[0] = own
}

func (md *model) reader() *io.SectionReader {
	var devices []io.ReaderAt
	for _, d := range md.devices {
		devices = append(devices, bytes.NewReader(d))
	}
	return md.m.Reader(devices)
}

func TestTarReadsAsItArrived(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		md := newModel(r)
		require.NoError(t, md.m.Prepare())
		require.EqualValues(t, len(md.devices[0]), md.m.OwnSize())
		got, err := io.ReadAll(md.reader())
		require.NoError(t, err)
		require.Equal(t, md.tar, got)
		for range 20 {
			from := r.IntN(len(md.tar) + 1)
			part := make([]byte, r.IntN(3*holes.BlockSize))
			n, err := md.reader().ReadAt(part, int64(from))
			require.Equal(t, md.tar[from:min(from+len(part), len(md.tar))], part[:n])
			if from+len(part) > len(md.tar) {
				require.ErrorIs(t, err, io.EOF)
			} else {
				require.NoError(t, err)
			}
		}
		size, generation, err := holes.Peek(bytes.NewReader(md.m.Encode()))
		require.NoError(t, err)
		require.Equal(t, md.m.Size, size)
		require.Equal(t, md.m.Generation, generation)
		decoded, err := holes.Decode(md.m.Encode())
		require.NoError(t, err)
		require.Equal(t, md.m.Encode(), decoded.Encode())
	}
}

func TestSelfBorrowed(t *testing.T) {
	block := func(c byte) []byte { return bytes.Repeat([]byte{c}, holes.BlockSize) }
	want := bytes.Join([][]byte{block('a'), block('b'), block('a'), block('c')}, nil)
	for _, packed := range []bool{false, true} {
		m := holes.Map{Size: int64(len(want)), Packed: packed, Ranges: []holes.Range{{Start: 2, Count: 1}}}
		require.NoError(t, m.Prepare())
		own := bytes.Join([][]byte{block('a'), block('b'), block(0), block('c')}, nil)
		if packed {
			own = bytes.Join([][]byte{block('a'), block('b'), block('c')}, nil)
		}
		got, err := io.ReadAll(m.Reader([]io.ReaderAt{bytes.NewReader(own)}))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestShortLenderIsAnError(t *testing.T) {
	m := holes.Map{Size: 1024, Lenders: make([]holes.TarID, 1), Ranges: []holes.Range{{Start: 0, Count: 2, Device: 1, At: 1}}}
	require.NoError(t, m.Prepare())
	_, err := io.ReadAll(m.Reader([]io.ReaderAt{bytes.NewReader(make([]byte, 1024)), bytes.NewReader(make([]byte, 1024))}))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestContradictionsAreRefused(t *testing.T) {
	lenders := make([]holes.TarID, 1)
	for name, m := range map[string]holes.Map{
		"negative size":       {Size: -1},
		"too long":            {Size: 2 << 40},
		"empty range":         {Size: 4096, Lenders: lenders, Ranges: []holes.Range{{Device: 1}}},
		"out of order":        {Size: 4096, Lenders: lenders, Ranges: []holes.Range{{Start: 2, Count: 1, Device: 1}, {Start: 1, Count: 1, Device: 1}}},
		"overlap":             {Size: 4096, Lenders: lenders, Ranges: []holes.Range{{Start: 2, Count: 2, Device: 1}, {Start: 3, Count: 1, Device: 1}}},
		"behind the end":      {Size: 4000, Lenders: lenders, Ranges: []holes.Range{{Start: 7, Count: 1, Device: 1}}},
		"no such lender":      {Size: 4096, Lenders: lenders, Ranges: []holes.Range{{Count: 1, Device: 2}}},
		"overflow":            {Size: 4096, Lenders: lenders, Ranges: []holes.Range{{Count: 2, Device: 1, At: 1<<32 - 1}}},
		"overflow of a count": {Size: 4096, Lenders: lenders, Ranges: []holes.Range{{Start: 1, Count: 1<<32 - 1, Device: 1}}},
		"in itself":           {Size: 4096, Ranges: []holes.Range{{Count: 1}}},
		"in its own hole":     {Size: 4096, Lenders: lenders, Ranges: []holes.Range{{Count: 1, At: 3}, {Start: 2, Count: 2, Device: 1}}},
		"behind its own file": {Size: 4096, Packed: true, Ranges: []holes.Range{{Count: 4, At: 1}}},
		"too many lenders":    {Size: 4096, Lenders: make([]holes.TarID, holes.MaxLenders+1)},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, m.Prepare(), holes.ErrDamaged)
		})
	}
}

func TestPlain(t *testing.T) {
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "tar"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	require.NoError(t, err)
	_, err = f.WriteString("not even a block")
	require.NoError(t, err)
	tar, err := holes.Plain(f)
	require.NoError(t, err)
	require.True(t, tar.Map.Whole())
	got, err := io.ReadAll(tar)
	require.NoError(t, err)
	require.Equal(t, "not even a block", string(got))
	require.NoError(t, tar.Close())
	_, err = holes.NewTar(&holes.Map{Lenders: make([]holes.TarID, 2)}, nil, nil)
	require.ErrorIs(t, err, holes.ErrDamaged)
}

// FuzzDecode: whatever a map says, it is refused or makes sense, and reading through it ends.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		md := newModel(r)
		f.Add(md.m.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := holes.Decode(b)
		if err != nil {
			require.ErrorIs(t, err, holes.ErrDamaged)
			fixed := holes.WithChecksum(b)
			if m, err = holes.Decode(fixed); err != nil {
				return
			}
			b = fixed
		}
		require.Equal(t, b, m.Encode())
		at := int64(0)
		for p := range m.Pieces(0, m.Size) {
			require.Equal(t, at, p.Offset)
			require.Positive(t, p.Length)
			require.LessOrEqual(t, p.Device, len(m.Lenders))
			at += p.Length
		}
		require.Equal(t, m.Size, at)
	})
}
