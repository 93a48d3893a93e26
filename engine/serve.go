package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/tarnfs/tarn/registry/server"
)

// ServeOptions says how the store is served.
type ServeOptions struct {
	Listen   string // "host:port"; port 0 is any that is free
	ReadOnly bool
	// TLSCert and TLSKey are files with a certificate and its key, PEM; without them there is no TLS.
	TLSCert, TLSKey string
	// Htpasswd is a file with users and bcrypt passwords; without it nobody is asked.
	Htpasswd string
	// Started is told where the registry is, once it can be reached.
	Started func(Served)
	// Log is told in one line what was changed, and what went wrong.
	Log func(line string)
}

// Served says what is served, and where.
type Served struct {
	Address      string // "host:port"
	TLS          bool
	Repositories int
}

// Serve makes the store an OCI registry for other machines, until ctx ends. Images are served under the
// names they have here, and what is pushed becomes an image here.
func (e *Engine) Serve(ctx context.Context, opts ServeOptions) (err error) {
	if err := e.Store.CollectLeftovers(); err != nil {
		return err
	}
	config, err := serverTLS(opts.TLSCert, opts.TLSKey)
	if err != nil {
		return err
	}
	content := newStoreContent(e, opts.Log)
	defer func() { err = errors.Join(err, content.pending.close()) }()
	registry := server.New(content, server.Options{ReadOnly: opts.ReadOnly, Log: opts.Log})
	defer func() { err = errors.Join(err, registry.Close()) }()
	var handler http.Handler = registry
	if opts.Htpasswd != "" {
		users, err := server.OpenHtpasswd(opts.Htpasswd)
		if err != nil {
			return err
		}
		handler = users.Require(handler, opts.Log)
	}
	repositories, err := content.Repositories(ctx)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", opts.Listen)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	opts.Started(Served{Address: listener.Addr().String(), TLS: config != nil, Repositories: len(repositories)})
	return server.Serve(ctx, listener, config, handler)
}

func newStoreContent(e *Engine, log func(line string)) *storeContent {
	return &storeContent{engine: e, log: log, staging: make(chan struct{}, pulledAtOnce)}
}

func serverTLS(cert, key string) (*tls.Config, error) {
	if cert == "" && key == "" {
		return nil, nil
	}
	if cert == "" || key == "" {
		return nil, fmt.Errorf("%w: TLS needs a certificate and its key", ErrOption)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("serve with TLS: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}
