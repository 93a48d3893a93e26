package layer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/layer/tarfile"
)

func TestWiden(t *testing.T) {
	const size = 10_000
	for _, tc := range []struct{ in, want tarfile.Segment }{
		{tarfile.Segment{Offset: 0, Length: 1}, tarfile.Segment{Offset: 0, Length: 4096}},
		{tarfile.Segment{Offset: 4095, Length: 2}, tarfile.Segment{Offset: 0, Length: 8192}},
		{tarfile.Segment{Offset: 4096, Length: 4096}, tarfile.Segment{Offset: 4096, Length: 4096}},
		{tarfile.Segment{Offset: 9000, Length: 1}, tarfile.Segment{Offset: 8192, Length: size - 8192}},
	} {
		require.Equal(t, tc.want, widen(tc.in, 4096, size))
	}
}

func TestAppendSegment(t *testing.T) {
	var all []tarfile.Segment
	for _, s := range []tarfile.Segment{{Offset: 0, Length: 10}, {Offset: 10, Length: 10}, {Offset: 15, Length: 2}, {Offset: 21, Length: 1}} {
		all = appendSegment(all, s)
	}
	require.Equal(t, []tarfile.Segment{{Offset: 0, Length: 20}, {Offset: 21, Length: 1}}, all)
}

// TestCoarsen: a file in more pieces than are kept loses its smallest holes, and no data.
func TestCoarsen(t *testing.T) {
	const pieces = 3*maxSegments + 1
	var all []tarfile.Segment
	for i := range int64(pieces) {
		all = append(all, tarfile.Segment{Offset: 2 * i * sparseUnit, Length: sparseUnit})
	}
	far := tarfile.Segment{Offset: 1 << 40, Length: 100}
	all = append(all, far)
	size := far.Offset + far.Length
	few := coarsen(all, size)
	require.LessOrEqual(t, len(few), maxSegments)
	require.Equal(t, []tarfile.Segment{
		{Offset: 0, Length: all[pieces-1].Offset + 2*sparseUnit}, far,
	}, few, "holes as small as the data between them")
	require.Equal(t, all[:100], coarsen(all[:100], size), "few enough as they are")
}
