package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/testenv"
)

// shell runs tarn as a user does, with a store and a home of its own.
type shell struct {
	t   *testing.T
	env []string
	bin string
}

func newShell(t *testing.T, env ...string) *shell {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	s := &shell{t: t, bin: filepath.Join(dir, "tarn")}
	require.NoError(t, os.Symlink(self, s.bin)) // TestMain looks at its name
	root, run := testenv.TarnRoot(t)
	s.env = append([]string{
		"TARN_ROOT=" + root, "TARN_RUN=" + run, "HOME=" + dir, "DOCKER_CONFIG=" + filepath.Join(dir, "docker"),
		"PATH=" + dir + ":" + os.Getenv("PATH"), "CONTAINERS_REGISTRIES_CONF=/dev/null",
	}, env...)
	return s
}

// try runs a command and gives what it printed and its status.
func (s *shell) try(stdin string, args ...string) (stdout, stderr string, status int) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.bin, args...)
	cmd.Env = s.env
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		require.True(s.t, ok, err)
		status = exit.ExitCode()
	}
	return strings.TrimSpace(out.String()), strings.TrimSpace(errs.String()), status
}

func (s *shell) tarn(args ...string) string {
	s.t.Helper()
	stdout, stderr, status := s.try("", args...)
	require.Zero(s.t, status, "tarn %v: %s", args, stderr)
	return stdout
}

func (s *shell) fails(message string, args ...string) {
	s.t.Helper()
	_, stderr, status := s.try("", args...)
	require.NotZero(s.t, status, "tarn %v", args)
	lines := strings.Split(stderr, "\n")
	require.Contains(s.t, lines[len(lines)-1], message)
	require.True(s.t, strings.HasPrefix(lines[len(lines)-1], "tarn: "), "the error is on one line, after the progress: %s", stderr)
}

// image makes the small image "app" and gives its ID.
func (s *shell) image() string {
	s.t.Helper()
	e, err := engine.Open(engine.Options{
		Root: strings.TrimPrefix(s.env[0], "TARN_ROOT="), Run: strings.TrimPrefix(s.env[1], "TARN_RUN="),
	})
	require.NoError(s.t, err)
	f, err := os.Open(testenv.BusyboxTar(s.t))
	require.NoError(s.t, err)
	defer f.Close()
	id, err := e.Import(s.t.Context(), f, engine.ImportOptions{Name: "app"})
	require.NoError(s.t, err)
	return string(id)
}

func TestLogin(t *testing.T) {
	const user, password = "alice", "secret:word"
	for name, auth := range map[string]string{
		"password": testenv.HTPasswd(t, user, password),
		"token":    testenv.TokenServer(t, user, password),
	} {
		t.Run(name, func(t *testing.T) {
			reg := testenv.StartRegistry(t, testenv.RegistryOptions{Auth: auth})
			s := newShell(t)
			s.image()
			s.fails("access denied", "push", "app", reg.Host+"/team/app")
			s.fails("tarn login "+reg.Host, "push", "app", reg.Host+"/team/app")

			_, stderr, status := s.try("wrong", "login", "-u", user, "--password-stdin", reg.Host)
			require.NotZero(t, status)
			require.Contains(t, stderr, "access denied")
			s.fails("no terminal", "login", reg.Host)
			require.Equal(t, "Not logged in to "+reg.Host, s.tarn("logout", reg.Host))

			stdout, stderr, status := s.try(password+"\n", "login", "-u", user, "--password-stdin", reg.Host)
			require.Zero(t, status, stderr)
			require.Equal(t, "Login Succeeded", stdout)
			s.tarn("push", "app", reg.Host+"/team/app")
			s.tarn("push", "app", reg.Host+"/other/app:2")
			require.Equal(t, "latest", s.tarn("search-tags", reg.Host+"/team/app"))
			s.tarn("copy", reg.Host+"/team/app", reg.Host+"/copied/app")
			second := newShell(t)
			second.env = append(second.env, s.env[3]) // DOCKER_CONFIG
			second.tarn("pull", reg.Host+"/copied/app")
			require.Equal(t, "hello", second.tarn("run", "--rm", "--pull", "always", reg.Host+"/team/app", "echo", "hello"))

			require.Equal(t, "Removing login credentials for "+reg.Host, s.tarn("logout", reg.Host))
			s.fails("access denied", "push", "app", reg.Host+"/team/app:3")
		})
	}
}

// A credential helper is a program that is spoken to over a pipe.
const credentialHelper = `#!/bin/sh
file=$(dirname "$0")/kept
case $1 in
store) cat > "$file";;
get) read -r server; [ -e "$file" ] || { echo 'credentials not found in native keychain'; exit 1; }; cat "$file";;
erase) rm -f "$file";;
list) echo '{}';;
esac
`

