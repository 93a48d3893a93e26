package layer_test

import (
	"testing"

	"github.com/tarnfs/tarn/internal/testenv"
)

// TestDebianRootAgainstGNUTar compares a whole Debian root, as the kernel shows it through the index and
// as Extract makes it, with what GNU tar extracts: entry by entry, with all contents.
func TestDebianRootAgainstGNUTar(t *testing.T) {
	path := testenv.DebianTar(t)
	want := gnuTarView(t, path)
	if len(want) < 10_000 {
		t.Fatalf("%d entries are no Debian root", len(want))
	}
	judge(t, path, want)
}
