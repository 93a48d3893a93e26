package engine_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	at "github.com/tarnfs/tarn/internal/archivetest"
	"github.com/tarnfs/tarn/internal/testenv"
)

// peerImages gives an OCI layout with two images that share a layer, tags 1 and 2.
func peerImages(t *testing.T) (layout string, one, two at.Image) {
	t.Helper()
	layers := stackedLayers(t)
	one, two = at.NewImage("one", layers[0]), at.NewImage("two", layers[0], layers[2], layers[3])
	return at.Layout(map[string]at.Image{"1": one, "2": two}, "1", "2").Dir(t), one, two
}

// firstID loads an archive into a fresh store and gives the ID of its only image.
func firstID(t *testing.T, path string) (image.Digest, *engine.Engine) {
	t.Helper()
	e := newEngine(t)
	loaded := load(t, e, path)
	require.Len(t, loaded, 1)
	return loaded[0].ID, e
}

func TestArchivesOfSkopeo(t *testing.T) {
	skopeo := testenv.NewTool(t, "skopeo", nil)
	layout, _, two := peerImages(t)
	for transport, tc := range map[string]struct {
		tag      string
		name     string
		manifest bool
	}{
		"docker-archive": {":example.com/x:2", "example.com/x:2", false},
		"oci-archive":    {":2", "docker.io/library/out:2", true},
		"oci":            {":example.com/x:2", "example.com/x:2", true},
		"dir":            {"", "", true},
	} {
		t.Run(transport, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			target := transport + ":" + path + tc.tag
			if tc.manifest {
				skopeo("copy", "--preserve-digests", "oci:"+layout+":2", target)
			} else {
				skopeo("copy", "oci:"+layout+":2", target)
			}
			id, e := firstID(t, path)
			require.Equal(t, two.ID(), string(id))
			record := records(t, e)[0]
			if tc.manifest {
				require.Equal(t, image.DigestBytes([]byte(skopeo("inspect", "--raw", target))), record.Manifest)
				require.Equal(t, at.Digest(two.Manifest), string(record.Manifest))
			}
			require.Equal(t, tc.name, record.Name)
		})
	}
}

func TestArchivesOfPodman(t *testing.T) {
	podman := testenv.Podman(t)
	skopeo := testenv.NewTool(t, "skopeo", nil)
	layout, one, two := peerImages(t)
	both := filepath.Join(t.TempDir(), "both.tar")
	for _, tag := range []string{"1", "2"} {
		path := filepath.Join(t.TempDir(), "x.tar")
		skopeo("copy", "oci:"+layout+":"+tag, "docker-archive:"+path+":example.com/x:"+tag)
		podman("load", "--input", path)
	}
	podman("save", "--multi-image-archive", "--output", both, "example.com/x:1", "example.com/x:2")
	e := newEngine(t)
	loaded := load(t, e, both)
	require.Len(t, loaded, 2)
	require.Equal(t, one.ID(), string(loaded[0].ID))
	require.Equal(t, two.ID(), string(loaded[1].ID))
	require.Equal(t, "example.com/x:2", loaded[1].Names[0].Familiar())

	for _, format := range []string{"docker-archive", "docker-dir", "oci-archive", "oci-dir"} {
		t.Run(format, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			podman("save", "--format", format, "--output", path, "example.com/x:2")
			id, e := firstID(t, path)
			// It makes a config of its own for OCI: what skopeo finds in the archive is what counts.
			transport := map[string]string{"docker-dir": "dir", "oci-dir": "oci"}[format]
			if transport == "" {
				transport = format
			}
			require.Equal(t, image.DigestBytes([]byte(skopeo("inspect", "--config", "--raw", transport+":"+path))), id)
			if format != "docker-archive" {
				require.Equal(t, image.DigestBytes([]byte(skopeo("inspect", "--raw", transport+":"+path))), records(t, e)[0].Manifest)
			}
		})
	}
}

