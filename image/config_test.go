package image_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
)

func TestDigest(t *testing.T) {
	require.Equal(t, string(digest.FromString("abc")), string(image.DigestBytes([]byte("abc"))))
	for _, s := range []string{someDigest, "sha512:" + strings.Repeat("a", 128), "sha384:" + strings.Repeat("0", 96)} {
		d, err := image.ParseDigest(s)
		require.NoError(t, err)
		h, err := d.NewHash()
		require.NoError(t, err)
		require.False(t, d.Matches(h))
		require.NoError(t, d.Of(h).Validate())
		require.True(t, d.Of(h).Matches(h))
	}
	for _, s := range []string{"", "sha256", "sha256:", ":abc", "sha256:ABC", "md5:0123", someDigest + "0", someDigest[:70], strings.ToUpper(someDigest), "sha256:../../" + strings.Repeat("a", 58)} {
		_, err := image.ParseDigest(s)
		require.ErrorIs(t, err, image.ErrDigest, s)
	}
	require.Equal(t, "0123456789ab", image.Digest(someDigest).Short())
}

func TestChainID(t *testing.T) {
	a, b := image.DigestBytes([]byte("a")), image.DigestBytes([]byte("b"))
	require.Empty(t, image.ChainID(nil))
	require.Equal(t, a, image.ChainID([]image.Digest{a}))
	require.Equal(t, image.DigestBytes([]byte(a+" "+b)), image.ChainID([]image.Digest{a, b}))
}

const dockerConfig = `{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05.6Z","docker_version":"20.10","config":{
 "Hostname":"","Env":["PATH=/bin"],"Cmd":"/bin/sh","OnBuild":null,"ArgsEscaped":true,"Healthcheck":{"Test":["CMD","x"],"Interval":1000000000},
 "Shell":["/bin/bash","-c"],"Labels":{"A":"1","a":"2"},"ExposedPorts":{"80/tcp":{}}},"container_config":{"Cmd":["x"]},
 "history":[{"created":"2024-01-02T03:04:05Z","created_by":"/bin/sh -c #(nop) ADD file"},{"created_by":"CMD","empty_layer":true}],
 "rootfs":{"type":"layers","diff_ids":["` + someDigest + `"]},"unknown":{"x":[1,2.5e300,{"y":null}]}}`

func TestParseConfig(t *testing.T) {
	c, err := image.ParseConfig([]byte(dockerConfig))
	require.NoError(t, err)
	require.Equal(t, image.Words{"/bin/sh"}, c.Config.Cmd, "an old string command")
	require.Equal(t, map[string]string{"A": "1", "a": "2"}, c.Config.Labels)
	require.Equal(t, []image.Digest{someDigest}, c.RootFS.DiffIDs)
	require.Equal(t, time.Second, c.Config.Healthcheck.Interval)
	require.Equal(t, "linux/amd64", c.Platform().String())
	require.True(t, c.History[1].EmptyLayer)
	raw, err := c.Marshal()
	require.NoError(t, err)
	again, err := image.ParseConfig(raw)
	require.NoError(t, err)
	require.Equal(t, c, again)
}

func TestConfigsThatAreRefused(t *testing.T) {
	valid := `"rootfs":{"type":"layers","diff_ids":[]}`
	_, err := image.ParseConfig([]byte(`{` + valid + `}`))
	require.NoError(t, err)
	for name, raw := range map[string]string{
		"not json":              `hello`,
		"cut short":             `{` + valid,
		"two documents":         `{` + valid + `}{}`,
		"no layers":             `{}`,
		"other type":            `{"rootfs":{"type":"zip","diff_ids":[]}}`,
		"bad diffID":            `{"rootfs":{"type":"layers","diff_ids":["sha256:../x"]}}`,
		"diffID by sha512":      `{"rootfs":{"type":"layers","diff_ids":["sha512:` + strings.Repeat("0", 128) + `"]}}`,
		"key twice":             `{` + valid + `,` + valid + `}`,
		"key in two spellings":  `{` + valid + `,"RootFS":{"type":"layers","diff_ids":["` + someDigest + `"]}}`,
		"nested in two ways":    `{` + valid + `,"config":{"User":"me","user":"root"}}`,
		"label twice":           `{` + valid + `,"config":{"Labels":{"a":"1","a":"2"}}}`,
		"history key twice":     `{` + valid + `,"history":[{"empty_layer":true,"Empty_Layer":false}]}`,
		"too deep":              `{` + valid + `,"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
		"wrong type of a field": `{` + valid + `,"config":{"Env":"x"}}`,
	} {
		_, err := image.ParseConfig([]byte(raw))
		require.ErrorIs(t, err, image.ErrDocument, name)
	}
	_, err = image.ParseConfig(append([]byte(`{`+valid+`}`), make([]byte, image.MaxConfigSize)...))
	require.ErrorContains(t, err, "limit")
}

func descriptor(mediaType string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":7}`, mediaType, someDigest)
}

