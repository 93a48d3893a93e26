package firewall

import (
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

func table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

func forwardChain(id string) string { return "forward-" + id }
func natChain(id string) string     { return "nat-" + id }

// verdicts is a map from bridges to what is to be done.
func verdicts(name string) *nftables.Set {
	return &nftables.Set{Table: table(), Name: name, IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict, KeyByteOrder: binaryutil.NativeEndian}
}

func bridges() *nftables.Set {
	return &nftables.Set{Table: table(), Name: bridgeSet, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
}

// ports is a map from ports of the host to those of containers.
func ports(bound, v6 bool) *nftables.Set {
	name, address := publishedMap, nftables.TypeIPAddr
	if v6 {
		address = nftables.TypeIP6Addr
	}
	keys := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
	if bound {
		name, keys = boundMap, append([]nftables.SetDatatype{address}, keys...)
	}
	if v6 {
		name += "6"
	} else {
		name += "4"
	}
	return &nftables.Set{
		Table: table(), Name: name, IsMap: true, Concatenation: true,
		KeyType: nftables.MustConcatSetType(keys...), DataType: nftables.MustConcatSetType(address, nftables.TypeInetService),
	}
}

// addTable makes the table, with what all networks share.
func addTable(c *nftables.Conn) error {
	t := c.AddTable(table())
	for _, s := range []*nftables.Set{
		verdicts(forwardMap), verdicts(natMap), bridges(), ports(false, false), ports(true, false), ports(false, true), ports(true, true),
	} {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	add := func(chain *nftables.Chain, rules ...[]expr.Any) {
		chain.Table = t
		c.AddChain(chain)
		for _, exprs := range rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: exprs})
		}
	}
	published := &nftables.Chain{Name: "published"}
	add(published, translate(true, false), translate(false, false), translate(true, true), translate(false, true))
	// The bridges let in what is for 127.0.0.1 (route_localnet): that is the host's own.
	add(base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw),
		concat(iif(), []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: bridgeSet}}, toLoopback(), verdict(expr.VerdictDrop, "")))
	// What comes for 127.0.0.1 from elsewhere than the host is not let through to a port published there.
	add(base("in", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
		concat(toLoopback(), verdict(expr.VerdictReturn, "")),
		concat(toHost(), verdict(expr.VerdictJump, published.Name)))
	// What comes from ::1 the kernel lets go nowhere else: the port's own socket takes it, see package proxy.
	add(base("local", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest),
		concat(within(netip.MustParsePrefix("::1/128"), 24), verdict(expr.VerdictReturn, "")),
		concat(toHost(), verdict(expr.VerdictJump, published.Name)))
	add(base("between", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter),
		concat(iif(), choose(forwardMap)), concat(oif(), choose(forwardMap)))
	add(base("out", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource),
		concat(iif(), choose(natMap)), concat(oif(), choose(natMap)))
	return nil
}

func base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	return &nftables.Chain{Name: name, Type: kind, Hooknum: hook, Priority: priority}
}

// addNetwork makes a network's chains, and leads to them.
func addNetwork(c *nftables.Conn, n Network) error {
	t := table()
	forward, nat := &nftables.Chain{Table: t, Name: forwardChain(n.ID)}, &nftables.Chain{Table: t, Name: natChain(n.ID)}
	c.AddChain(forward)
	c.AddChain(nat)
	for _, exprs := range forwardRules(n) {
		c.AddRule(&nftables.Rule{Table: t, Chain: forward, Exprs: exprs})
	}
	for _, exprs := range natRules(n) {
		c.AddRule(&nftables.Rule{Table: t, Chain: nat, Exprs: exprs})
	}
	key := ifname(n.Bridge)
	for name, chain := range map[string]string{forwardMap: forward.Name, natMap: nat.Name} {
		element := nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
		if err := c.SetAddElements(verdicts(name), []nftables.SetElement{element}); err != nil {
			return err
		}
	}
	return c.SetAddElements(bridges(), []nftables.SetElement{{Key: key}})
}

