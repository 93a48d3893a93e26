package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/testenv"
)

// serving is a "tarn serve" of its own process.
type serving struct {
	t         *testing.T
	root, run string
	host      string // "127.0.0.1:port"
	cmd       *exec.Cmd
	log       *bytes.Buffer
}

// serveStore starts "tarn serve" over a store, and ends it with the test.
func serveStore(t *testing.T, root, run string, flags ...string) *serving {
	t.Helper()
	s := &serving{t: t, root: root, run: run, log: new(bytes.Buffer)}
	s.cmd = tarn(t, root, run, append([]string{"serve", "--listen", "127.0.0.1:0"}, flags...)...)
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that is killed leaves no server
	stdout, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			require.NoError(t, s.end(syscall.SIGTERM))
		}
		if t.Failed() {
			t.Logf("tarn serve:\n%s", s.log)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err, s.log)
	found := regexp.MustCompile(`^Serving \S+ at https?://(127\.0\.0\.1:\d+) \(`).FindStringSubmatch(line)
	require.NotNil(t, found, line)
	s.host = found[1]
	return s
}

// end sends the signal, and waits.
func (s *serving) end(sig os.Signal) error {
	return errors.Join(s.cmd.Process.Signal(sig), s.cmd.Wait())
}

// tarn is the command of this very test program (see TestMain).
func tarn(t *testing.T, root, run string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), self, args...) // the test's ends before its clean-up
	cmd.Args[0] = "tarn"
	cmd.Env = append(os.Environ(), "TARN_ROOT="+root, "TARN_RUN="+run)
	return cmd
}

// output runs a program that must succeed, and gives what it prints.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s\n%s%s", cmd, out, &stderr)
	return strings.TrimSpace(string(out))
}

func (s *serving) tarn(args ...string) string {
	s.t.Helper()
	return output(s.t, tarn(s.t, s.root, s.run, args...))
}

// TestServeConformance runs the official tests of the distribution specification, with all that is
// optional in it but one: that a manifest is taken whose blobs were not pushed.
func TestServeConformance(t *testing.T) {
	conformance := testenv.Conformance(t)
	withTLS, certificate := selfSigned(t)
	for name, tc := range map[string]struct{ flags, env []string }{
		"plain": {nil, []string{"OCI_TLS=disabled"}},
		"TLS and a password": {
			append(withTLS, "--htpasswd", htpasswd(t, "me", "secret")),
			[]string{"OCI_TLS=enabled", "SSL_CERT_FILE=" + certificate, "OCI_USERNAME=me", "OCI_PASSWORD=secret"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			root, run := testenv.TarnRoot(t)
			s := serveStore(t, root, run, tc.flags...)
			cmd := exec.CommandContext(t.Context(), conformance)
			cmd.Dir = t.TempDir()
			cmd.Env = append(append(os.Environ(), tc.env...), "OCI_REGISTRY="+s.host, "OCI_VERSION=1.1",
				"OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_BLOBS_UPLOAD_CANCEL=true",
				"OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_TAG_PARAM=true")
			report, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", report)
			require.Contains(t, string(report), "OCI Conformance Result: Pass")
			results, err := os.ReadFile(filepath.Join(cmd.Dir, "results", "results.yaml"))
			require.NoError(t, err)
			_, results, found := bytes.Cut(results, []byte("\napis:\n"))
			require.True(t, found)
			passed := 0
			for line := range strings.Lines(string(results)) {
				line = strings.TrimSpace(line)
				if line == "data:" || line == "Sparse Manifests: Disabled" {
					continue
				}
				require.True(t, strings.HasSuffix(line, ": Pass"), line)
				passed++
			}
			require.Greater(t, passed, 50)
			// The tests delete what they push.
			for _, dir := range []string{"blobs/sha256", "blobs/sha512", "layers", "images", "entries"} {
				entries, err := os.ReadDir(filepath.Join(root, dir))
				require.NoError(t, err)
				require.Empty(t, entries, dir)
			}
		})
	}
}

