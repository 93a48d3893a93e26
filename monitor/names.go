package monitor

import (
	"context"
	"net"
	"os"
	"syscall"

	"github.com/tarnfs/tarn/network/dns"
)

// holdNetworks keeps what the container has of networks, and answers when it asks for names.
func (m *monitor) holdNetworks(ctx context.Context) error {
	for _, fd := range m.cfg.Held {
		syscall.CloseOnExec(fd)
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
