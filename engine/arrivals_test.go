package engine_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	at "github.com/tarnfs/tarn/internal/archivetest"
	"github.com/tarnfs/tarn/internal/testenv"
)

// TestLayersThatComeTogetherBorrow: whichever layers of an image arrive at the same moment, what they have in common is
// stored once.
func TestLayersThatComeTogetherBorrow(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4)) // as many layers of an archive at once
	const layers, common, own = 6, 3_000_000, 50_000
	var tars [][]byte
	for i := range uint64(layers) {
		tars = append(tars, rootTar(t, content(100+i, own), content(1, common)))
	}
	image1 := func(t *testing.T) (layers []pushLayer) {
		for _, tar := range tars {
			layers = append(layers, gzipLayer(t, tar))
		}
		return layers
	}
	for name, arrive := range map[string]func(t *testing.T, h *hoard){
		"load": func(t *testing.T, h *hoard) {
			var layers []at.Layer
			for _, tar := range tars {
				layers = append(layers, at.PlainLayer(tar))
			}
			images := map[string]at.Image{"docker.io/library/app:v1": at.NewImage("app", layers...)}
			load(t, h.Engine, writeFile(t, "archive.tar", at.Layout(images, "docker.io/library/app:v1").Tar(t)))
		},
		"pull": func(t *testing.T, h *hoard) {
			reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
			remote{t, reg.Host}.pushImage("app", "v1", image.HostPlatform(), image1(t)...)
			_, err := h.Pull(t.Context(), reg.Host+"/app:v1", engine.PullOptions{})
			require.NoError(t, err)
		},
		"push into": func(t *testing.T, h *hoard) {
			serve(t, h.Engine).pushImage("app", "v1", image.HostPlatform(), image1(t)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHoard(t, engine.Options{})
			arrive(t, h)
			du(t, h.Engine)
			all, err := h.Store.Layers()
			require.NoError(t, err)
			require.Len(t, all, layers)
			require.Less(t, h.disk("layers"), int64(common+layers*(own+50_000)))
			requireSound(t, h.Engine)
		})
	}
}
