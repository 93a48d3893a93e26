package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// Bounds on clients. What a request may take once its header is here, watch decides.
const (
	maxConnections = 256
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	grace          = 10 * time.Second // for requests that are going on at the end
)

// Serve answers requests on listener, with TLS if config is given, until ctx ends. It closes the
// listener, waits a while for the requests that are going on, and then ends them.
func Serve(ctx context.Context, listener net.Listener, config *tls.Config, handler http.Handler) error {
	limited := &limitedListener{Listener: listener, slots: make(chan struct{}, maxConnections), closed: make(chan struct{})}
	server := &http.Server{
		Handler: handler, TLSConfig: config, ConnState: limited.connState,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		// What is written there is about clients that do not speak HTTP or TLS.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		err := server.Shutdown(deadline)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		ended <- err
	})
	var err error
	if config != nil {
		err = server.ServeTLS(limited, "", "")
	} else {
		err = server.Serve(limited)
	}
	if stop() {
		return err // it ended of itself
	}
	return <-ended
}

// limitedListener lets connections wait when there are too many.
type limitedListener struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
	}
	return conn, err
}

// connState takes note of connections that end. They are not wrapped for it: net/http sends files
// faster, and closes more gently, on a connection that it knows.
func (l *limitedListener) connState(_ net.Conn, state http.ConnState) {
	if state == http.StateClosed {
		<-l.slots
	}
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}
