package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	maxFlows  = 128              // of one port; the packets of more clients are lost
	flowIdle  = 90 * time.Second // in which neither side sent anything: the flow has ended (docker-proxy's time)
	maxPacket = 65535
)

// ServeUDP passes on packets, and the answers back to whom they are for, until the socket is closed.
func ServeUDP(ctx context.Context, c *net.UDPConn, to netip.AddrPort) {
	p := &packets{socket: c, to: to, flows: make(map[netip.AddrPort]net.Conn)}
	defer p.closeAll()
	buffer := make([]byte, maxPacket)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(acceptPause) // such as that an earlier answer was not wanted
			continue
		}
		flow := p.flow(ctx, from)
		if flow == nil {
			continue
		}
		_ = flow.SetReadDeadline(time.Now().Add(flowIdle))
		_, _ = flow.Write(buffer[:n]) // or it is lost, as packets are
	}
}

// packets is what passes through one port.
type packets struct {
	socket *net.UDPConn
	to     netip.AddrPort

	mu    sync.Mutex
	flows map[netip.AddrPort]net.Conn // by clients
}

// flow gives a client's socket to the container, nil if there cannot be one.
func (p *packets) flow(ctx context.Context, client netip.AddrPort) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flows[client]; f != nil {
		return f
	}
	if len(p.flows) >= maxFlows {
		return nil
	}
	f, err := (&net.Dialer{}).DialContext(ctx, "udp", p.to.String())
	if err != nil {
		return nil
	}
	_ = f.SetReadDeadline(time.Now().Add(flowIdle))
	p.flows[client] = f
	go p.answer(client, f)
	return f
}

// answer takes answers to a client until there are none for a time, or nobody listens in the container.
func (p *packets) answer(client netip.AddrPort, f net.Conn) {
	buffer := make([]byte, maxPacket)
	for {
		n, err := f.Read(buffer)
		if err != nil {
			break
		}
		_ = f.SetReadDeadline(time.Now().Add(flowIdle))
		_, _ = p.socket.WriteToUDPAddrPort(buffer[:n], client)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = f.Close()
	if p.flows[client] == f {
		delete(p.flows, client)
	}
}

func (p *packets) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.flows {
		_ = f.Close()
	}
}