func TestArchivesOfDocker(t *testing.T) {
	docker := testenv.Docker(t)
	skopeo := testenv.NewTool(t, "skopeo", nil)
	layout, one, two := peerImages(t)
	for _, tag := range []string{"1", "2"} {
		path := filepath.Join(t.TempDir(), "x.tar")
		skopeo("copy", "oci:"+layout+":"+tag, "docker-archive:"+path+":x:"+tag)
		docker("load", "--input", path)
	}
	path := filepath.Join(t.TempDir(), "both.tar")
	docker("save", "--output", path, "x:1", "x:2")
	e := newEngine(t)
	for _, img := range load(t, e, path) {
		want := map[string]at.Image{"x:1": one, "x:2": two}[img.Names[0].Familiar()]
		require.Equal(t, want.ID(), string(img.ID))
	}
	require.Len(t, records(t, e), 2)
}

// TestOthersLoadWhatIsSaved: the same image IDs under the same names, from every format.
func TestOthersLoadWhatIsSaved(t *testing.T) {
	testenv.RequireRoot(t)
	skopeo := testenv.NewTool(t, "skopeo", nil)
	layout, one, two := peerImages(t)
	e := newEngine(t)
	load(t, e, layout)
	require.NoError(t, e.Tag(t.Context(), filepath.Base(layout)+":1", "example.com/x:1"))
	require.NoError(t, e.Tag(t.Context(), filepath.Base(layout)+":2", "example.com/x:2"))
	save := func(t *testing.T, format string, refs ...string) string {
		path := filepath.Join(testenv.TempDir(t), "out") // podman takes it for a name: no capitals
		require.NoError(t, e.Save(t.Context(), engine.SaveOptions{Images: refs, Format: format, Output: path}))
		return path
	}
	ids := map[string]string{"1": hexOf(one.ID()), "2": hexOf(two.ID())}

	t.Run("docker", func(t *testing.T) {
		docker := testenv.Docker(t)
		docker("load", "--input", save(t, "docker-archive", "example.com/x"))
		for tag, id := range ids {
			require.Equal(t, "sha256:"+id, strings.TrimSpace(docker("image", "inspect", "--format", "{{.Id}}", "example.com/x:"+tag)))
		}
	})
	t.Run("podman, both images", func(t *testing.T) {
		podman := testenv.Podman(t)
		podman("load", "--input", save(t, "docker-archive", "example.com/x"))
		for tag, id := range ids {
			require.Equal(t, id, strings.TrimSpace(podman("image", "inspect", "--format", "{{.Id}}", "example.com/x:"+tag)))
		}
	})
	for format, transport := range map[string]string{"docker-archive": "docker-archive", "oci-archive": "oci-archive", "oci-dir": "oci"} {
		t.Run("podman, "+format, func(t *testing.T) {
			podman := testenv.Podman(t)
			podman("load", "--input", save(t, format, "example.com/x:2"))
			require.Equal(t, ids["2"], strings.TrimSpace(podman("images", "--quiet", "--no-trunc"))[len("sha256:"):])
		})
		t.Run("skopeo, "+format, func(t *testing.T) {
			path := save(t, format, "example.com/x:2")
			require.Equal(t, two.ID(), string(image.DigestBytes([]byte(skopeo("inspect", "--config", "--raw", transport+":"+path)))))
			// It verifies every blob that it copies.
			copied := filepath.Join(t.TempDir(), "copied")
			if transport == "docker-archive" {
				skopeo("copy", transport+":"+path, "dir:"+copied)
				return
			}
			require.Equal(t, string(two.Manifest), skopeo("inspect", "--raw", transport+":"+path))
			skopeo("copy", "--preserve-digests", transport+":"+path, "oci:"+copied)
			raw, err := os.ReadFile(filepath.Join(copied, at.BlobName(two.ID())))
			require.NoError(t, err)
			require.Equal(t, string(two.Config), string(raw))
		})
	}
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }
