package engine_test

import (
	"bytes"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/store"
)

func importTar(t *testing.T, e *engine.Engine, name, content string, changes ...string) image.Digest {
	t.Helper()
	id, err := e.Import(t.Context(), bytes.NewReader(makeTar(t, file{"f", content})), engine.ImportOptions{Name: name, Changes: changes})
	require.NoError(t, err)
	return id
}

func TestImageIsFound(t *testing.T) {
	e := newEngine(t)
	id := importTar(t, e, "me/tool:v1", "x")
	record, err := e.Store.Image("docker.io/me/tool:v1")
	require.NoError(t, err)
	for _, ref := range []string{
		"me/tool:v1", "docker.io/me/tool:v1", string(id), id.Hex(), id.Short(), id.Hex()[:3], "me/tool@" + string(record.Manifest),
	} {
		img, err := e.Image(ref)
		require.NoError(t, err, ref)
		require.Equal(t, id, img.ID)
	}
	for _, ref := range []string{"me/tool", "me/tool:v2", "other@" + string(record.Manifest), "ffffffffffff0"} {
		_, err := e.Image(ref)
		require.ErrorIs(t, err, engine.ErrNoImage, ref)
		require.ErrorContains(t, err, ref)
		require.ErrorContains(t, err, "tarn images")
	}
	_, err = e.Image("UPPER")
	require.ErrorIs(t, err, image.ErrReference)
}

func TestImagesAndFilters(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	e := newEngine(t)
	importTar(t, e, "tool:v1", "x", "LABEL tier=web")
	importTar(t, e, "ghcr.io/a/b", "longer than x", "LABEL tier=db")
	importTar(t, e, "", "unnamed")
	yes, no := true, false
	for name, tc := range map[string]struct {
		filter engine.ImageFilter
		want   []string
	}{
		"all":           {engine.ImageFilter{}, []string{"tool:v1", "ghcr.io/a/b:latest", ""}},
		"name":          {engine.ImageFilter{References: []string{"tool"}}, []string{"tool:v1"}},
		"pattern":       {engine.ImageFilter{References: []string{"ghcr.io/*/*"}}, []string{"ghcr.io/a/b:latest"}},
		"tag pattern":   {engine.ImageFilter{References: []string{"*:v1"}}, []string{"tool:v1"}},
		"dangling":      {engine.ImageFilter{Dangling: &yes}, []string{""}},
		"not dangling":  {engine.ImageFilter{Dangling: &no}, []string{"tool:v1", "ghcr.io/a/b:latest"}},
		"label":         {engine.ImageFilter{Labels: []string{"tier"}}, []string{"tool:v1", "ghcr.io/a/b:latest"}},
		"label's value": {engine.ImageFilter{Labels: []string{"tier=db"}}, []string{"ghcr.io/a/b:latest"}},
	} {
		rows, err := e.Images(t.Context(), tc.filter)
		require.NoError(t, err, name)
		var got []string
		for _, row := range rows {
			got = append(got, row.Name.Familiar())
		}
		require.ElementsMatch(t, tc.want, got, name)
	}
	_, err := e.Images(t.Context(), engine.ImageFilter{References: []string{"["}})
	require.Error(t, err)
}

func TestImageFilterOptions(t *testing.T) {
	yes := true
	got, err := engine.ParseImageFilter([]string{"reference=a*", "dangling=1", "label=k=v", "label=l", "before=x", "since=y"}, true)
	require.NoError(t, err)
	require.Equal(t, engine.ImageFilter{
		All: true, References: []string{"a*"}, Dangling: &yes, Labels: []string{"k=v", "l"}, Before: "x", Since: "y",
	}, got)
	for _, bad := range []string{"dangling", "dangling=maybe", "size=3"} {
		_, err := engine.ParseImageFilter([]string{bad}, false)
		require.ErrorIs(t, err, engine.ErrOption, bad)
		require.ErrorContains(t, err, bad)
	}
}

