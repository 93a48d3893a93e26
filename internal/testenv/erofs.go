package testenv

import (
	"os"
	"path/filepath"
	"testing"
)

// FsckErofs gives the path of a fsck.erofs that knows blocks of 512 bytes (erofs-utils 1.8 does,
// Debian 12's 1.5 does not), and skips the test (fails it in CI) when there is none.
// scripts/erofs-utils.sh makes it.
func FsckErofs(t testing.TB) string {
	t.Helper()
	path := filepath.Join(CacheDir(t), "fsck.erofs")
	if _, err := os.Stat(path); err != nil {
		Unmet(t, "needs a recent fsck.erofs: scripts/erofs-utils.sh makes it")
	}
	return path
}
