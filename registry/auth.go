package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	dockerHub    = "docker.io"
	dockerHubAPI = "registry-1.docker.io"
	// dockerHubKey is what Docker's config.json calls Docker Hub.
	dockerHubKey = "https://index.docker.io/v1/"
	dockerHubOld = "index.docker.io"
)

// authorizer sends requests as they are until the registry asks who is there (401), and from then on
// with a token or a password. So a registry that asks nobody gets one request and no more.
type authorizer struct {
	host   *host
	scopes []string

	mu     sync.Mutex
	authed http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (a *authorizer) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	authed := a.authed
	a.mu.Unlock()
	if authed != nil {
		return authed.RoundTrip(guardBody(req))
	}
	res, err := a.host.RoundTrip(req)
	if err != nil || res.StatusCode != http.StatusUnauthorized || req.URL.Host != a.host.name {
		return res, err
	}
	again, err := replay(req)
	if again == nil || err != nil {
		return res, err
	}
	drain(res)
	authed, err = a.authorize(req.Context())
	if err != nil {
		return nil, err
	}
	return authed.RoundTrip(again)
}

// replay gives the request once more, or nil if its body cannot be read again.
func replay(req *http.Request) (*http.Request, error) {
	again := req.Clone(req.Context())
	if req.Body == nil || req.Body == http.NoBody {
		return again, nil
	}
	if req.GetBody == nil {
		return nil, nil
	}
	body, err := req.GetBody()
	again.Body = body
	return again, err
}

func (a *authorizer) authorize(ctx context.Context) (http.RoundTripper, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.authed != nil {
		return a.authed, nil
	}
	auth, err := authn.DefaultKeychain.Resolve(credentialsOf(a.host.name))
	if err != nil {
		return nil, fmt.Errorf("credentials for %s: %w", a.host.name, err)
	}
	authed, err := handshake(ctx, a.host, auth, a.scopes)
	if err != nil {
		return nil, err
	}
	a.authed = authed
	return authed, nil
}

// handshake asks the registry how it authenticates, and gives what does so.
func handshake(ctx context.Context, h *host, auth authn.Authenticator, scopes []string) (http.RoundTripper, error) {
	var opts []name.Option
	if h.currentScheme() == schemeHTTP {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(h.name, opts...)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", h.name, err)
	}
	// The library's messages name the URL and the reason.
	rt, err := transport.NewWithContext(ctx, reg, auth, withUserAgent(h), scopes)
	if err != nil {
		return nil, explain(fmt.Errorf("log in to %s: %w", h.name, err), h.name)
	}
	return rt, nil
}

func withUserAgent(h *host) http.RoundTripper {
	return transport.NewUserAgent(rewinder{h.base}, h.userAgent)
}

// onceBody is a body that cannot be read again.
type onceBody struct {
	io.ReadCloser
	sent bool
}

// guardBody marks such a body, for rewinder.
func guardBody(req *http.Request) *http.Request {
	if req.Body == nil || req.Body == http.NoBody || req.GetBody != nil {
		return req
	}
	clone := req.Clone(req.Context())
	clone.Body = &onceBody{ReadCloser: req.Body}
	return clone
}

// errResend says that a request has to be sent again by whoever has its body.
var errResend = errors.New("the registry wants a new token")

// rewinder stands below the library, which sends a request again when a token has expired, with the
// body that it has read to its end.
type rewinder struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (r rewinder) RoundTrip(req *http.Request) (*http.Response, error) {
	if once, ok := req.Body.(*onceBody); ok {
		if once.sent {
			return nil, errResend
		}
		once.sent = true
	}
	if req.GetBody != nil {
		fresh, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		_ = req.Body.Close()
		req = req.Clone(req.Context())
		req.Body = fresh
	}
	return r.base.RoundTrip(req)
}

// resource names a registry as the keychain wants it.
type resource string

func (r resource) String() string      { return string(r) }
func (r resource) RegistryStr() string { return string(r) }

