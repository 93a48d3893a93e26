package firewall

import (
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// RedirectNames has what a container sends to port 53 of an address arrive at other ports of it, over UDP
// and TCP. It is done in the container's network namespace, and ends with that.
func RedirectNames(namespace *os.File, server netip.Addr, udp, tcp uint16) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(namespace.Fd())))
	if err != nil {
		return explained("set up name resolution", err)
	}
	t := c.AddTable(table())
	chain := c.AddChain(&nftables.Chain{
		Table: t, Name: "names", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	for _, p := range []struct {
		proto byte
		to    uint16
	}{{17, udp}, {6, tcp}} {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: concat(
			family(ipv4),
			[]expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}},
			equal(server.AsSlice()),
			[]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}}, equal([]byte{p.proto}),
			[]expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}, equal([]byte{0, 53}),
			[]expr.Any{
				&expr.Immediate{Register: 1, Data: server.AsSlice()},
				&expr.Immediate{Register: 2, Data: port(p.to)[:2]},
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: ipv4, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
			})})
	}
	return explained("set up name resolution", c.Flush())
}
