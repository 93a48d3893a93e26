package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Registry is Debian's docker-registry (the reference implementation, distribution), running for one
// test on a port of the loopback interface.
type Registry struct {
	Host string // 127.0.0.1:port
	Data string // its directory; other tests do not use it

	t      testing.TB
	config string
	cmd    *exec.Cmd
}

// RegistryOptions says how the registry asks who is there, and whether it speaks TLS.
type RegistryOptions struct {
	// Auth is the section "auth" of its configuration, as YAML without indentation, or "".
	Auth string
	// Certificate and Key are files; without them it speaks plain HTTP.
	Certificate, Key string
	// ClientCA is a file with the certificate that clients must have one of, or "".
	ClientCA string
}

// StartRegistry starts a registry, and stops it at the end of the test. It skips the test (fails it
// in CI) if there is none installed.
func StartRegistry(t testing.TB, opts RegistryOptions) *Registry {
	t.Helper()
	RequireTool(t, "docker-registry")
	dir := TempDir(t)
	r := &Registry{t: t, Host: freePort(t), Data: filepath.Join(dir, "data"), config: filepath.Join(dir, "config.yml")}
	config := fmt.Sprintf(`version: 0.1
log:
  level: error
storage:
  filesystem:
    rootdirectory: %s
  delete:
    enabled: true
http:
  addr: %s
`, r.Data, r.Host)
	if opts.Certificate != "" {
		config += fmt.Sprintf("  tls:\n    certificate: %s\n    key: %s\n", opts.Certificate, opts.Key)
	}
	if opts.ClientCA != "" {
		config += fmt.Sprintf("    clientcas:\n      - %s\n", opts.ClientCA)
	}
	if opts.Auth != "" {
		config += "auth:\n  " + strings.ReplaceAll(strings.TrimSpace(opts.Auth), "\n", "\n  ") + "\n"
	}
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(r.Stop)
	return r
}

// freePort finds a port that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Start starts the registry again after Stop, with what it has stored.
func (r *Registry) Start() {
	r.t.Helper()
	log, err := os.OpenFile(r.config+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	// The test's context ends before its cleanup, which stops the registry in its own way.
	r.cmd = exec.CommandContext(context.WithoutCancel(r.t.Context()), "docker-registry", "serve", r.config)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func(cmd *exec.Cmd) { _ = cmd.Wait(); close(exited) }(r.cmd)
	dialer := &net.Dialer{}
	for {
		if conn, err := dialer.DialContext(r.t.Context(), "tcp", r.Host); err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-exited:
			text, _ := os.ReadFile(r.config + ".log")
			r.t.Fatalf("docker-registry ended at once:\n%s", text)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Stop ends the registry as a crash would.
func (r *Registry) Stop() {
	if r.cmd == nil {
		return
	}
	if err := r.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.t.Error(err)
	}
	r.cmd = nil
}

// URL gives the address of a path of its API, for plain HTTP.
func (r *Registry) URL(path string) string { return "http://" + r.Host + path }

// Header asks the registry with HEAD, as a manifest's reader, and gives the answer's header.
func (r *Registry) Header(path string) http.Header {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodHead, r.URL(path), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, mediaType := range []string{
		"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	} {
		req.Header.Add("Accept", mediaType)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		r.t.Fatalf("HEAD %s: %s", path, res.Status)
	}
	return res.Header
}
