package monitor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/network/dns"
	"github.com/tarnfs/tarn/network/proxy"
)

// holdNetworks keeps what the container has of networks, and answers when it asks for names.
func (m *monitor) holdNetworks(ctx context.Context) error {
	for _, fd := range m.cfg.Held {
		syscall.CloseOnExec(fd)
	}
	for _, p := range m.cfg.Proxied {
		l, err := net.FileListener(takeFile(p.Socket))
		if err != nil {
			return err
		}
		go proxy.Serve(ctx, l, p.To)
	}
	if m.cfg.NamesUDP == 0 {
		return nil
	}
	server := &dns.Server{Zone: &dns.Zone{Run: m.cfg.NamesRun, Container: m.cfg.ID}, Upstream: m.cfg.NameServers}
	udp, err := net.FilePacketConn(takeFile(m.cfg.NamesUDP))
	if err != nil {
		return err
	}
	tcp, err := net.FileListener(takeFile(m.cfg.NamesTCP))
	if err != nil {
		return err
	}
	go server.ServeUDP(ctx, udp)
	go server.ServeTCP(ctx, tcp)
	return nil
}

// takeFile makes a file of a descriptor that was passed on, to be passed on within this program.
func takeFile(fd int) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "socket")
}

// Proxied is a listening socket, and where its connections are passed on to.
type Proxied struct {
	Socket int
	To     netip.AddrPort
}

// String is "SOCKET@ADDRESS".
func (p Proxied) String() string { return strconv.Itoa(p.Socket) + "@" + p.To.String() }

func parseProxied(text string) (p Proxied, err error) {
	socket, to, found := strings.Cut(text, "@")
	if !found {
		return p, fmt.Errorf("%w: %q", errArguments, text)
	}
	if p.Socket, err = strconv.Atoi(socket); err != nil {
		return p, err
	}
	p.To, err = netip.ParseAddrPort(to)
	return p, err
}
