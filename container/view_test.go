package container_test

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
)

// view gives the box's file system with a directory of the host at each destination.
func (b *box) view(sources map[string]string) (*os.File, error) {
	b.t.Helper()
	root := b.openRoot()
	defer root.Close()
	spec := &specs.Spec{Linux: &specs.Linux{}}
	for dest, source := range sources {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: dest, Type: "bind", Source: source, Options: []string{"rbind", "ro"}})
	}
	return container.View(root, spec)
}

// What is mounted is seen in the tree, below the root and wherever the image's links lead; and nowhere else.
func TestView(t *testing.T) {
	b := newBox(t)
	b.mkdir("real")
	b.symlink("/real", "link")
	source := testenv.TempDir(t)
	require.NoError(t, os.WriteFile(filepath.Join(source, "file"), []byte("seen"), 0o600))
	tree, err := b.view(map[string]string{"/link/here": source, "/new/deep": source})
	require.NoError(t, err)
	defer tree.Close()
	for _, name := range []string{"/real/here/file", "/link/here/file", "/new/deep/file"} {
		f, err := sys.OpenInRoot(tree, name, sys.OpenRead)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		_, err = sys.OpenInRoot(tree, name, sys.OpenWrite)
		require.Error(t, err, "it is mounted read-only")
		require.NoFileExists(t, b.path(name), "the mount is somewhere else, too")
	}
	require.FileExists(t, b.path("probe"))
	_, err = b.view(map[string]string{"/probe": source})
	require.ErrorIs(t, err, container.ErrSpec)
}
