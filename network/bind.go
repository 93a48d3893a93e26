package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// binding is a port of the host that this process holds as long as it is published: so that nobody else
// gets it, and that it is free in the moment in which this process is gone.
//
// What is sent to the port does not arrive at the socket: the packet filter leads it to the container. Only
// what the filter cannot lead there does, and is passed on by this process: what is for ::1, and what comes over IPv6
// for a container that has no address of IPv6.
type binding struct {
	Published
	socket io.Closer // nil for SCTP
	// passedOn is where this process passes on what comes to the socket; invalid if it does not.
	passedOn netip.AddrPort
}

// bindAll binds ports of the host, all or none.
func (ns *Networks) bindAll(ctx context.Context, mappings []PortMapping, v6 bool) (list []binding, err error) {
	defer func() {
		if err != nil {
			closeBindings(list)
			list = nil
		}
	}()
	for _, m := range mappings {
		bound, err := ns.bind(ctx, m, v6)
		if err != nil {
			return list, err
		}
		list = append(list, bound...)
	}
	return list, nil
}

func closeBindings(list []binding) {
	for _, b := range list {
		if b.socket != nil {
			_ = b.socket.Close()
		}
	}
}

// anyTries is how often any free port is tried, which may be free for IPv4 only.
const anyTries = 20

// bind binds the first of a mapping's ports of the host that is free.
func (ns *Networks) bind(ctx context.Context, m PortMapping, v6 bool) ([]binding, error) {
	if m.HostPort == 0 {
		var err error
		for range anyTries {
			var bound []binding
			if bound, err = bindPort(ctx, m, 0, v6); !errors.Is(err, syscall.EADDRINUSE) {
				return bound, err
			}
		}
		return nil, err
	}
	for port := m.HostPort; ; port++ {
		bound, err := bindPort(ctx, m, port, v6)
		if errors.Is(err, syscall.EADDRINUSE) && port < m.HostEnd {
			continue
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, ns.whoHas(m, port)
		}
		return bound, err
	}
}

// bindPort binds a port, or any, on all the addresses that a mapping means.
func bindPort(ctx context.Context, m PortMapping, port uint16, v6 bool) ([]binding, error) {
	if m.HostIP.IsValid() {
		b, err := bindAddress(ctx, m, m.HostIP, port)
		return []binding{b}, err
	}
	first, err := bindAddress(ctx, m, netip.IPv4Unspecified(), port)
	if err != nil || first.socket == nil && !v6 { // SCTP is never passed on
		return []binding{first}, err
	}
	second, err := bindAddress(ctx, m, netip.IPv6Unspecified(), first.HostPort)
	switch {
	case errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.EADDRNOTAVAIL):
		return []binding{first}, nil // the host has no IPv6
	case err != nil:
		closeBindings([]binding{first})
		return nil, err
	}
	return []binding{first, second}, nil
}

func bindAddress(ctx context.Context, m PortMapping, a netip.Addr, port uint16) (binding, error) {
	b := binding{Published: Published{HostIP: a, HostPort: port, ContainerPort: m.ContainerPort, Proto: m.Proto}}
	version := "4"
	if a.Is6() {
		version = "6"
	}
	at := netip.AddrPortFrom(a, port)
	var err error
	switch m.Proto {
	case "tcp":
		// Listening sockets exclude each other, and need not wait for the end of old connections.
		var l net.Listener
		if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp"+version, at.String()); err == nil {
			b.socket, b.HostPort = l, l.Addr().(*net.TCPAddr).AddrPort().Port() //nolint:forcetypeassert // it is TCP
		}
	case "udp":
		var c *net.UDPConn
		if c, err = net.ListenUDP("udp"+version, net.UDPAddrFromAddrPort(at)); err == nil {
			b.socket, b.HostPort = c, c.LocalAddr().(*net.UDPAddr).AddrPort().Port() //nolint:forcetypeassert // it is UDP
		}
	default:
		if port == 0 {
			return b, fmt.Errorf("%w: port %d/%s needs a port of the host", ErrInvalid, m.ContainerPort, m.Proto)
		}
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		err = fmt.Errorf("bind for %s failed: %w", at, errno)
	}
	return b, err
}

// whoHas says whose a port is, as Docker does.
func (ns *Networks) whoHas(m PortMapping, port uint16) error {
	at := netip.AddrPortFrom(m.HostIP, port)
	if !m.HostIP.IsValid() {
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	}
	keepers, err := os.ReadDir(ns.keepers())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, k := range keepers {
		places, err := ns.Of(k.Name())
		if err != nil {
			return err
		}
		for _, e := range places {
			for _, p := range e.Ports {
				if p.HostPort == port && p.Proto == m.Proto {
					return fmt.Errorf("bind for %s failed: port is %w (by container %s)", at, ErrTaken, e.Name)
				}
			}
		}
	}
	return fmt.Errorf("bind for %s failed: %w", at, os.NewSyscallError("bind", syscall.EADDRINUSE))
}