func TestImagesBeforeAndSince(t *testing.T) {
	e := newEngine(t)
	for i, name := range []string{"old", "middle", "new"} {
		t.Setenv("SOURCE_DATE_EPOCH", strconv.Itoa(1_700_000_000+i))
		importTar(t, e, name, "x")
	}
	for _, tc := range []struct {
		filter engine.ImageFilter
		want   []string
	}{
		{engine.ImageFilter{}, []string{"new:latest", "middle:latest", "old:latest"}},
		{engine.ImageFilter{Before: "middle"}, []string{"old:latest"}},
		{engine.ImageFilter{Since: "middle"}, []string{"new:latest"}},
		{engine.ImageFilter{Since: "old", Before: "new"}, []string{"middle:latest"}},
	} {
		rows, err := e.Images(t.Context(), tc.filter)
		require.NoError(t, err)
		var got []string
		for _, row := range rows {
			got = append(got, row.Name.Familiar())
		}
		require.Equal(t, tc.want, got)
	}
	_, err := e.Images(t.Context(), engine.ImageFilter{Since: "nope"})
	require.ErrorIs(t, err, engine.ErrNoImage)
}

func TestTagAndRemove(t *testing.T) {
	e := newEngine(t)
	id := importTar(t, e, "one", "x")
	require.NoError(t, e.Tag(t.Context(), "one", "two:v2"))
	require.ErrorIs(t, e.Tag(t.Context(), "nope", "x"), engine.ErrNoImage)
	require.Error(t, e.Tag(t.Context(), "one", ""))
	report, err := e.InspectImage(t.Context(), "two:v2")
	require.NoError(t, err)
	require.Equal(t, []string{"one:latest", "two:v2"}, report.RepoTags)
	require.Len(t, report.RepoDigests, 2)
	require.Contains(t, report.GraphDriver.Data["LowerDir"], "/layers/"+report.RootFS.Layers[0].Hex())

	_, err = e.RemoveImage(t.Context(), id.Short(), engine.RemoveImageOptions{})
	require.ErrorIs(t, err, engine.ErrImageInUse, "two names")
	removed, err := e.RemoveImage(t.Context(), "one", engine.RemoveImageOptions{})
	require.NoError(t, err)
	require.Equal(t, &engine.Removed{Untagged: []string{"one:latest"}}, removed)
	removed, err = e.RemoveImage(t.Context(), "two:v2", engine.RemoveImageOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"two:v2"}, removed.Untagged)
	require.Equal(t, []image.Digest{id, report.RootFS.Layers[0]}, removed.Deleted)
	for _, dir := range []string{"layers", "images", "blobs/sha256", "tmp"} {
		requireEmpty(t, e, dir)
	}
	_, err = e.RemoveImage(t.Context(), "two:v2", engine.RemoveImageOptions{Force: true})
	require.ErrorIs(t, err, engine.ErrNoImage)
}

func TestRemoveImageOfAContainer(t *testing.T) {
	e := newEngine(t)
	importTar(t, e, "one", "x")
	img, err := e.Image("one")
	require.NoError(t, err)
	lock, err := e.Store.Shared(t.Context())
	require.NoError(t, err)
	c, err := e.Store.CreateContainer(lock, store.ContainerRecord{Name: "web", Manifest: img.Manifest, ImageID: img.ID}, true)
	require.NoError(t, err)
	require.NoError(t, lock.Unlock())

	_, err = e.RemoveImage(t.Context(), "one", engine.RemoveImageOptions{})
	require.ErrorIs(t, err, engine.ErrImageInUse)
	require.ErrorContains(t, err, "tarn rm web")
	removed, err := e.RemoveImage(t.Context(), "one", engine.RemoveImageOptions{Force: true})
	require.NoError(t, err)
	require.Empty(t, removed.Deleted)
	require.True(t, e.Store.HasLayer(img.Config.RootFS.DiffIDs[0]), "the container needs it")
	require.NoError(t, e.Store.RemoveContainer(c, false))
	removed, err = e.RemoveImage(t.Context(), img.ID.Short(), engine.RemoveImageOptions{})
	require.NoError(t, err)
	require.Equal(t, []image.Digest{img.ID, img.Config.RootFS.DiffIDs[0]}, removed.Deleted)
}

func TestHistoryAndLayers(t *testing.T) {
	e := newEngine(t)
	id := importTar(t, e, "one", "x")
	importTar(t, e, "two", "x", "CMD [\"other\"]")
	steps, err := e.History(t.Context(), "one")
	require.NoError(t, err)
	require.Len(t, steps, 1)
	require.Equal(t, "tarn import", steps[0].CreatedBy)
	require.Equal(t, id, steps[0].Image)
	rows, err := e.Layers(t.Context(), "one")
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, 1, rows[0].SharedBy)
	require.Equal(t, int64(len(makeTar(t, file{"f", "x"}))), rows[0].Size)
	require.Equal(t, layer.Counts{Added: 1, Bytes: 1}, rows[0].Counts)
	require.NotContains(t, rows[0].CreatedBy, "\n")
}
