package tartest_test

import (
	"bytes"
	"testing"

	"github.com/tarnfs/tarn/internal/tartest"
)

// TestMend damages all checksums of real tars, which must come back as they were.
func TestMend(t *testing.T) {
	for name, tar := range tartest.Real(t) {
		if !bytes.Equal(tartest.Mend(tar), tar) {
			t.Errorf("%s: what was right was changed", name)
		}
		damaged := bytes.Clone(tar)
		damaged[100] ^= 1 // the first header's mode
		if bytes.Equal(tartest.Mend(damaged), damaged) {
			t.Errorf("%s: what was wrong stayed so", name)
		}
	}
}
