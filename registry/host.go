package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// host is a registry as it is connected to.
type host struct {
	name      string // host[:port]
	userAgent string
	insecure  bool // plain HTTP will do
	base      *http.Transport
	scheme    atomic.Pointer[string] // once it is known that the host answers to it
}

const (
	schemeHTTP  = "http"
	schemeHTTPS = "https"
)

func (c *Client) newHost(name string, insecure bool) (*host, error) {
	insecure = insecure || c.opts.SkipTLSVerify || isLoopback(name)
	tlsConfig, err := c.tlsConfig(name, insecure)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 15 * time.Second}
	return &host{
		name: name, userAgent: c.opts.UserAgent, insecure: insecure,
		base: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           dialer.DialContext,
			TLSClientConfig:       tlsConfig,
			TLSHandshakeTimeout:   20 * time.Second,
			ResponseHeaderTimeout: 2 * time.Minute,
			IdleConnTimeout:       30 * time.Second,
			MaxIdleConnsPerHost:   8,
			ForceAttemptHTTP2:     true,
			ReadBufferSize:        128 << 10,
			WriteBufferSize:       128 << 10,
			// A layer is compressed already; and what came must be what was sent, for its digest.
			DisableCompression: true,
		},
	}, nil
}

// RoundTrip sends a request with the scheme that the host answers to.
func (h *host) RoundTrip(req *http.Request) (*http.Response, error) {
	if h.userAgent != "" {
		req.Header.Set("User-Agent", h.userAgent)
	}
	switch {
	case req.URL.Host != h.name:
		return h.base.RoundTrip(req)
	case !h.insecure:
		// A registry behind a proxy may give addresses without TLS for what is to have it.
		return h.base.RoundTrip(withScheme(req, schemeHTTPS))
	}
	if scheme := h.scheme.Load(); scheme != nil {
		return h.base.RoundTrip(withScheme(req, *scheme))
	}
	res, err := h.base.RoundTrip(withScheme(req, schemeHTTPS))
	used := schemeHTTPS
	if err != nil && req.Context().Err() == nil && (req.Body == nil || req.Body == http.NoBody) {
		plain, plainErr := h.base.RoundTrip(withScheme(req, schemeHTTP))
		if plainErr != nil {
			return nil, firstOf(err, plainErr)
		}
		res, err, used = plain, nil, schemeHTTP
	}
	if err == nil {
		h.scheme.Store(&used)
	}
	return res, err
}

// firstOf picks the error that tells more: over plain HTTP, unless both mean that nobody answers.
func firstOf(overTLS, plain error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](overTLS); ok {
		return overTLS
	}
	return plain
}

func withScheme(req *http.Request, scheme string) *http.Request {
	if req.URL.Scheme == scheme {
		return req
	}
	u := *req.URL
	u.Scheme = scheme
	clone := req.Clone(req.Context())
	clone.URL = &u
	return clone
}

// currentScheme gives the scheme the host answers to, as far as it is known.
func (h *host) currentScheme() string {
	if scheme := h.scheme.Load(); scheme != nil {
		return *scheme
	}
	return schemeHTTPS
}

// certDirs lists where a registry's certificates may lie, as Docker (docs.docker.com, "Verify
// repository client with certificates") and containers-certs.d(5) have it.
func certDirs(host string) []string {
	var dirs []string
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, ".config/containers/certs.d", host))
	}
	return append(dirs, filepath.Join("/etc/containers/certs.d", host), filepath.Join("/etc/docker/certs.d", host))
}

func (c *Client) tlsConfig(host string, insecure bool) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: insecure} //nolint:gosec // as asked for
	dirs := certDirs(host)
	if c.opts.CertDir != "" {
		dirs = []string{c.opts.CertDir}
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) && c.opts.CertDir == "" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("certificates of %s: %w", host, err)
		}
		for _, entry := range entries {
			if err := addCertificate(cfg, filepath.Join(dir, entry.Name())); err != nil {
				return nil, fmt.Errorf("certificates of %s: %w", host, err)
			}
		}
	}
	return cfg, nil
}

// addCertificate reads a *.crt, a CA to trust besides the system's, or a *.cert, this client's own
// certificate, with its *.key.
func addCertificate(cfg *tls.Config, path string) error {
	switch filepath.Ext(path) {
	case ".crt":
		pem, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if cfg.RootCAs == nil {
			if cfg.RootCAs, err = x509.SystemCertPool(); err != nil {
				return err
			}
		}
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: no certificate in it", path)
		}
	case ".cert":
		pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
		if err != nil {
			return err
		}
		cfg.Certificates = append(cfg.Certificates, pair)
	}
	return nil
}

// closeIdle ends connections that are kept for later.
func (r *Repository) closeIdle() {
	for _, e := range r.sources() {
		e.host.base.CloseIdleConnections()
	}
}

// Close ends the connections of the repository. Streams that are still read go on.
func (r *Repository) Close() { r.closeIdle() }

// sleep waits, or returns why not.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
