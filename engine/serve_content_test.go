package engine

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/registry/server"
	"github.com/tarnfs/tarn/registry/server/servertest"
)

func TestStoreAsRegistry(t *testing.T) {
	servertest.Run(t, func(t *testing.T) server.Content {
		e, err := Open(Options{Root: filepath.Join(t.TempDir(), "root"), Run: t.TempDir()})
		require.NoError(t, err)
		content := newStoreContent(e, func(line string) { t.Log(line) })
		t.Cleanup(func() { require.NoError(t, content.pending.close()) })
		return content
	})
}