func TestLoginWithACredentialHelper(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{Auth: testenv.HTPasswd(t, "bob", "pass")})
	s := newShell(t)
	home := filepath.Dir(s.bin)
	require.NoError(t, os.WriteFile(filepath.Join(home, "docker-credential-test"), []byte(credentialHelper), 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(home, "docker"), 0o700))
	config := filepath.Join(home, "docker", "config.json")
	require.NoError(t, os.WriteFile(config, []byte(`{"credsStore": "test", "HttpHeaders": {"X-Kept": "yes"}}`), 0o600))
	_, stderr, status := s.try("pass", "login", "-u", "bob", "--password-stdin", reg.Host)
	require.Zero(t, status, stderr)
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	require.NotContains(t, string(text), base64.StdEncoding.EncodeToString([]byte("bob:pass")), "the helper has it")
	require.Contains(t, string(text), "X-Kept")
	s.image()
	s.tarn("push", "app", reg.Host+"/app")
	s.tarn("logout", reg.Host)
	s.fails("access denied", "push", "app", reg.Host+"/app")
}

// tunnel is an HTTP proxy that leads every name to one place.
func tunnel(t *testing.T, host string) (proxyURL string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only tunnels", http.StatusMethodNotAllowed)
			return
		}
		target, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer target.Close()
		w.WriteHeader(http.StatusOK)
		client, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		go func() { _, _ = io.Copy(target, buffered) }()
		_, _ = io.Copy(client, target)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestTLS(t *testing.T) {
	const name = "registry.test"
	certificate, key := testenv.Certificate(t, name)
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{Certificate: certificate, Key: key})
	s := newShell(t, "HTTPS_PROXY="+tunnel(t, reg.Host))
	s.image()
	s.fails("certificate", "push", "app", name+"/app")
	s.tarn("push", "--tls-verify=false", "app", name+"/app")
	s.tarn("push", "--cert-dir", filepath.Dir(certificate), "app", name+"/app:2")
	certs := filepath.Join(filepath.Dir(s.bin), ".config/containers/certs.d", name)
	require.NoError(t, os.MkdirAll(certs, 0o755))
	text, err := os.ReadFile(certificate)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(certs, "ca.crt"), text, 0o644))
	require.ElementsMatch(t, []string{"2", "latest"}, strings.Fields(s.tarn("search-tags", name+"/app")))
	require.Len(t, strings.Fields(s.tarn("search-tags", "--limit", "1", name+"/app")), 1)
	require.NoError(t, os.WriteFile(filepath.Join(certs, "ca.crt"), []byte("none"), 0o644))
	s.fails("no certificate in it", "search-tags", name+"/app")
	// On this machine any certificate will do.
	require.Len(t, strings.Fields(s.tarn("search-tags", reg.Host+"/app")), 2)
}

// A registry may ask for a certificate of the client, which lies in certs.d as Docker has it.
func TestClientCertificate(t *testing.T) {
	const name = "registry.test"
	certificate, key := testenv.Certificate(t, name)
	own, ownKey := testenv.Certificate(t, "client")
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{Certificate: certificate, Key: key, ClientCA: own})
	s := newShell(t, "HTTPS_PROXY="+tunnel(t, reg.Host))
	s.image()
	certs := filepath.Join(filepath.Dir(s.bin), ".config/containers/certs.d", name)
	require.NoError(t, os.MkdirAll(certs, 0o755))
	give := func(from, as string) {
		t.Helper()
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(certs, as), text, 0o600))
	}
	give(certificate, "ca.crt")
	s.fails("bad certificate", "push", "app", name+"/app")
	give(own, "client.cert")
	s.fails("client.key", "push", "app", name+"/app")
	give(ownKey, "client.key")
	s.tarn("push", "app", name+"/app")
	require.Equal(t, "latest", s.tarn("search-tags", name+"/app"))
	give(certificate, "client.cert")
	give(key, "client.key")
	s.fails("certificate", "push", "app", name+"/app") // not one of the authority that the registry trusts
}

