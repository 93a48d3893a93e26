package archive_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/archive"
	"github.com/tarnfs/tarn/image"
	at "github.com/tarnfs/tarn/internal/archivetest"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// hostile is an archive that must be refused, by an error that wraps err and names what is wrong.
type hostile struct {
	files *at.Archive
	err   error
	names string
}

func hostileArchives(t *testing.T) map[string]hostile {
	one, other := two(t)
	images := map[string]at.Image{"1": one, "2": other}
	layout := func() *at.Archive { return at.Layout(images, "1", "2") }
	blob := func(data []byte) string { return at.BlobName(at.Digest(data)) }
	docker := func(v any) *at.Archive {
		return new(at.Archive).Add("c.json", one.Config).Add("l.tar", one.Layers[0].Blob).AddJSON("manifest.json", v)
	}
	entry := func(config string, layers ...string) []at.Object {
		return []at.Object{{"Config": config, "Layers": layers}}
	}
	// manifest gives a layout with one image whose manifest is m.
	manifest := func(m any) *at.Archive {
		raw := at.JSON(m)
		return new(at.Archive).AddImage(one).Blob(raw).AddLayout(at.Descriptor(at.ManifestType, raw))
	}
	changed := func(change func(m at.Object)) *at.Archive {
		m := at.Manifest(one.Config, one.Layers...)
		change(m)
		return manifest(m)
	}
	// sized gives a layout whose manifest says that the config has a size.
	sized := func(size int) *at.Archive {
		return changed(func(m at.Object) { m["config"] = at.Descriptor(at.ConfigType, one.Config, at.Object{"size": size}) })
	}
	config := func(raw []byte) *at.Archive {
		return manifest(at.Manifest(raw, one.Layers...)).Blob(raw)
	}
	return map[string]hostile{
		"nothing":                         {new(at.Archive), archive.ErrFormat, "tarn import"},
		"a root file system":              {new(at.Archive).Add("etc/passwd", nil).Add("bin/sh", nil), archive.ErrFormat, "tarn import"},
		"before Docker 1.10":              {new(at.Archive).AddJSON("repositories", at.Object{}), archive.ErrFormat, "1.10"},
		"a layout of the future":          {layout().AddJSON("oci-layout", at.Object{"imageLayoutVersion": "2.0.0"}), archive.ErrFormat, `"2.0.0"`},
		"a layout of no version":          {layout().Add("oci-layout", []byte("hello")), archive.ErrFormat, "oci-layout"},
		"a layout file without end":       {layout().Add("oci-layout", make([]byte, 65<<10)), archive.ErrLimit, "oci-layout"},
		"no index":                        {layout().Remove("index.json"), archive.ErrMissing, "index.json"},
		"an empty index":                  {new(at.Archive).AddLayout(), archive.ErrFormat, "index.json"},
		"an index that is none":           {layout().Add("index.json", []byte("[]")), image.ErrDocument, "index.json"},
		"an index too big":                {layout().Add("index.json", make([]byte, image.MaxManifestSize+1)), archive.ErrLimit, "index.json"},
		"nested too deep":                 {layout().Add("index.json", []byte(strings.Repeat(`{"manifests":[`, 5000))), image.ErrDocument, "index.json"},
		"a digest that is a path":         {new(at.Archive).AddLayout(at.Object{"mediaType": at.ManifestType, "digest": "sha256:../../../../etc/passwd", "size": 1}), image.ErrDigest, "index.json"},
		"no manifest":                     {layout().Remove(blob(one.Manifest)), archive.ErrMissing, blob(one.Manifest)},
		"no config":                       {layout().Remove(blob(one.Config)), archive.ErrMissing, blob(one.Config)},
		"a wrong manifest":                {layout().Add(blob(one.Manifest), bytes.Replace(one.Manifest, []byte("layer"), []byte("LAYER"), 1)), archive.ErrMismatch, at.Digest(one.Manifest)},
		"a longer manifest":               {layout().Add(blob(one.Manifest), append(one.Manifest, ' ')), archive.ErrMismatch, at.Digest(one.Manifest)},
		"a wrong config":                  {layout().Add(blob(one.Config), bytes.Replace(one.Config, []byte("one"), []byte("eno"), 1)), archive.ErrMismatch, at.Digest(one.Config)},
		"a config too big":                {sized(image.MaxConfigSize + 1), image.ErrDocument, "config"},
		"a config with a size below zero": {sized(-1), image.ErrDocument, "size"},
		"more layers than diffIDs":        {manifest(at.Manifest(one.Config, one.Layers[0], one.Layers[0])), archive.ErrFormat, "2 layers"},
		"fewer layers than diffIDs":       {manifest(at.Manifest(one.Config)), archive.ErrFormat, "0 layers"},
		"a manifest and an index in one":  {changed(func(m at.Object) { m["manifests"] = []at.Object{} }), image.ErrDocument, "index"},
		"a manifest of another type":      {changed(func(m at.Object) { m["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json" }), archive.ErrFormat, "docker"},
		"Docker's schema 1":               {changed(func(m at.Object) { m["schemaVersion"] = 1 }), image.ErrDocument, "schema 1"},
		"a key twice":                     {layout().Add("index.json", []byte(`{"schemaVersion":2,"manifests":[],"Manifests":[]}`)), image.ErrDocument, "twice"},
		"a config that is none":           {config([]byte("[]")), image.ErrDocument, "config"},
		"a config with a bad diffID":      {config(at.JSON(at.Config("x", "sha256:../x"))), image.ErrDigest, "layer 0"},
		"a config with sha512 diffIDs":    {config(at.JSON(at.Config("x", "sha512:"+strings.Repeat("0", 128)))), image.ErrDocument, "sha512"},
		"indexes nested for ever":         {nestedIndexes(one, 6), archive.ErrLimit, "nested"},
		"docker, not a list":              {docker("hello"), archive.ErrFormat, "manifest.json"},
		"docker, an object":               {docker(at.Object{}), archive.ErrFormat, "manifest.json"},
		"docker, of other types":          {docker([]any{at.Object{"Config": 5}}), archive.ErrFormat, "manifest.json"},
		"docker, cut":                     {docker(nil).Add("manifest.json", []byte(`[{"Config":"c.json","Layers":["l.tar"]}`)), archive.ErrFormat, "manifest.json"},
		"docker, empty":                   {docker([]at.Object{}), archive.ErrFormat, "no images"},
		"docker, nested too deep":         {docker(nil).Add("manifest.json", []byte(strings.Repeat("[", 100_000))), archive.ErrFormat, "manifest.json"},
		"docker, absurdly many":           {docker(nil).Add("manifest.json", []byte("["+strings.Repeat("{},", 200_000)+"{}]")), archive.ErrLimit, "images"},
		"docker, no config":               {docker(entry("x.json", "l.tar")), archive.ErrMissing, `"x.json"`},
		"docker, config elsewhere":        {docker(entry("../../../../etc/passwd", "l.tar")), archive.ErrMissing, "passwd"},
		"docker, config is no name":       {docker(entry("", "l.tar")), nil, `""`},
		"docker, config of another ID":    {docker(entry(hexOf(other.ID())+".json", "l.tar")).Add(hexOf(other.ID())+".json", one.Config), archive.ErrMismatch, other.ID()},
		"docker, config is a layer":       {docker(entry("l.tar", "l.tar")), image.ErrDocument, `"l.tar"`},
		"docker, too few layers":          {docker(entry("c.json")), archive.ErrFormat, "0 layers"},
		"docker, a link to itself":        {docker(entry("c.json", "l.tar")).Symlink("manifest.json", "manifest.json"), nil, "manifest.json"},
		"docker, a circle of links":       {docker(entry("a", "l.tar")).Symlink("a", "b/../c").Symlink("c", "./a"), nil, `"a"`},
		"docker, a link to nothing":       {docker(entry("a", "l.tar")).Symlink("a", "b"), archive.ErrMissing, `"a"`},
		"docker, an endless name":         {docker(entry("\x1b[2J\n"+strings.Repeat("a", 5000), "l.tar")), nil, `"\x1b[2J\n`},
	}
}

func nestedIndexes(img at.Image, depth int) *at.Archive {
	a := new(at.Archive).AddImage(img)
	d := at.Descriptor(at.ManifestType, img.Manifest)
	for range depth {
		raw := at.JSON(at.Index(d))
		a.Blob(raw)
		d = at.Descriptor(at.IndexType, raw)
	}
	return a.AddLayout(d)
}

func TestHostileArchives(t *testing.T) {
	check := func(t *testing.T, tc hostile, a *archive.Archive) {
		t.Helper()
		_, err := a.Images(image.Platform{})
		require.Error(t, err)
		if tc.err != nil {
			require.ErrorIs(t, err, tc.err)
		}
		require.ErrorContains(t, err, tc.names)
		require.Less(t, len(err.Error()), 1000)
		require.NotContains(t, err.Error(), "\x1b", "nothing that a terminal would act upon")
		require.NoError(t, a.Close())
	}
	for name, tc := range hostileArchives(t) {
		t.Run(name+", tar", func(t *testing.T) {
			a, err := openTar(t, tc.files.Tar(t))
			require.NoError(t, err)
			check(t, tc, a)
		})
		if strings.Contains(name, "a link to itself") {
			continue // nothing that a directory could hold: two files of one name
		}
		t.Run(name+", directory", func(t *testing.T) {
			a, err := archive.OpenDir(tc.files.Dir(t))
			require.NoError(t, err)
			check(t, tc, a)
		})
	}
}

func TestDocumentsTogetherAreBounded(t *testing.T) {
	config := append([]byte(`{"author":"`), bytes.Repeat([]byte("x"), 15<<20)...)
	config = append(config, `","rootfs":{"type":"layers","diff_ids":[]}}`...)
	entries := make([]at.Object, 5)
	for i := range entries {
		entries[i] = at.Object{"Config": "c"}
	}
	a, err := openTar(t, new(at.Archive).Add("c", config).AddJSON("manifest.json", entries).Tar(t))
	require.NoError(t, err)
	_, err = a.Images(image.Platform{})
	require.ErrorIs(t, err, archive.ErrLimit)
	require.ErrorContains(t, err, "image 5")
}

func TestTarsThatAreNone(t *testing.T) {
	one, _ := two(t)
	whole := at.Layout(map[string]at.Image{"1": one}, "1").Tar(t)
	for name, tc := range map[string]struct {
		tar []byte
		err error
	}{
		"text":       {bytes.Repeat([]byte("hello world\n"), 100), tarfile.ErrMalformed},
		"cut":        {whole[:len(whole)/2], tarfile.ErrTruncated},
		"cut header": {whole[:100], tarfile.ErrTruncated},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := openTar(t, tc.tar)
			require.ErrorIs(t, err, archive.ErrFormat)
			require.ErrorIs(t, err, tc.err)
		})
	}
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge")
	require.NoError(t, os.WriteFile(huge, nil, 0o600))
	require.NoError(t, os.Truncate(huge, 17<<30))
	_, err := openTar(t, gnuTar(t, dir, "--sparse"))
	require.ErrorIs(t, err, archive.ErrLimit)
	require.ErrorContains(t, err, "huge")

	many := new(at.Archive)
	for i := range 200_001 {
		many.Add(fmt.Sprint(i), nil)
	}
	_, err = openTar(t, many.Tar(t))
	require.ErrorIs(t, err, tarfile.ErrLimit)
}

func TestFilesThatAreNone(t *testing.T) {
	one, _ := two(t)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, one.Config, 0o600))
	for name, put := range map[string]func(path string) error{
		"a fifo":                   func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory":              func(path string) error { return os.Mkdir(path, 0o700) },
		"a link out":               func(path string) error { return os.Symlink(secret, path) },
		"a link out, step by step": func(path string) error { return os.Symlink("../../../../../../../../../../"+secret, path) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := at.Layout(map[string]at.Image{"1": one}, "1").Dir(t)
			path := filepath.Join(dir, at.BlobName(one.ID()))
			require.NoError(t, os.Remove(path))
			require.NoError(t, put(path))
			a, err := archive.OpenDir(dir)
			require.NoError(t, err)
			defer a.Close()
			_, err = a.Images(image.Platform{})
			require.ErrorContains(t, err, at.BlobName(one.ID()))
		})
	}
	_, err := archive.OpenDir(filepath.Join(t.TempDir(), "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
