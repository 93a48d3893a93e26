package archive_test

import (
	"bytes"
	"io"
	"strconv"
	"testing"

	"github.com/tarnfs/tarn/archive"
	"github.com/tarnfs/tarn/image"
	at "github.com/tarnfs/tarn/internal/archivetest"
)

// FuzzArchive reads whatever it is given as an archive. What comes out must be what the archive
// promises: documents with their digests, as many layers as diffIDs, each of which can be read.
func FuzzArchive(f *testing.F) {
	layer := at.PlainLayer(at.LayerTar(f, at.File{Name: "f", Content: "x"}))
	one, other := at.NewImage("one", layer), at.NewImage("other", layer, at.PlainLayer(nil))
	f.Add(at.Layout(map[string]at.Image{"1": one, "x/y:2": other}, "1", "x/y:2").Tar(f))
	f.Add(oldDocker(one, other).Tar(f))
	f.Add(nestedIndexes(one, 2).Tar(f))
	f.Add(nestedIndexes(one, 9).Tar(f))
	f.Add(at.Layout(map[string]at.Image{"1": one}, "1").
		AddJSON("manifest.json", []at.Object{{"Config": at.BlobName(one.ID()), "RepoTags": []string{"a", "b"}}}).Tar(f))
	f.Add(new(at.Archive).Add("version", []byte("Directory Transport Version: 1.1")).Add("manifest.json", one.Manifest).
		Add(hexOf(one.ID()), one.Config).Add(hexOf(at.Digest(layer.Blob)), layer.Blob).Symlink("a", "b").Symlink("b", "a").Tar(f))
	f.Fuzz(func(t *testing.T, tar []byte) {
		a, err := archive.OpenTar(bytes.NewReader(tar), int64(len(tar)))
		if err != nil {
			return
		}
		images, err := a.Images(image.Platform{})
		if err != nil {
			return
		}
		for _, img := range images {
			checkImage(t, &img)
		}
	})
}

// FuzzDocuments makes archives of documents that it is given, with the digests in them put right, since
// those are what mutation never finds.
func FuzzDocuments(f *testing.F) {
	config := at.JSON(at.Config("one", at.Digest(nil)))
	manifest := `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"$config","size":$sizeofconfig},` +
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + at.Digest(nil) + `","size":0}]}`
	index := `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"$manifest","size":$sizeofmanifest,` +
		`"platform":{"os":"linux","architecture":"amd64"},"annotations":{"org.opencontainers.image.ref.name":"a/b:1"}}]}`
	docker := `[{"Config":"config","RepoTags":["a:1"],"Layers":["layer"]},{"Config":"blobs/sha256/x"}]`
	for _, form := range []string{"layout", "docker", "both", "dir"} {
		f.Add(form, []byte(docker), []byte(index), []byte(manifest), config)
	}
	f.Fuzz(func(t *testing.T, form string, docker, index, manifest, config []byte) {
		manifest = putDigest(manifest, "config", config)
		index = putDigest(index, "manifest", manifest)
		files := new(at.Archive).Blob(manifest).Blob(config).Blob(nil).Add("layer", nil).Add("config", config)
		switch form {
		case "dir":
			files.Add("manifest.json", manifest).Add("version", []byte("Directory Transport Version: 1.1")).
				Add(hexOf(at.Digest(config)), config)
		case "docker":
			files.Add("manifest.json", docker)
		case "both":
			files.Add("manifest.json", docker)
			fallthrough
		default:
			files.AddJSON("oci-layout", at.Object{"imageLayoutVersion": "1.0.0"}).Add("index.json", index)
		}
		a, err := openTar(t, files.Tar(t))
		if err != nil {
			t.Fatal(err)
		}
		images, err := a.Images(image.Platform{})
		if err == nil && len(images) == 0 {
			t.Fatal("neither images nor an error")
		}
		for _, img := range images {
			checkImage(t, &img)
		}
	})
}

// putDigest puts the digest and the size of a document in place of its name.
func putDigest(in []byte, name string, document []byte) []byte {
	in = bytes.ReplaceAll(in, []byte("$sizeof"+name), []byte(strconv.Itoa(len(document))))
	return bytes.ReplaceAll(in, []byte("$"+name), []byte(at.Digest(document)))
}

func checkImage(t *testing.T, img *archive.Image) {
	t.Helper()
	config, err := image.ParseConfig(img.Config)
	if err != nil || len(config.RootFS.DiffIDs) != len(img.Layers) {
		t.Fatalf("config: %v; %d layers", err, len(img.Layers))
	}
	if img.Manifest != nil {
		manifest, err := image.ParseManifest(img.Manifest)
		if err != nil || manifest.Config.Digest.Algorithm() == image.SHA256 && manifest.Config.Digest != img.ID() {
			t.Fatalf("manifest: %v; %s", err, img.ID())
		}
	}
	for i, layer := range img.Layers {
		if layer.DiffID != config.RootFS.DiffIDs[i] {
			t.Fatalf("layer %d is %s", i, layer.DiffID)
		}
		r, size, err := layer.Open()
		if err != nil {
			continue // missing: found when it is read
		}
		n, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		if err != nil || n != min(size, 1<<20) {
			t.Fatalf("layer %d: %d bytes of %d: %v", i, n, size, err)
		}
	}
}
