package testenv

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// Proxy stands between a client and a registry, counts requests, and does harm as told.
type Proxy struct {
	Host string // 127.0.0.1:port

	mu       sync.Mutex
	requests []string
	before   func(http.ResponseWriter, *http.Request) bool
	body     func(*http.Request, io.Reader) io.Reader
}

// StartProxy starts a proxy to the plain HTTP registry at host.
func StartProxy(t testing.TB, host string) *Proxy {
	t.Helper()
	p := new(Proxy)
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	forward.FlushInterval = -1
	// A body that breaks off is what is wanted, and no news.
	forward.ErrorLog = log.New(io.Discard, "", 0)
	forward.ModifyResponse = func(res *http.Response) error {
		p.mu.Lock()
		change := p.body
		p.mu.Unlock()
		if change != nil {
			res.Body = &changedBody{Reader: change(res.Request, res.Body), Closer: res.Body}
		}
		return nil
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.requests = append(p.requests, r.Method+" "+r.URL.Path)
		before := p.before
		p.mu.Unlock()
		if before != nil && before(w, r) {
			return
		}
		forward.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = forward.ErrorLog
	server.Start()
	t.Cleanup(server.Close)
	p.Host = strings.TrimPrefix(server.URL, "http://")
	return p
}

type changedBody struct {
	io.Reader
	io.Closer
}

// Intercept has every request go through before, which says whether it has answered it.
func (p *Proxy) Intercept(before func(http.ResponseWriter, *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = before
}

// ChangeBodies has every answer's body go through change.
func (p *Proxy) ChangeBodies(change func(*http.Request, io.Reader) io.Reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.body = change
}

// Requests gives the requests since the last call, as "METHOD /path".
func (p *Proxy) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	requests := p.requests
	p.requests = nil
	return requests
}
