package engine_test

import (
	"bytes"
	stdgzip "compress/gzip"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/testenv"
)

func TestCompactKeepsWhatItCannotMakeAgain(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	compressed := func(tar []byte, writer func(io.Writer) (io.WriteCloser, error)) []byte {
		var buf bytes.Buffer
		w, err := writer(&buf)
		require.NoError(t, err)
		_, err = w.Write(tar)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return buf.Bytes()
	}
	level := 9
	known := map[string]func(io.Writer) (io.WriteCloser, error){
		"Go's gzip":   func(w io.Writer) (io.WriteCloser, error) { return stdgzip.NewWriter(w), nil },
		"Go's best":   func(w io.Writer) (io.WriteCloser, error) { return stdgzip.NewWriterLevel(w, level) },
		"klauspost's": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"pgzip":       func(w io.Writer) (io.WriteCloser, error) { return pgzip.NewWriter(w), nil },
		"zstd":        func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	}
	var layers []pushLayer
	seed := byte(1)
	for name, writer := range known {
		tar := layerTar(t, seed, 1<<20+int(seed))
		kind := image.MediaTypeLayerGzip
		if name == "zstd" {
			kind = image.MediaTypeLayerZstd
		}
		layers = append(layers, pushLayer{kind, compressed(tar, writer), image.DigestBytes(tar)})
		seed++
	}
	strange := layerTar(t, seed, 1<<20)
	packed := compressed(strange, func(w io.Writer) (io.WriteCloser, error) {
		zw := stdgzip.NewWriter(w)
		zw.Comment = "nobody else does this"
		return zw, nil
	})
	// The same beginning, and then more: an empty member.
	longer := layerTar(t, seed+1, 1<<20)
	twice := append(compressed(longer, known["Go's gzip"]), compressed(nil, known["Go's gzip"])...)
	layers = append(layers, pushLayer{image.MediaTypeLayerGzip, packed, image.DigestBytes(strange)},
		pushLayer{image.MediaTypeLayerGzip, twice, image.DigestBytes(longer)})
	want := remote{t, reg.Host}.pushImage("app", "latest", image.HostPlatform(), layers...)

	e := newEngine(t)
	_, err := e.Pull(t.Context(), reg.Host+"/app", engine.PullOptions{})
	require.NoError(t, err)
	require.NoError(t, e.Tag(t.Context(), reg.Host+"/app", "second"))
	gone, err := e.Compact(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, gone, len(known))
	forms, err := e.Forms(t.Context())
	require.NoError(t, err)
	require.Len(t, forms, len(layers))
	for _, f := range forms {
		isKept := f.Blob == image.DigestBytes(packed) || f.Blob == image.DigestBytes(twice)
		require.Equal(t, isKept, f.Kept)
		require.Equal(t, isKept, e.Store.HasBlob(f.Blob))
		require.Len(t, f.Images, 2)
		if isKept {
			require.Contains(t, f.Why(), "kept as it came")
		} else {
			require.Contains(t, f.Why(), "made again: ")
		}
	}
	usage, err := e.DiskUsage(t.Context())
	require.NoError(t, err)
	require.Equal(t, "Compressed forms", usage[1].Type)
	require.Equal(t, []int{len(layers), 2}, []int{usage[1].Total, usage[1].Active})
	require.InDelta(t, len(packed)+len(twice), usage[1].Size, 8192, "in whole blocks of the disk")

	gone, err = e.Compact(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, gone)
	other := testenv.StartRegistry(t, testenv.RegistryOptions{})
	pushed, err := e.Push(t.Context(), "second", other.Host+"/app", engine.PushOptions{})
	require.NoError(t, err)
	require.Equal(t, want.Digest, pushed.Digest, "they were made again, the same to the byte")
	_, err = newEngine(t).Pull(t.Context(), other.Host+"/app", engine.PullOptions{})
	require.NoError(t, err)

	proxy := testenv.StartProxy(t, reg.Host)
	pulled, err := e.Pull(t.Context(), proxy.Host+"/app", engine.PullOptions{})
	require.NoError(t, err)
	require.Equal(t, want.Digest, pulled.Digest)
	require.Len(t, proxy.Requests(), 2, "no layer is fetched again")
}
