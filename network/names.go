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
	udp, tcp, err := listenForNames(namespace)
	if err != nil {
		return err
	}
	a.names = append(a.names, udp, tcp)
	s := &dns.Server{Zone: &dns.Zone{Run: a.networks.run, Container: filepath.Base(a.keeper.path)}, Upstream: upstream}
	ctx = context.WithoutCancel(ctx)
	go s.ServeUDP(ctx, udp)
	go s.ServeTCP(ctx, tcp)
	return nil
}

// ListenForNames gives the files of [Kept] that the keeper of a container needs to answer its questions for names, for one
// that did not do so from the beginning.
func (ns *Networks) ListenForNames(namespace *os.File) (k Kept, err error) {
	udp, tcp, err := listenForNames(namespace)
	if err != nil {
		return k, err
	}
	defer udp.Close()
	defer tcp.Close()
	k.Run = ns.run
	if k.UDP, err = udp.File(); err == nil {
		k.TCP, err = tcp.File()
	}
	return k, err
}

// listenForNames makes sockets for a container's questions.
func listenForNames(namespace *os.File) (udp *net.UDPConn, tcp *net.TCPListener, err error) {
	err = link.InNamespace(namespace, func() (err error) {
		at := netip.AddrPortFrom(NameServer(), 0)
		if udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at)); err != nil {
			return err
		}
		tcp, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
		return err
	})
	if err == nil {
		// The sockets are not at port 53, which a name server in the container may want.
		err = unable(firewall.RedirectNames(namespace, NameServer(), portOf(udp.LocalAddr()), portOf(tcp.Addr())))
	}
	if err == nil {
		return udp, tcp, nil
	}
	if udp != nil {
		_ = udp.Close()
	}
	if tcp != nil {
		_ = tcp.Close()
	}
	return nil, nil, err
}

func portOf(a net.Addr) uint16 {
	p, _ := netip.ParseAddrPort(a.String()) // it is one
	return p.Port()
}
