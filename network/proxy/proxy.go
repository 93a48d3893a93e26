// Package proxy passes on what the packet filter cannot lead to a container: what is for ::1, and
// what comes over IPv6 for one that has no address of IPv6. It is apart from package network for the small program that keeps a container's
// networks.
package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// ServeFile passes on what comes to a socket, of TCP or UDP, that another program has left to this one. The file is closed.
func ServeFile(ctx context.Context, socket *os.File, to netip.AddrPort) error {
	defer socket.Close()
	l, err := net.FileListener(socket)
	if err == nil {
		go Serve(ctx, l, to)
		return nil
	}
	c, packetErr := net.FilePacketConn(socket)
	if packetErr != nil {
		return errors.Join(err, packetErr)
	}
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return errors.Join(err, c.Close())
	}
	go ServeUDP(ctx, udp, to)
	return nil
}

// maxProxied is how many connections of one port are passed on at a time: more wait to be accepted.
const maxProxied = 512

// Serve passes on connections, until the listener is closed.
func Serve(ctx context.Context, l net.Listener, to netip.AddrPort) {
	room := make(chan struct{}, maxProxied)
	for {
		room <- struct{}{}
		from, err := l.Accept()
		switch {
		case err == nil:
			go func() {
				defer func() { <-room }()
				passOn(ctx, from, to)
			}()
		case errors.Is(err, net.ErrClosed):
			return
		default:
			// Out of descriptors, for instance. It gets better or it does not.
			<-room
			time.Sleep(acceptPause)
		}
	}
}

const (
	acceptPause = 100 * time.Millisecond
	dialTime    = 30 * time.Second
)

// passOn copies both ways, until both sides have said all. The kernel moves the bytes (splice(2)).
func passOn(ctx context.Context, from net.Conn, to netip.AddrPort) {
	defer from.Close()
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	container, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		reset(from)
		return
	}
	defer container.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{container, from}, {from, container}} {
		both.Go(func() {
			_, err := io.Copy(way[0], way[1])
			if w, ok := way[0].(*net.TCPConn); ok && err == nil {
				_ = w.CloseWrite()
				return
			}
			// One side is gone without a word, so the other has to go.
			reset(way[0])
			reset(way[1])
		})
	}
	both.Wait()
}

// reset ends a connection as it is when nobody listens.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.SetDeadline(time.Unix(1, 0))
	_ = c.Close()
}
