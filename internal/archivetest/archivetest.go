// Package archivetest makes image archives for tests, file by file, so that each of them can be wrong
// in whatever way a test wants.
package archivetest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Media types (OCI image-spec, media-types.md).
const (
	ManifestType  = "application/vnd.oci.image.manifest.v1+json"
	IndexType     = "application/vnd.oci.image.index.v1+json"
	ConfigType    = "application/vnd.oci.image.config.v1+json"
	LayerType     = "application/vnd.oci.image.layer.v1.tar"
	LayerGzipType = LayerType + "+gzip"
	LayerZstdType = LayerType + "+zstd"
)

// Object is a JSON object.
type Object = map[string]any

// Archive is files in the order in which they were added.
type Archive struct {
	entries []entry
}

type entry struct {
	name, link string
	kind       byte
	data       []byte
}

// Add adds a file.
func (a *Archive) Add(name string, data []byte) *Archive {
	a.entries = append(a.entries, entry{name: name, kind: tar.TypeReg, data: data})
	return a
}

// AddJSON adds a file with v as JSON.
func (a *Archive) AddJSON(name string, v any) *Archive { return a.Add(name, JSON(v)) }

// Symlink adds a symbolic link.
func (a *Archive) Symlink(name, target string) *Archive {
	a.entries = append(a.entries, entry{name: name, kind: tar.TypeSymlink, link: target})
	return a
}

// Link adds a hard link to a file that was added before.
func (a *Archive) Link(name, target string) *Archive {
	a.entries = append(a.entries, entry{name: name, kind: tar.TypeLink, link: target})
	return a
}

// Blob adds a blob where an OCI layout has it, once.
func (a *Archive) Blob(data []byte) *Archive {
	name := BlobName(Digest(data))
	for _, e := range a.entries {
		if e.name == name {
			return a
		}
	}
	return a.Add(name, data)
}

// Remove takes a file out.
func (a *Archive) Remove(name string) *Archive {
	kept := a.entries[:0]
	for _, e := range a.entries {
		if e.name != name {
			kept = append(kept, e)
		}
	}
	a.entries = kept
	return a
}

// Tar gives the archive as a tar.
func (a *Archive) Tar(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range a.entries {
		header := &tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.link, Mode: 0o644, Size: int64(len(e.data))}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Dir gives the archive as files in a fresh directory.
func (a *Archive) Dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, e := range a.entries {
		path := filepath.Join(dir, e.name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = e.write(dir, path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (e *entry) write(dir, path string) error {
	switch e.kind {
	case tar.TypeSymlink:
		return os.Symlink(e.link, path)
	case tar.TypeLink:
		return os.Link(filepath.Join(dir, e.link), path)
	default:
		return os.WriteFile(path, e.data, 0o644)
	}
}

// Layer is a layer as it lies in an archive, and the tar that it is.
type Layer struct {
	Tar, Blob []byte
	MediaType string
}

// PlainLayer is a layer that is not compressed.
func PlainLayer(tar []byte) Layer { return Layer{Tar: tar, Blob: tar, MediaType: LayerType} }

// File is an entry of a layer's tar: a directory if its name ends in a slash.
type File struct{ Name, Content string }

// LayerTar makes a layer's tar.
func LayerTar(t testing.TB, files ...File) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		header := &tar.Header{Name: f.Name, Mode: 0o755, Size: int64(len(f.Content)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.Name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Image is an image that is right.
type Image struct {
	Config, Manifest []byte
	Layers           []Layer
}

// NewImage makes an image of layers; author makes two of the same layers differ.
func NewImage(author string, layers ...Layer) Image {
	var diffIDs []string
	for _, layer := range layers {
		diffIDs = append(diffIDs, Digest(layer.Tar))
	}
	config := JSON(Config(author, diffIDs...))
	return Image{Config: config, Manifest: JSON(Manifest(config, layers...)), Layers: layers}
}

// ID gives the image's ID.
func (i Image) ID() string { return Digest(i.Config) }

// Config makes a config.
func Config(author string, diffIDs ...string) Object {
	if diffIDs == nil {
		diffIDs = []string{}
	}
	return Object{
		"architecture": "amd64", "os": "linux", "author": author, "config": Object{"Cmd": []string{"/bin/sh"}},
		"rootfs": Object{"type": "layers", "diff_ids": diffIDs},
	}
}

// Manifest makes a manifest.
func Manifest(config []byte, layers ...Layer) Object {
	list := []Object{}
	for _, layer := range layers {
		list = append(list, Descriptor(layer.MediaType, layer.Blob))
	}
	return Object{
		"schemaVersion": 2, "mediaType": ManifestType, "config": Descriptor(ConfigType, config), "layers": list,
	}
}

// Index makes an index.
func Index(manifests ...Object) Object {
	return Object{"schemaVersion": 2, "mediaType": IndexType, "manifests": manifests}
}

// Descriptor describes a blob; more, if given, is added to it.
func Descriptor(mediaType string, blob []byte, more ...Object) Object {
	d := Object{"mediaType": mediaType, "digest": Digest(blob), "size": len(blob)}
	for _, fields := range more {
		maps.Copy(d, fields)
	}
	return d
}

// RefName is the annotation of an index's descriptor that umoci, skopeo and podman write.
func RefName(name string) Object {
	return Object{"annotations": Object{"org.opencontainers.image.ref.name": name}}
}

// AddImage adds what an OCI layout has of an image but for the index.
func (a *Archive) AddImage(img Image) *Archive {
	a.Blob(img.Manifest).Blob(img.Config)
	for _, layer := range img.Layers {
		a.Blob(layer.Blob)
	}
	return a
}

// AddLayout adds the files that make an OCI layout of blobs; manifests are the index's.
func (a *Archive) AddLayout(manifests ...Object) *Archive {
	return a.AddJSON("oci-layout", Object{"imageLayoutVersion": "1.0.0"}).AddJSON("index.json", Index(manifests...))
}

// Layout makes an OCI layout of images, each with a reference name or "".
func Layout(images map[string]Image, order ...string) *Archive {
	a := new(Archive)
	var manifests []Object
	for _, name := range order {
		img := images[name]
		a.AddImage(img)
		manifests = append(manifests, Descriptor(ManifestType, img.Manifest, RefName(name)))
	}
	return a.AddLayout(manifests...)
}

// JSON gives v as JSON.
func JSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // a test's mistake
	}
	return raw
}

// Digest gives the sha256 digest of data.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// BlobName gives the name of a blob's file in an OCI layout.
func BlobName(digest string) string {
	return "blobs/" + strings.Replace(digest, ":", "/", 1)
}
