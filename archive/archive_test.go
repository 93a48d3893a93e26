package archive_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/archive"
	"github.com/tarnfs/tarn/image"
	at "github.com/tarnfs/tarn/internal/archivetest"
)

// two gives two images that share their lower layer.
func two(t *testing.T) (one, other at.Image) {
	t.Helper()
	lower := at.PlainLayer(at.LayerTar(t, at.File{Name: "etc/"}, at.File{Name: "etc/issue", Content: "hello\n"}))
	upper := at.PlainLayer(at.LayerTar(t, at.File{Name: "etc/motd", Content: "welcome\n"}))
	return at.NewImage("one", lower), at.NewImage("other", lower, upper)
}

func openTar(t testing.TB, tar []byte) (*archive.Archive, error) {
	t.Helper()
	return archive.OpenTar(bytes.NewReader(tar), int64(len(tar)))
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// oldDocker is what "docker save" wrote up to version 24: a layer that two images have is a file of the
// first and a symbolic link in the second.
func oldDocker(one, other at.Image) *at.Archive {
	return new(at.Archive).
		Add("aaa/VERSION", []byte("1.0")).Add("aaa/layer.tar", one.Layers[0].Blob).
		Symlink("bbb/layer.tar", "../aaa/layer.tar").
		Add("ccc/layer.tar", other.Layers[1].Blob).
		Add(hexOf(one.ID())+".json", one.Config).Add(hexOf(other.ID())+".json", other.Config).
		AddJSON("manifest.json", []at.Object{
			{"Config": hexOf(one.ID()) + ".json", "RepoTags": []string{"one:1", "one:latest"}, "Layers": []string{"aaa/layer.tar"}},
			{"Config": hexOf(other.ID()) + ".json", "RepoTags": nil, "Layers": []string{"bbb/layer.tar", "ccc/layer.tar"}},
		}).
		AddJSON("repositories", at.Object{})
}

func TestImagesOfEveryForm(t *testing.T) {
	one, other := two(t)
	both := func() *at.Archive { return new(at.Archive).AddImage(one).AddImage(other) }
	dockerToo := []at.Object{
		{"Config": at.BlobName(one.ID()), "RepoTags": []string{"docker.io/library/one:1", "elsewhere/one:2"}, "Layers": []string{"x"}},
		{"Config": at.BlobName(other.ID()), "RepoTags": nil},
	}
	const tarOnly = "hard links, odd names"
	type names struct{ names, tags []string }
	for name, tc := range map[string]struct {
		files     *at.Archive
		one       names
		other     names
		manifests bool
	}{
		"old docker": {oldDocker(one, other), names{names: []string{"one:1", "one:latest"}}, names{}, false},
		tarOnly: {
			new(at.Archive).Add("./layers/a.tar", one.Layers[0].Blob).Link("./b.tar", "./layers/a.tar").
				Add("./"+one.ID(), one.Config).Add("./config", other.Config).Symlink("./c.tar", "/up.tar").
				Add("/up.tar", other.Layers[1].Blob).
				AddJSON("./manifest.json", []at.Object{
					{"Config": one.ID(), "RepoTags": []string{"one"}, "Layers": []string{"layers/../layers/a.tar"}},
					{"Config": "config", "Layers": []string{"/b.tar", "./c.tar"}},
				}),
			names{names: []string{"one"}},
			names{},
			false,
		},
		"layout of umoci": {
			both().AddLayout(at.Descriptor(at.ManifestType, one.Manifest, at.RefName("1")), at.Descriptor(at.ManifestType, other.Manifest, at.RefName("latest"))),
			names{tags: []string{"1"}},
			names{tags: []string{"latest"}},
			true,
		},
		"layout of podman, two names": {
			both().AddLayout(at.Descriptor(at.ManifestType, one.Manifest, at.RefName("docker.io/library/one:1")),
				at.Descriptor(at.ManifestType, other.Manifest), at.Descriptor(at.ManifestType, one.Manifest, at.RefName("localhost/one"))),
			names{names: []string{"docker.io/library/one:1", "localhost/one"}},
			names{},
			true,
		},
		"layout of docker, which is a docker-archive too": {
			both().AddLayout(at.Descriptor(at.ManifestType, one.Manifest, at.Object{"annotations": at.Object{
				"io.containerd.image.name": "docker.io/library/one:1", "org.opencontainers.image.ref.name": "1",
			}}), at.Descriptor(at.ManifestType, other.Manifest)).AddJSON("manifest.json", dockerToo),
			names{names: []string{"docker.io/library/one:1", "elsewhere/one:2"}},
			names{},
			true,
		},
		"layout of docker that umoci changed": {
			both().AddLayout(at.Descriptor(at.ManifestType, one.Manifest, at.Object{"annotations": at.Object{
				"io.containerd.image.name": "docker.io/library/one:1", "org.opencontainers.image.ref.name": "new",
			}}), at.Descriptor(at.ManifestType, other.Manifest, at.Object{"annotations": at.Object{
				"io.containerd.image.name": "not a reference",
			}})),
			names{tags: []string{"new"}},
			names{},
			true,
		},
		"reference names that are none, and what is no image": {
			both().Blob([]byte("{}")).AddLayout(at.Descriptor("application/vnd.example+json", []byte("{}")),
				at.Descriptor(at.ManifestType, one.Manifest, at.RefName("a:b:c")), at.Descriptor(at.ManifestType, other.Manifest)),
			names{},
			names{},
			true,
		},
	} {
		check := func(t *testing.T, a *archive.Archive) {
			images, err := a.Images(image.Platform{})
			require.NoError(t, err)
			require.Len(t, images, 2)
			for i, want := range []struct {
				at.Image
				names
			}{{one, tc.one}, {other, tc.other}} {
				require.Equal(t, want.names.names, images[i].Names)
				require.Equal(t, want.tags, images[i].Tags)
				requireImage(t, want.Image, images[i], tc.manifests)
			}
			require.NoError(t, a.Close())
		}
		t.Run(name+", tar", func(t *testing.T) {
			a, err := openTar(t, tc.files.Tar(t))
			require.NoError(t, err)
			check(t, a)
		})
		if name == tarOnly {
			continue // in a directory, a symbolic link to an absolute path leads out of it
		}
		t.Run(name+", directory", func(t *testing.T) {
			a, err := archive.OpenDir(tc.files.Dir(t))
			require.NoError(t, err)
			check(t, a)
		})
	}
}

func requireImage(t *testing.T, want at.Image, got archive.Image, manifest bool) {
	t.Helper()
	require.Equal(t, want.ID(), string(got.ID()))
	require.Equal(t, string(want.Config), string(got.Config))
	if manifest {
		require.Equal(t, string(want.Manifest), string(got.Manifest))
	} else {
		require.Nil(t, got.Manifest)
	}
	require.Len(t, got.Layers, len(want.Layers))
	for i, layer := range got.Layers {
		require.Equal(t, at.Digest(want.Layers[i].Tar), string(layer.DiffID))
		if manifest {
			require.Equal(t, at.Digest(want.Layers[i].Blob), string(layer.Descriptor.Digest))
		}
		r, size, err := layer.Open()
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.Len(t, data, int(size))
		require.True(t, bytes.Equal(want.Layers[i].Blob, data))
	}
}

func TestDirTransport(t *testing.T) {
	_, img := two(t)
	files := new(at.Archive).Add("version", []byte("Directory Transport Version: 1.1\n")).
		Add("manifest.json", img.Manifest).Add(hexOf(img.ID()), img.Config)
	for _, layer := range img.Layers {
		files.Add(hexOf(at.Digest(layer.Blob)), layer.Blob)
	}
	a, err := archive.OpenDir(files.Dir(t))
	require.NoError(t, err)
	defer a.Close()
	images, err := a.Images(image.Platform{})
	require.NoError(t, err)
	require.Len(t, images, 1)
	requireImage(t, img, images[0], true)
}

func TestSparseMembers(t *testing.T) {
	// A layout that was packed by "tar --sparse": the reader must see contents and not what is stored.
	img := at.NewImage("sparse", at.PlainLayer(append(at.LayerTar(t, at.File{Name: "f", Content: "x"}), make([]byte, 1<<20)...)))
	dir := at.Layout(map[string]at.Image{"1": img}, "1").Dir(t)
	blob := filepath.Join(dir, at.BlobName(at.Digest(img.Layers[0].Blob)))
	f, err := os.OpenFile(blob, os.O_RDWR|os.O_TRUNC, 0)
	require.NoError(t, err)
	_, err = f.Write(img.Layers[0].Blob[:512*3])
	require.NoError(t, err)
	require.NoError(t, f.Truncate(int64(len(img.Layers[0].Blob))))
	require.NoError(t, f.Close())

	packed := gnuTar(t, dir, "--sparse")
	require.Less(t, len(packed), 1<<19, "tar has found the hole")
	a, err := openTar(t, packed)
	require.NoError(t, err)
	images, err := a.Images(image.Platform{})
	require.NoError(t, err)
	requireImage(t, img, images[0], true)
}

func TestPlatforms(t *testing.T) {
	host := image.HostPlatform()
	foreign := "riscv64"
	build := func(arch string) at.Image {
		config := at.Config(arch)
		config["architecture"] = arch
		raw := at.JSON(config)
		return at.Image{Config: raw, Manifest: at.JSON(at.Manifest(raw))}
	}
	mine, theirs, attestation := build(host.Architecture), build(foreign), build("unknown")
	platform := func(os, arch string) at.Object {
		return at.Object{"platform": at.Object{"os": os, "architecture": arch}}
	}
	entry := func(img at.Image, os, arch string, more ...at.Object) at.Object {
		return at.Descriptor(at.ManifestType, img.Manifest, append(more, platform(os, arch))...)
	}
	add := func() *at.Archive { return new(at.Archive).AddImage(mine).AddImage(theirs).AddImage(attestation) }
	nested := func(manifests ...at.Object) *at.Archive {
		index := at.JSON(at.Index(manifests...))
		return add().Blob(index).AddLayout(at.Descriptor(at.IndexType, index, at.RefName("1")))
	}
	want := image.Platform{OS: "linux", Architecture: foreign}
	for name, tc := range map[string]struct {
		files    *at.Archive
		platform image.Platform
		images   []at.Image
		err      error
	}{
		"of several, this machine's":          {nested(entry(theirs, "linux", foreign), entry(mine, "linux", host.Architecture)), image.Platform{}, []at.Image{mine}, nil},
		"of several, the one asked for":       {nested(entry(theirs, "linux", foreign), entry(mine, "linux", host.Architecture)), want, []at.Image{theirs}, nil},
		"of several, none":                    {nested(entry(theirs, "linux", foreign), entry(attestation, "plan9", "mips")), image.Platform{}, nil, image.ErrNoPlatform},
		"the only one, and its attestation":   {nested(entry(theirs, "linux", foreign), entry(attestation, "unknown", "unknown")), image.Platform{}, []at.Image{theirs}, nil},
		"the only one is not the one wanted":  {nested(entry(mine, "linux", host.Architecture)), want, nil, image.ErrNoPlatform},
		"the config is for another platform":  {add().AddLayout(at.Descriptor(at.ManifestType, mine.Manifest)), want, nil, image.ErrNoPlatform},
		"in the index, one name":              {add().AddLayout(entry(theirs, "linux", foreign, at.RefName("1")), entry(mine, "linux", host.Architecture, at.RefName("1"))), image.Platform{}, []at.Image{mine}, nil},
		"in the index, two names":             {add().AddLayout(entry(theirs, "linux", foreign, at.RefName("1")), entry(mine, "linux", host.Architecture, at.RefName("2"))), image.Platform{}, []at.Image{theirs, mine}, nil},
		"in the index, without names":         {add().AddLayout(entry(theirs, "linux", foreign), entry(mine, "linux", host.Architecture), entry(attestation, "linux", host.Architecture)), image.Platform{}, []at.Image{mine, attestation}, nil},
		"in the index, one says no platform":  {add().AddLayout(at.Descriptor(at.ManifestType, theirs.Manifest), entry(mine, "linux", host.Architecture)), image.Platform{}, []at.Image{theirs, mine}, nil},
		"in the index, the only one, foreign": {add().AddLayout(entry(theirs, "linux", foreign)), image.Platform{}, []at.Image{theirs}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := openTar(t, tc.files.Tar(t))
			require.NoError(t, err)
			images, err := a.Images(tc.platform)
			if tc.err != nil {
				require.ErrorIs(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			var got, wanted []string
			for _, img := range images {
				got = append(got, string(img.ID()))
			}
			for _, img := range tc.images {
				wanted = append(wanted, img.ID())
			}
			require.Equal(t, wanted, got)
		})
	}
}
