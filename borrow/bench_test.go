package borrow_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/borrow"
)

// BenchmarkNothingInCommon is what a layer of 5,500 files pays that has nothing in common with a
// thousand others like it.
func BenchmarkNothingInCommon(b *testing.B) {
	table := func(seed uint64) (*borrow.Contents, []byte) {
		contents := new(borrow.Contents)
		for i := range int64(5500) {
			w, _ := contents.Observe(i*8192, 4096)
			_, err := w.Write(noise(seed*10_000+uint64(i), 16))
			require.NoError(b, err)
		}
		return contents, contents.Table()
	}
	dir := b.TempDir()
	var sources []borrow.Source
	for i := range uint64(1000) {
		path := filepath.Join(dir, fmt.Sprint(i))
		_, t := table(i)
		require.NoError(b, os.WriteFile(path, t, 0o600))
		sources = append(sources, borrow.Source{Table: func() (io.ReadCloser, error) { return os.Open(path) }})
	}
	contents, _ := table(5000)
	tar := bytes.NewReader(make([]byte, 5500*8192))
	b.ReportAllocs()
	for b.Loop() {
		plan, err := borrow.Find(b.Context(), tar, tar.Size(), contents, sources)
		require.NoError(b, err)
		require.Nil(b, plan)
	}
}