// forwardRules: the chain sees what comes in by the bridge, and then what goes out by it.
func forwardRules(n Network) [][]expr.Any {
	from, to := concat(iif(), equal(ifname(n.Bridge))), concat(oif(), equal(ifname(n.Bridge)))
	rules := [][]expr.Any{concat(from, to, verdict(expr.VerdictAccept, ""))}
	if n.Internal {
		return append(rules, verdict(expr.VerdictDrop, ""))
	}
	return append(rules,
		concat(from, verdict(expr.VerdictReturn, "")),
		concat(state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept, "")),
		concat(published(), verdict(expr.VerdictAccept, "")),
		verdict(expr.VerdictDrop, ""))
}

// natRules: the chain sees what came in by the bridge, and what goes out by it.
func natRules(n Network) [][]expr.Any {
	from, to := concat(iif(), equal(ifname(n.Bridge))), concat(oif(), equal(ifname(n.Bridge)))
	away := concat(oif(), []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: ifname(n.Bridge)}})
	// Who reaches a neighbour, or itself, through a port of the host must get the answers the same way back; so
	// must the host, whose 127.0.0.1 nobody could answer. (What stays on the bridge has no device here that it
	// came in by, where the bridge asks the packet filter: bridge-nf-call-iptables.)
	rules := [][]expr.Any{
		concat(to, published(), source(netip.MustParsePrefix("127.0.0.0/8")), masquerade()),
	}
	for _, subnet := range n.Subnets {
		rules = append(rules, concat(to, published(), source(subnet), masquerade()))
		if n.Masquerade && !n.Internal {
			rules = append(rules, concat(from, away, source(subnet), masquerade()))
		}
	}
	return rules
}

// translate leads to a container what is for a port of the host.
func translate(bound, v6 bool) []expr.Any {
	// Registers have 4 bytes here, from number 8 on: the key's parts follow each other.
	const first = 8
	reg, proto, offset, size, words := uint32(first), byte(ipv4), uint32(16), uint32(4), uint32(1)
	if v6 {
		proto, offset, size, words = ipv6, 24, 16, 4
	}
	exprs := family(proto)
	if bound {
		exprs = append(exprs, &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
		reg += words
	}
	return append(exprs,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Payload{DestRegister: reg + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: first, DestRegister: first, IsDestRegSet: true, SetName: ports(bound, v6).Name},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: uint32(proto), RegAddrMin: first, RegProtoMin: first + words, Specified: true,
		})
}

// NFPROTO_IPV4 and NFPROTO_IPV6 of linux/netfilter.h.
const (
	ipv4 = 2
	ipv6 = 10
)

func concat(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// All rules keep what they look at in register 1.
func iif() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}}
}

func oif() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}}
}

func equal(data []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}

// choose does what a map of verdicts says of register 1.
func choose(name string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: name}}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

func family(proto byte) []expr.Any {
	return concat([]expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}}, equal([]byte{proto}))
}

// source is for packets that come from an address of a subnet.
func source(p netip.Prefix) []expr.Any {
	if p.Addr().Is6() {
		return within(p, 8)
	}
	return within(p, 12)
}

// toLoopback is for packets of IPv4 to 127.0.0.0/8.
func toLoopback() []expr.Any { return within(netip.MustParsePrefix("127.0.0.0/8"), 16) }

// within is for packets whose address at an offset of the header is in a subnet.
func within(p netip.Prefix, offset uint32) []expr.Any {
	proto, size := byte(ipv4), uint32(4)
	if p.Addr().Is6() {
		proto, size = ipv6, 16
	}
	return concat(family(proto),
		[]expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, size)},
		},
		equal(p.Masked().Addr().AsSlice()))
}

// toHost is for packets whose destination is an address of the host.
func toHost() []expr.Any {
	const local = 2 // RTN_LOCAL of linux/rtnetlink.h
	return concat([]expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}},
		equal(binaryutil.NativeEndian.PutUint32(local)))
}

// state is for packets of connections in one of these states.
func state(bits uint32) []expr.Any { return connection(expr.CtKeySTATE, bits) }

// published is for packets whose destination was changed.
func published() []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
	return connection(expr.CtKeySTATUS, dnat)
}

func connection(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// ifname is the name of a device as the kernel compares it: IFNAMSIZ bytes.
func ifname(name string) []byte {
	b := make([]byte, 16)
	copy(b, name)
	return b
}