// What NO_PROXY lists is reached without the proxy, and plain HTTP goes through HTTP_PROXY.
func TestProxies(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	var asked atomic.Int64
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Host = reg.Host }}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method == http.MethodConnect {
			http.Error(w, "no TLS here", http.StatusBadGateway)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	s := newShell(t, "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL)
	s.image()
	s.tarn("push", "--tls-verify=false", "app", "registry.test/app")
	require.Positive(t, asked.Load())
	s.env = append(s.env, "NO_PROXY=other.test,.registry.test,registry.test")
	before := asked.Load()
	_, _, status := s.try("", "search-tags", "--tls-verify=false", "registry.test/app")
	require.NotZero(t, status, "there is no such host but for the proxy")
	require.Equal(t, before, asked.Load())
	require.Equal(t, "latest", s.tarn("search-tags", reg.Host+"/app"), "what is on this machine needs none")
	require.Equal(t, before, asked.Load())
}

func TestMirrors(t *testing.T) {
	mirror, origin := testenv.StartRegistry(t, testenv.RegistryOptions{}), testenv.StartRegistry(t, testenv.RegistryOptions{})
	s := newShell(t)
	conf := filepath.Join(filepath.Dir(s.bin), "registries.conf")
	s.env = append(s.env, "CONTAINERS_REGISTRIES_CONF="+conf)
	configure := func(text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(conf, []byte(text), 0o600))
	}
	configure("")
	id := s.image()
	s.tarn("push", "app", mirror.Host+"/mirrored/tool:1")
	s.tarn("push", "app", origin.Host+"/lib/tool:1")
	s.tarn("push", "app", origin.Host+"/lib/tool:2")
	configure(fmt.Sprintf(`
[[registry]]
prefix = "example.test/team"
location = "%s/lib"
[[registry.mirror]]
location = "%s/mirrored"
[[registry]]
prefix = "blocked.test"
blocked = true
`, origin.Host, mirror.Host))
	require.Contains(t, s.tarn("pull", "example.test/team/tool:1"), "example.test/team/tool:1")
	require.Contains(t, s.tarn("pull", "example.test/team/tool:2"), "example.test/team/tool:2", "of the origin, as the mirror lacks it")
	require.Equal(t, id, "sha256:"+strings.TrimPrefix(s.tarn("images", "-q", "--no-trunc", "example.test/team/tool:1"), "sha256:"))
	mirror.Stop()
	s.tarn("pull", "example.test/team/tool:1")
	origin.Stop()
	s.fails("connection refused", "pull", "example.test/team/tool:1")
	mirror.Start()
	s.tarn("pull", "example.test/team/tool:1")
	s.fails("blocked by registries.conf", "pull", "blocked.test/x")
	configure("[[registry]]\nlocation = 3\n")
	s.fails("registries.conf", "pull", "x")
}

// What is kept of a layer's compressed form, and why, is to be seen; and a push has the digest that came.
func TestKeptForms(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	maker := newShell(t)
	maker.image()
	maker.tarn("push", "app", reg.Host+"/app")
	digest := reg.Header("/v2/app/manifests/latest").Get("Docker-Content-Digest")
	s, name := newShell(t), reg.Host+"/app"
	s.tarn("pull", name)
	require.Regexp(t, `(?m)kept as it came, for its digest +`+name, s.tarn("df", "-v"))
	require.Regexp(t, `(?m)^Compressed forms +1 +1 +[0-9.]+[kM]B +0B`, s.tarn("df"))
	require.Regexp(t, digest+` .* kept$`, s.tarn("images", "--digests", name))

	require.Regexp(t, `Total reclaimed space: [0-9.]+[kM]B`, s.tarn("compact"))
	require.Regexp(t, `(?m)made again: gzip by tarn level \d, compress .* +`+name, s.tarn("df", "-v"))
	require.Regexp(t, `(?m)^Compressed forms +1 +0 +0B`, s.tarn("df"))
	require.Regexp(t, digest+` .* 1 made again$`, s.tarn("images", "--digests", name))
	other := testenv.StartRegistry(t, testenv.RegistryOptions{})
	s.tarn("push", name, other.Host+"/back")
	require.Equal(t, digest, other.Header("/v2/back/manifests/latest").Get("Docker-Content-Digest"))
}

func TestRunPulls(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	s := newShell(t)
	s.image()
	s.tarn("push", "app", reg.Host+"/app")
	name := reg.Host + "/app"
	_, stderr, status := s.try("", "run", "--rm", "--pull", "never", name, "true")
	require.Equal(t, 125, status)
	require.Contains(t, stderr, "no such image")
	stdout, stderr, status := s.try("", "run", "--rm", name, "echo", "there")
	require.Zero(t, status, stderr)
	require.Equal(t, "there", stdout, "what is said about the pull goes to standard error")
	require.Contains(t, stderr, "Already exists", "pushed from here, the layer is known")
	reg.Stop()
	require.Equal(t, "still", s.tarn("run", "--rm", name, "echo", "still"))
	_, stderr, status = s.try("", "run", "--rm", "--pull=always", name, "true")
	require.Equal(t, 125, status)
	require.Contains(t, stderr, "connection refused")
	_, stderr, status = s.try("", "run", "--rm", reg.Host+"/nothing", "true")
	require.Equal(t, 125, status)
	require.Contains(t, stderr, "is not here, and cannot be pulled")
	s.fails("want missing, always or never", "run", "--pull=sometimes", name)
}

func TestInspectRemote(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	s := newShell(t)
	id := s.image()
	s.tarn("push", "-q", "app", reg.Host+"/app:v1")
	digest := reg.Header("/v2/app/manifests/v1").Get("Docker-Content-Digest")
	require.Equal(t, id+" "+digest, s.tarn("inspect", "--remote", "-f", "{{.ID}} {{.Digest}}", reg.Host+"/app:v1"))
	require.Equal(t, s.tarn("inspect", "-f", "{{json .RootFS}}", "app"), s.tarn("inspect", "--remote", "-f", "{{json .RootFS}}", reg.Host+"/app@"+digest))
	s.fails("not found in the registry", "inspect", "--remote", reg.Host+"/app:v2")
}
