package network

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/tarnfs/tarn/network/dns"
	"github.com/tarnfs/tarn/network/firewall"
	"github.com/tarnfs/tarn/network/link"
)

// NameServer is the address at which a container finds the name server of its networks: Docker's.
func NameServer() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

// ServeNames has this process answer the container's questions for names at [NameServer]: of other
// containers of its networks, and with the help of upstream of all others. It does so until the Attachment
// is closed.
func (a *Attachment) ServeNames(ctx context.Context, namespace *os.File, upstream []netip.AddrPort) error {
	s := &dns.Server{Zone: &dns.Zone{Run: a.networks.run, Container: filepath.Base(a.keeper.path)}, Upstream: upstream}
	var udp *net.UDPConn
	var tcp net.Listener
	err := link.InNamespace(namespace, func() (err error) {
		at := netip.AddrPortFrom(NameServer(), 0)
		if udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at)); err != nil {
			return err
		}
		a.names = append(a.names, udp)
		if tcp, err = (&net.ListenConfig{}).Listen(ctx, "tcp4", at.String()); err == nil {
			a.names = append(a.names, tcp)
		}
		return err
	})
	if err != nil {
		return err
	}
	// The sockets are not at port 53, which a name server in the container may want.
	if err := firewall.RedirectNames(namespace, NameServer(), portOf(udp.LocalAddr()), portOf(tcp.Addr())); err != nil {
		return unable(err)
	}
	ctx = context.WithoutCancel(ctx)
	go s.ServeUDP(ctx, udp)
	go s.ServeTCP(ctx, tcp)
	return nil
}

func portOf(a net.Addr) uint16 {
	p, _ := netip.ParseAddrPort(a.String()) // it is one
	return p.Port()
}
