package testenv

import (
	"os"
	"path/filepath"
	"testing"
)

// Conformance gives the path of the official tests of the OCI distribution specification, a program,
// and skips the test (fails it in CI) when it is not there. scripts/conformance.sh makes it.
func Conformance(t testing.TB) string {
	t.Helper()
	path := filepath.Join(CacheDir(t), "conformance")
	if _, err := os.Stat(path); err != nil {
		Unmet(t, "needs the tests of the distribution specification: scripts/conformance.sh makes them")
	}
	return path
}
