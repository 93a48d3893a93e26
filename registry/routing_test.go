package registry

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
)

const conf = `
unqualified-search-registries = ["quay.io"] # not followed: short names are Docker's
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "hub.mirror.test:5000/docker"
insecure = true
[[registry.mirror]]
location = "digests.mirror.test"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tags.mirror.test"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "docker.io/library/secret"
blocked = true
[[registry]]
prefix = "*.corp.test"
location = "cache.corp.test/all"
[[registry]]
prefix = "example.test/team"
location = "other.test/squad"
mirror-by-digest-only = true
[[registry.mirror]]
location = "mirror.test"
`

func TestRoutes(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0", 64)
	c, err := parseRouting([]byte(conf))
	require.NoError(t, err)
	for name, want := range map[string]string{
		"debian":                       "hub.mirror.test:5000/docker/library/debian! tags.mirror.test/library/debian registry-1.docker.io/library/debian",
		"debian" + digest:              "hub.mirror.test:5000/docker/library/debian! digests.mirror.test/library/debian registry-1.docker.io/library/debian",
		"secret":                       "blocked",
		"secret/more":                  "hub.mirror.test:5000/docker/secret/more! tags.mirror.test/secret/more registry-1.docker.io/secret/more",
		"library/secrets":              "hub.mirror.test:5000/docker/library/secrets! tags.mirror.test/library/secrets registry-1.docker.io/library/secrets",
		"a.corp.test/x":                "cache.corp.test/all/x",
		"corp.test/x":                  "corp.test/x",
		"example.test/team/x:1":        "other.test/squad/x",
		"example.test/team/x" + digest: "mirror.test/x other.test/squad/x",
		"example.test/teams/x":         "example.test/teams/x",
		"quay.io/x/y":                  "quay.io/x/y",
	} {
		ref, err := image.ParseReference(name)
		require.NoError(t, err)
		r, err := c.route(ref)
		if want == "blocked" {
			require.ErrorIs(t, err, ErrBlocked)
			continue
		}
		require.NoError(t, err)
		var got []string
		for _, l := range append(r.mirrors, r.origin) {
			text := l.host + "/" + l.path
			if l.insecure {
				text += "!"
			}
			got = append(got, text)
		}
		require.Equal(t, want, strings.Join(got, " "), name)
	}
}

func TestRoutingFiles(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", "")
	dropIns := filepath.Join(home, "containers/registries.conf.d")
	require.NoError(t, os.MkdirAll(dropIns, 0o755))
	write := func(path, text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	write(filepath.Join(home, "containers/registries.conf"), "[[registry]]\nlocation = \"a.test\"\n[[registry]]\nlocation = \"b.test\"\n")
	write(filepath.Join(dropIns, "1.conf"), "[[registry]]\nprefix = \"b.test\"\nlocation = \"c.test\"\n")
	write(filepath.Join(dropIns, "ignored.txt"), "this is no TOML")
	c, err := loadRouting()
	require.NoError(t, err)
	ref, err := image.ParseReference("b.test/x")
	require.NoError(t, err)
	r, err := c.route(ref)
	require.NoError(t, err)
	require.Equal(t, "c.test", r.origin.host, "a later file replaces an entry")

	write(filepath.Join(dropIns, "2.conf"), "[[registry]]\ninsecure = true\n")
	_, err = loadRouting()
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, "2.conf")
	t.Setenv("CONTAINERS_REGISTRIES_CONF", filepath.Join(home, "none"))
	_, err = loadRouting()
	require.ErrorIs(t, err, ErrConfig)
}

func FuzzRouting(f *testing.F) {
	f.Add(conf, "debian")
	f.Add("[[registry]]\nprefix = \"*\"\n", "a.b/c")
	f.Add("[[registry]]\nprefix = \"a.b/c\"\nlocation = \"d\"\n", "a.b/c")
	f.Add("[[registry]]\nprefix = \"a.b\"\nlocation = \"u:p@d?x\"\n", "a.b/c")
	f.Fuzz(func(t *testing.T, text, name string) {
		c, err := parseRouting([]byte(text))
		if err != nil {
			return
		}
		ref, err := image.ParseReference(name)
		if err != nil {
			return
		}
		r, err := c.route(ref)
		if err != nil {
			return
		}
		for _, l := range append(r.mirrors, r.origin) {
			u, err := url.Parse("https://" + l.host + "/v2/" + l.path + "/tags/list")
			if err != nil || u.Host != l.host || u.Path != "/v2/"+l.path+"/tags/list" || u.RawQuery != "" || u.User != nil {
				t.Errorf("%q is routed to %q, %q", name, l.host, l.path)
			}
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "x": 0, "1000000": maxWait, "99999999999999999999": 0,
		now.Add(9 * time.Second).Format(http.TimeFormat): 9 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat):      0,
	} {
		require.Equal(t, want, retryAfter(value, now), value)
	}
}

func TestNextPage(t *testing.T) {
	from, err := url.Parse("https://registry.test/v2/x/tags/list")
	require.NoError(t, err)
	for link, want := range map[string]string{
		"": "",
		`</v2/x/tags/list?n=2&last=b>; rel="next"`:     "https://registry.test/v2/x/tags/list?n=2&last=b",
		`<?last=b>; rel=next`:                          "https://registry.test/v2/x/tags/list?last=b",
		`</v2/x/tags/list>; rel="prev"`:                "",
		`/v2/x/tags/list; rel="next"`:                  "",
		`<https://elsewhere.test/v2/x>; rel="next"`:    "error",
		"<\x7f>; rel=\"next\"":                         "error",
		`<https://registry.test/other>; rel="next"; a`: "https://registry.test/other",
	} {
		res := &http.Response{Header: http.Header{"Link": {link}}, Request: &http.Request{URL: from}}
		got, err := nextPage(res)
		if want == "error" {
			require.ErrorIs(t, err, ErrProtocol, link)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, got, link)
	}
}

func TestNamesOfRegistries(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "x.localhost": true, "127.0.0.1": true, "127.9.9.9:1": true, "[::1]:5000": true,
		"127.0.0.1.evil.test": false, "registry.test": false, "localhost.test": false, "10.0.0.1": false, "[fe80::1]": false,
	} {
		require.Equal(t, want, isLoopback(host), host)
	}
	for typed, want := range map[string]string{
		"": "docker.io", "docker.io": "docker.io", "index.docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io",
		"http://registry.test:5000/v2/": "registry.test:5000", "registry.test/path": "registry.test",
	} {
		require.Equal(t, want, registryHost(typed), typed)
	}
	require.Equal(t, "registry-1.docker.io", apiHost("docker.io"))
	require.EqualValues(t, "index.docker.io", credentialsOf("registry-1.docker.io"))
	require.Equal(t, "https://index.docker.io/v1/", configKey("docker.io"))
}
