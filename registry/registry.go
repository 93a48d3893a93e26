// Package registry speaks the OCI distribution protocol 1.1 (and with it Docker's registry API V2):
// manifests, blobs by ranges, uploads, tags and referrers. It knows neither the store nor layers.
//
// What it gives is as the registry sent it, except that manifests are checked against their digest:
// whoever reads a blob verifies it. Everything a registry says is hostile: sizes have limits, and
// credentials go to the registry they are for.
//
// Requests that fail for reasons that pass (a connection cut, 429, 5xx) are sent again, blobs from where
// they broke off. Authentication is go-containerregistry's, credentials are read by Docker's own code;
// docs/adr/registry-client.md says why, and why the requests themselves are our own.
package registry

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found in the registry")
	ErrDenied   = errors.New("access denied")
	ErrDigest   = errors.New("the registry sent something else than was asked for")
	ErrBlocked  = errors.New("blocked by registries.conf")
	ErrConfig   = errors.New("registries.conf")
	ErrProtocol = errors.New("the registry broke the protocol")
)

// Options says how registries are reached. The zero Options is how Docker does it by default.
type Options struct {
	// SkipTLSVerify accepts any certificate, and plain HTTP where there is no TLS. Registries on
	// loopback addresses are always treated so, as Docker does.
	SkipTLSVerify bool
	// CertDir holds *.crt, *.cert and *.key files for every registry; else they are looked for in
	// certs.d/HOST (see certDirs).
	CertDir string
	// UserAgent is sent with each request.
	UserAgent string
}

// Client reaches registries. It may be used by many goroutines at once.
type Client struct {
	opts    Options
	conf    *routing
	backoff time.Duration // before the first repetition; doubled each time
	stall   time.Duration // how long a blob may send nothing before its connection is given up
}

// New reads registries.conf.
func New(opts Options) (*Client, error) {
	conf, err := loadRouting()
	if err != nil {
		return nil, err
	}
	return &Client{opts: opts, conf: conf, backoff: 200 * time.Millisecond, stall: time.Minute}, nil
}

// Access is what a Repository is used for: it decides what a token is asked for.
type Access int

// The kinds of access.
const (
	Pull Access = iota
	Push
)

// Repository is one repository of a registry.
type Repository struct {
	name    image.Reference
	client  *Client
	mirrors []*endpoint // asked first, for reading only
	origin  *endpoint
}

// endpoint is a repository at one place.
type endpoint struct {
	host *host
	path string // of the repository there
	http *http.Client
}

// Repository gives the repository that ref is in; its tag and digest do not matter. mountFrom are
// repositories of the same registry that blobs may be mounted from, so that one token covers it all.
func (c *Client) Repository(ref image.Reference, access Access, mountFrom ...image.Reference) (*Repository, error) {
	r := &Repository{name: ref, client: c}
	route, err := c.conf.route(ref)
	if err != nil {
		return nil, err
	}
	scopes := []string{scope(route.origin.path, access)}
	for _, from := range mountFrom {
		if from.Domain() == ref.Domain() && from.Path() != ref.Path() {
			scopes = append(scopes, scope(from.Path(), Pull))
		}
	}
	if access == Pull {
		for _, m := range route.mirrors {
			mirror, err := c.endpoint(m, []string{scope(m.path, Pull)})
			if err != nil {
				return nil, err
			}
			r.mirrors = append(r.mirrors, mirror)
		}
	}
	if r.origin, err = c.endpoint(route.origin, scopes); err != nil {
		return nil, err
	}
	return r, nil
}

func scope(path string, access Access) string {
	if access == Push {
		return "repository:" + path + ":pull,push"
	}
	return "repository:" + path + ":pull"
}

func (c *Client) endpoint(l location, scopes []string) (*endpoint, error) {
	h, err := c.newHost(l.host, l.insecure)
	if err != nil {
		return nil, err
	}
	transport := &authorizer{host: h, scopes: scopes}
	return &endpoint{host: h, path: l.path, http: &http.Client{Transport: transport}}, nil
}

// Name gives the repository's name, without tag and digest.
func (r *Repository) Name() string { return r.name.Repository() }

// url makes the URL of a part of the repository's API.
func (e *endpoint) url(format string, args ...any) string {
	return "https://" + e.host.name + "/v2/" + e.path + "/" + fmt.Sprintf(format, args...)
}

// sources lists where to read from, in the order in which to ask.
func (r *Repository) sources() []*endpoint {
	return append(slices.Clip(r.mirrors), r.origin)
}

// target gives what a manifest is asked for by: the digest if ref has one, else the tag.
func target(ref image.Reference) string {
	if d := ref.Digest(); d != "" {
		return string(d)
	}
	return ref.WithDefaultTag().Tag()
}

// isLoopback: registries there may have no TLS or a certificate of their own making (Docker's
// default for 127.0.0.0/8, and by name).
func isLoopback(host string) bool {
	name := host
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, ']') {
		name = name[:i]
	}
	return name == "localhost" || name == "[::1]" || strings.HasSuffix(name, ".localhost") ||
		strings.HasPrefix(name, "127.") && strings.Trim(name, "0123456789.") == ""
}