func TestManifests(t *testing.T) {
	oci := `{"schemaVersion":2,"config":` + descriptor(image.MediaTypeConfig) + `,"layers":[` + descriptor(image.MediaTypeLayerGzip) + `]}`
	m, err := image.ParseManifest([]byte(oci))
	require.NoError(t, err)
	require.Equal(t, image.MediaTypeManifest, m.MediaType, "told from its fields")
	require.Equal(t, image.Digest(someDigest), m.Layers[0].Digest)
	docker := `{"schemaVersion":2,"mediaType":"` + image.MediaTypeDockerManifest + `","config":` + descriptor(image.MediaTypeDockerConfig) + `,"layers":[` + descriptor(image.MediaTypeDockerGzip) + `]}`
	m, err = image.ParseManifest([]byte(docker))
	require.NoError(t, err)
	require.Equal(t, image.MediaTypeDockerManifest, m.MediaType)

	for name, raw := range map[string]string{
		"schema 1":         `{"schemaVersion":1,"fsLayers":[]}`,
		"both":             `{"schemaVersion":2,"layers":[],"manifests":[]}`,
		"neither":          `{"schemaVersion":2}`,
		"contradiction":    `{"schemaVersion":2,"mediaType":"` + image.MediaTypeIndex + `","layers":[]}`,
		"negative size":    strings.Replace(oci, `"size":7`, `"size":-7`, 1),
		"bad digest":       strings.Replace(oci, someDigest, "sha256:zz", 1),
		"strange layer":    strings.Replace(oci, image.MediaTypeLayerGzip, "text/plain", 1),
		"schema version 3": strings.Replace(oci, `Version":2`, `Version":3`, 1),
		"huge config":      strings.Replace(oci, `"size":7`, `"size":99999999999`, 1),
	} {
		_, err := image.ParseManifest([]byte(raw))
		require.ErrorIs(t, err, image.ErrDocument, name)
	}
	artifact := strings.Replace(oci, image.MediaTypeConfig, "application/vnd.cncf.helm.config.v1+json", 1)
	_, err = image.ParseManifest([]byte(artifact))
	require.ErrorIs(t, err, image.ErrNotImage)
}