// credentialsOf gives the name under which a host's credentials are kept.
func credentialsOf(host string) resource {
	if host == dockerHubAPI || host == dockerHub {
		return dockerHubOld
	}
	return resource(host)
}

func configKey(registry string) string {
	switch registry {
	case "", dockerHub, dockerHubAPI, dockerHubOld:
		return dockerHubKey
	default:
		return registry
	}
}

// registryHost reduces what a user may type as a registry's address to its host.
func registryHost(registry string) string {
	registry = strings.TrimPrefix(strings.TrimPrefix(registry, "https://"), "http://")
	registry, _, _ = strings.Cut(registry, "/")
	switch registry {
	case "", dockerHubOld:
		return dockerHub
	default:
		return registry
	}
}

// apiHost gives the host that a registry's API is at.
func apiHost(registry string) string {
	if registry == dockerHub {
		return dockerHubAPI
	}
	return registry
}

// Login checks a name and a password (or token) with the registry, and keeps them as Docker does: in
// config.json, or where its credential helper puts them. It gives the registry's name.
func (c *Client) Login(ctx context.Context, registry, user, password string) (string, error) {
	registry = registryHost(registry)
	h, err := c.newHost(apiHost(registry), false)
	if err != nil {
		return registry, err
	}
	if err := c.tryLogin(ctx, h, user, password); err != nil {
		return registry, err
	}
	file, err := config.Load(config.Dir())
	if err != nil {
		return registry, fmt.Errorf("read Docker's config.json: %w", err)
	}
	key := configKey(registry)
	err = file.GetCredentialsStore(key).Store(types.AuthConfig{Username: user, Password: password, ServerAddress: key})
	if err != nil {
		return registry, fmt.Errorf("keep the credentials of %s: %w", registry, err)
	}
	return registry, nil
}

func (c *Client) tryLogin(ctx context.Context, h *host, user, password string) error {
	// The first request tells which scheme the host answers to.
	if err := ping(ctx, h, h.name, http.StatusOK, http.StatusUnauthorized); err != nil {
		return err
	}
	rt, err := handshake(ctx, h, &authn.Basic{Username: user, Password: password}, nil)
	if err != nil {
		return err
	}
	return ping(ctx, rt, h.name, http.StatusOK)
}

// ping asks whether there is a registry (distribution-spec, "Determining Support").
func ping(ctx context.Context, rt http.RoundTripper, host string, want ...int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/v2/", nil)
	if err != nil {
		return err
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return explain(fmt.Errorf("log in to %s: %w", host, err), host)
	}
	defer res.Body.Close()
	return responseError(res, want...)
}

// Logout forgets the registry's credentials. ErrNotFound means that there were none.
func (c *Client) Logout(registry string) (string, error) {
	registry = registryHost(registry)
	file, err := config.Load(config.Dir())
	if err != nil {
		return registry, fmt.Errorf("read Docker's config.json: %w", err)
	}
	key := configKey(registry)
	store := file.GetCredentialsStore(key)
	if auth, err := store.Get(key); err != nil {
		return registry, fmt.Errorf("credentials of %s: %w", registry, err)
	} else if auth.Username == "" && auth.IdentityToken == "" && auth.RegistryToken == "" {
		return registry, fmt.Errorf("credentials of %s: %w", registry, errNotLoggedIn)
	}
	if err := store.Erase(key); err != nil {
		return registry, fmt.Errorf("forget the credentials of %s: %w", registry, err)
	}
	return registry, nil
}

var errNotLoggedIn = fmt.Errorf("%w: not logged in", ErrNotFound)

// explain gives the library's refusals the package's own errors.
func explain(err error, host string) error {
	if refused, ok := errors.AsType[*transport.Error](err); ok && isRefusal(refused.StatusCode) {
		return fmt.Errorf("%w: %w (log in with 'tarn login %s')", ErrDenied, err, host)
	}
	return err
}

func isRefusal(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// drain reads what is left of a body, up to a limit, so that the connection can be used again.
func drain(res *http.Response) {
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
	_ = res.Body.Close()
}