// selfSigned makes a certificate for the loopback interface, and gives the flags for it and its file.
func selfSigned(t *testing.T) (flags []string, certificate string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certificate = pemFile(t, "CERTIFICATE", der)
	return []string{"--tls-cert", certificate, "--tls-key", pemFile(t, "PRIVATE KEY", secret)}, certificate
}

func pemFile(t *testing.T, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pem.crt")
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

// htpasswd makes a file with one user, by the program that everybody uses for it.
func htpasswd(t *testing.T, user, password string) string {
	t.Helper()
	testenv.RequireTool(t, "htpasswd")
	path := filepath.Join(t.TempDir(), "users")
	output(t, exec.CommandContext(t.Context(), "htpasswd", "-Bbc", path, user, password))
	return path
}

// TestServeOtherTools lets others push and pull, and compares digests.
func TestServeOtherTools(t *testing.T) {
	testenv.RequireErofsFile(t)
	root, run := testenv.TarnRoot(t)
	s := serveStore(t, root, run)
	importBusybox(t, root, run, "box:v1")
	// wantPushed wants the image to be here with the digest that the other tool says it has, and to run.
	wantPushed := func(t *testing.T, digest, name string) {
		t.Helper()
		require.Equal(t, strings.TrimSpace(digest), s.digest(name))
		require.Equal(t, "hello", s.tarn("run", "--rm", name, "echo", "hello"))
	}
	t.Run("skopeo", func(t *testing.T) {
		skopeo := testenv.NewTool(t, "skopeo", nil)
		at, dir := "docker://"+s.host, "dir:"+testenv.TempDir(t)
		skopeo("copy", "--src-tls-verify=false", at+"/box:v1", dir)
		skopeo("copy", "--dest-tls-verify=false", "--preserve-digests", dir, at+"/docker.io/me/box:v2")
		wantPushed(t, s.digest("box:v1"), "me/box:v2")
		skopeo("copy", "--dest-tls-verify=false", "--format", "v2s2", dir, at+"/box:docker")
		require.Contains(t, skopeo("inspect", "--tls-verify=false", "--raw", at+"/box:docker"), image.MediaTypeDockerManifest)
		wantPushed(t, skopeo("inspect", "--tls-verify=false", "--format", "{{.Digest}}", at+"/box:docker"), "box:docker")
		var list struct{ Tags []string }
		require.NoError(t, json.Unmarshal([]byte(skopeo("list-tags", "--tls-verify=false", at+"/box")), &list))
		require.Equal(t, []string{"docker", "v1"}, list.Tags)
		skopeo("delete", "--tls-verify=false", at+"/box:docker")
		require.NotContains(t, s.tarn("images", "--format", "{{.Tag}}"), "docker")
	})
	t.Run("podman", func(t *testing.T) { pullAndPush(t, s, testenv.Podman(t), wantPushed) })
	t.Run("buildah", func(t *testing.T) {
		testenv.RequireRoot(t)
		dir := testenv.TempDir(t)
		buildah := testenv.NewTool(t, "buildah", nil,
			"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs")
		pullAndPush(t, s, buildah, wantPushed)
	})
	t.Run("docker", func(t *testing.T) {
		docker := testenv.Docker(t)
		name := s.host + "/ghcr.io/me/docker:v1"
		docker("pull", s.host+"/box:v1")
		docker("tag", s.host+"/box:v1", name)
		pushed := regexp.MustCompile(`digest: (sha256:[0-9a-f]{64})`).FindStringSubmatch(docker("push", name))
		require.NotNil(t, pushed)
		wantPushed(t, pushed[1], "ghcr.io/me/docker:v1")
		docker("rmi", name, s.host+"/box:v1")
		docker("pull", s.host+"/ghcr.io/me/docker@"+pushed[1])
	})
	require.NotContains(t, s.log.String(), "run here")
}

// pullAndPush has podman or buildah pull, push again, by digest too, and compress in another way.
func pullAndPush(t *testing.T, s *serving, tool testenv.Tool, wantPushed func(t *testing.T, digest, name string)) {
	t.Helper()
	digestFile := filepath.Join(t.TempDir(), "digest")
	push := func(from, name string, flags ...string) string {
		args := append([]string{"push", "--tls-verify=false", "--digestfile", digestFile}, flags...)
		tool(append(args, from, s.host+"/"+name)...)
		digest, err := os.ReadFile(digestFile)
		require.NoError(t, err)
		wantPushed(t, string(digest), name)
		return string(digest)
	}
	tool("pull", "--tls-verify=false", s.host+"/box:v1")
	digest := push(s.host+"/box:v1", "ghcr.io/me/again:v1")
	tool("rmi", "--all", "--force")
	byDigest := s.host + "/ghcr.io/me/again@" + digest
	tool("pull", "--tls-verify=false", byDigest)
	push(byDigest, "again:zstd", "--compression-format", "zstd")
}

func importBusybox(t *testing.T, root, run, name string) {
	t.Helper()
	e, err := engine.Open(engine.Options{Root: root, Run: run})
	require.NoError(t, err)
	tar, err := os.Open(testenv.BusyboxTar(t))
	require.NoError(t, err)
	defer tar.Close()
	_, err = e.Import(t.Context(), tar, engine.ImportOptions{Name: name})
	require.NoError(t, err)
}

// digest gives the digest of an image's manifest, as "tarn images" shows it.
func (s *serving) digest(name string) string {
	s.t.Helper()
	return s.tarn("images", "--digests", "--format", "{{.Digest}}", name)
}

// TestServeTwoStores shares images between two stores with nothing but tarn.
func TestServeTwoStores(t *testing.T) {
	testenv.RequireErofsFile(t)
	root, run := testenv.TarnRoot(t)
	s := serveStore(t, root, run)
	importBusybox(t, root, run, "box:v1")
	otherRoot, otherRun := testenv.TarnRoot(t)
	other := func(args ...string) string {
		t.Helper()
		return output(t, tarn(t, otherRoot, otherRun, args...))
	}
	other("pull", s.host+"/box:v1")
	require.Equal(t, "hello", other("run", "--rm", s.host+"/box:v1", "echo", "hello"))
	other("tag", s.host+"/box:v1", s.host+"/again:v1")
	other("push", s.host+"/again:v1")
	require.Equal(t, s.digest("box:v1"), s.digest("again:v1"))
	for _, dir := range []string{root, otherRoot} {
		left, err := os.ReadDir(filepath.Join(dir, "tmp"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

// TestServeKilled kills the server in the middle of a push.
func TestServeKilled(t *testing.T) {
	root, run := testenv.TarnRoot(t)
	s := serveStore(t, root, run)
	blob := bytes.Repeat([]byte("some bytes "), 100_000)
	post := func(query string, body []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.host+"/v2/a/blobs/uploads/"+query, bytes.NewReader(body))
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, errors.Join(err, res.Body.Close()))
		require.Less(t, res.StatusCode, 300)
	}
	post("", nil)
	post("?digest="+string(image.DigestBytes(blob)), blob)
	tmp := filepath.Join(root, "tmp")
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Len(t, left, 2, "an upload, and a blob that waits for its manifest")
	require.Error(t, s.end(syscall.SIGKILL))

	again := serveStore(t, root, run)
	left, err = os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, again.end(syscall.SIGINT), "an interrupt ends it well")
}

func TestServeAsksForAPassword(t *testing.T) {
	root, run := testenv.TarnRoot(t)
	s := serveStore(t, root, run, "--htpasswd", htpasswd(t, "me", "secret"))
	for password, status := range map[string]int{"secret": http.StatusOK, "wrong": http.StatusUnauthorized, "": http.StatusUnauthorized} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.host+"/v2/", nil)
		require.NoError(t, err)
		if password != "" {
			req.SetBasicAuth("me", password)
		}
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, status, res.StatusCode)
		if status == http.StatusUnauthorized {
			require.Contains(t, res.Header.Get("WWW-Authenticate"), "Basic realm=")
		}
	}
}