func TestChoosePlatform(t *testing.T) {
	index := &image.Index{}
	for _, p := range []image.Platform{
		{OS: "unknown", Architecture: "unknown"},
		{OS: "linux", Architecture: "amd64"},
		{OS: "linux", Architecture: "arm", Variant: "v6"},
		{OS: "linux", Architecture: "arm", Variant: "v7"},
		{OS: "linux", Architecture: "arm64", Variant: "v8"},
		{OS: "windows", Architecture: "amd64"},
	} {
		index.Manifests = append(index.Manifests, image.Descriptor{
			MediaType: image.MediaTypeManifest, Digest: image.DigestBytes([]byte(p.String())), Platform: &p,
		})
	}
	for want, got := range map[string]string{
		"linux/amd64": "linux/amd64", "amd64": "linux/amd64", "linux/x86_64": "linux/amd64", "linux/aarch64": "linux/arm64/v8", "arm64": "linux/arm64/v8",
		"linux/arm": "linux/arm/v7", "linux/arm/v8": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6", "windows/amd64": "windows/amd64",
	} {
		p, err := image.ParsePlatform(want)
		require.NoError(t, err)
		d, err := index.Choose(p)
		require.NoError(t, err)
		require.Equal(t, got, d.Platform.String(), want)
	}
	for _, want := range []string{"linux/riscv64", "linux/arm/v5"} {
		p, err := image.ParsePlatform(want)
		require.NoError(t, err)
		_, err = index.Choose(p)
		require.ErrorIs(t, err, image.ErrNoPlatform, want)
	}
	for _, s := range []string{"", "/", "linux/", "a/b/c/d", "linux/am d64"} {
		_, err := image.ParsePlatform(s)
		require.ErrorIs(t, err, image.ErrPlatform, s)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(dockerConfig))
	f.Add([]byte(`{"rootfs":{"type":"layers","diff_ids":[]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := image.ParseConfig(raw)
		if err != nil {
			require.Nil(t, c)
			return
		}
		first, err := c.Marshal()
		require.NoError(t, err)
		again, err := image.ParseConfig(first)
		require.NoError(t, err)
		second, err := again.Marshal()
		require.NoError(t, err)
		require.Equal(t, first, second, "what was written reads the same")
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":` + descriptor(image.MediaTypeConfig) + `,"layers":[` + descriptor(image.MediaTypeLayer) + `]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[` + descriptor(image.MediaTypeManifest) + `]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, manifestErr := image.ParseManifest(raw)
		x, indexErr := image.ParseIndex(raw)
		require.False(t, manifestErr == nil && indexErr == nil, "nothing is both")
		doc, docErr := image.ParseDocument(raw)
		if docErr == nil {
			for _, d := range append(doc.Blobs(), doc.Manifests...) {
				require.NoError(t, d.Validate())
			}
		}
		if manifestErr == nil {
			require.NoError(t, m.Config.Validate())
			_, err := json.Marshal(m)
			require.NoError(t, err)
			if m.Subject == nil {
				require.NoError(t, docErr, "whatever is an image is a document")
				require.Equal(t, append([]image.Descriptor{m.Config}, m.Layers...), doc.Blobs())
			}
		}
		if indexErr == nil {
			if d, err := x.Choose(image.HostPlatform()); err == nil {
				require.NoError(t, d.Validate())
			}
		}
	})
}

// TestCloneSharesNothing has a value in each field, and changes all that the copy could have in common.
func TestCloneSharesNothing(t *testing.T) {
	full := func() image.RunConfig {
		seconds := 7
		return image.RunConfig{
			Hostname: "h", Domainname: "d", User: "u", ExposedPorts: map[string]struct{}{"80/tcp": {}}, Env: []string{"A=1"},
			Entrypoint: image.Words{"e"}, Cmd: image.Words{"c"}, Healthcheck: &image.Healthcheck{Test: []string{"NONE"}, Retries: 3},
			ArgsEscaped: true, Image: "i", Volumes: map[string]struct{}{"/v": {}}, WorkingDir: "/w", NetworkDisabled: true, MacAddress: "m",
			OnBuild: []string{"RUN"}, Labels: map[string]string{"k": "v"}, StopSignal: "s", StopTimeout: &seconds, Shell: image.Words{"sh"},
		}
	}
	c := full()
	for i, v := 0, reflect.ValueOf(c); i < v.NumField(); i++ {
		require.False(t, v.Field(i).IsZero(), "%s is tested", v.Type().Field(i).Name)
	}
	clone := c.Clone()
	require.Equal(t, full(), clone)
	for _, list := range [][]string{c.Env, c.Entrypoint, c.Cmd, c.OnBuild, c.Shell, c.Healthcheck.Test} {
		list[0] = "changed"
	}
	clear(c.ExposedPorts)
	clear(c.Volumes)
	clear(c.Labels)
	*c.StopTimeout, c.Healthcheck.Retries = 8, 4
	require.Equal(t, full(), clone)
	require.Equal(t, image.RunConfig{}, (&image.RunConfig{}).Clone())
}
