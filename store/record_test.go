package store_test

import (
	"bytes"
	"hash/crc32"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

func record() store.Image {
	return store.Image{
		Name: "docker.io/library/debian:12", Manifest: image.DigestBytes([]byte("manifest")), ID: image.DigestBytes([]byte("config")),
		Created: time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC),
	}
}

// TestEveryFlippedBitIsFound, and mended.
func TestEveryFlippedBitIsFound(t *testing.T) {
	want, err := store.Seal(record())
	require.NoError(t, err)
	require.NoError(t, store.CheckSeal(want))
	var got store.Image
	require.NoError(t, store.Unseal(want, &got))
	require.Equal(t, record(), got)
	for i := range want {
		for bit := range 8 {
			damaged := bytes.Clone(want)
			damaged[i] ^= 1 << bit
			require.Error(t, store.CheckSeal(damaged), "%q", damaged)
			if i%16 == bit { // each takes a while
				mended, ok := store.Unflip(damaged)
				require.True(t, ok, "%q", damaged)
				require.Equal(t, want, mended)
			}
		}
	}
	for size := range want {
		require.Error(t, store.CheckSeal(want[:size]))
		_, ok := store.Unflip(want[:size])
		require.False(t, ok, size)
	}
}

// TestWithoutASeal: nothing says that such a record is wrong.
func TestWithoutASeal(t *testing.T) {
	var got store.Image
	require.NoError(t, store.Unseal([]byte(`{"name":"a","manifest":"","id":"","created":"2026-01-01T00:00:00Z"}`+"\n"), &got))
	require.Equal(t, "a", got.Name)
	require.Error(t, store.Unseal([]byte(`{"name":"a","crc32c":"00000000"}`+"\n"), &got))
}

func FuzzRecord(f *testing.F) {
	sealed, err := store.Seal(record())
	require.NoError(f, err)
	f.Add(sealed)
	f.Add([]byte(`{"crc32c":"00000000"}` + "\n"))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var img store.Image
		err := store.Unseal(data, &img)
		if store.CheckSeal(data) != nil || err != nil {
			return
		}
		again, err := store.Seal(img)
		require.NoError(t, err)
		require.NoError(t, store.CheckSeal(again))
	})
}

func TestSums(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	table := crc32.MakeTable(crc32.Castagnoli)
	for _, size := range []int{0, 1, 512, store.SpanSize - 1, store.SpanSize, store.SpanSize + 1, 5*store.SpanSize + 77} {
		tar := make([]byte, size)
		for i := range tar {
			tar[i] = byte(r.Uint32())
		}
		var sums store.Sums
		for rest := tar; len(rest) > 0; {
			n := min(len(rest), 1+r.IntN(100_000))
			_, err := sums.Write(rest[:n])
			require.NoError(t, err)
			rest = rest[n:]
		}
		require.EqualValues(t, size, sums.Size)
		require.Len(t, sums.Spans, (size+store.SpanSize-1)/store.SpanSize)
		for i, sum := range sums.Spans {
			offset, length := sums.Span(i)
			require.Equal(t, crc32.Checksum(tar[offset:offset+length], table), sum)
		}
		encoded := sums.Encode()
		decoded, err := store.DecodeSums(encoded)
		require.NoError(t, err)
		require.Equal(t, encoded, decoded.Encode())
		for i := range encoded {
			damaged := bytes.Clone(encoded)
			damaged[i] ^= 0x20
			_, err := store.DecodeSums(damaged)
			require.ErrorIs(t, err, store.ErrDamaged)
			_, err = store.DecodeSums(encoded[:i])
			require.ErrorIs(t, err, store.ErrDamaged)
		}
	}
}

func FuzzSums(f *testing.F) {
	var sums store.Sums
	_, _ = sums.Write(make([]byte, 3*store.SpanSize+5))
	f.Add(sums.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 { // most would be found by the checksum alone
			body := b[:len(b)-4]
			sum := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))
			b = append(bytes.Clone(body), byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
		}
		decoded, err := store.DecodeSums(b)
		if err != nil {
			require.ErrorIs(t, err, store.ErrDamaged)
			return
		}
		require.Equal(t, b, decoded.Encode())
		for i := range decoded.Spans {
			_, length := decoded.Span(i)
			require.Positive(t, length)
		}
	})
}
