// Package firewall keeps the host's packet filter as networks need it: one table "tarn" of nftables, which
// nobody else's rules know of, and which touches no packet that has nothing to do with a network of ours. (In
// iptables' own chains it adds two rules for each network, and only where those would drop all: see foreign.go.)
//
// A network has two chains, which decide by its bridge about what is forwarded to it and which addresses are
// translated; a published port is one element of a map. So adding and removing are one transaction each,
// and exact. docs/architecture.md of networks is docs/networks.md; the rules as nft(8) prints them are in its
// section "The packet filter".
package firewall

import (
	"errors"
	"net/netip"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/tarnfs/tarn/network/internal/explain"
)

// ErrUnable is wrapped when the kernel has no nftables, or this program may not use it.
var ErrUnable = errors.New("no packet filter")

// Network is what the filter has to know of a network.
type Network struct {
	ID     string // names its chains
	Bridge string
	// Internal keeps its containers from all but each other and the host.
	Internal bool
	Subnets  []netip.Prefix
	// Masquerade has what leaves it seem to come from the host.
	Masquerade bool
}

// Port is a port of the host that leads to a container.
type Port struct {
	HostIP   netip.Addr // the invalid one is all of IPv4, unspecified IPv6 all of IPv6
	HostPort uint16
	Proto    uint8 // IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP
	To       netip.AddrPort
}

const (
	tableName    = "tarn"
	forwardMap   = "forward" // bridge : chain
	natMap       = "nat"     // bridge : chain
	bridgeSet    = "bridges"
	publishedMap = "published" // of all addresses
	boundMap     = "bound"     // of one
)

// Ensure makes a network's chains, and the table, unless they are there, and has other's chains admit its packets (see
// foreign.go). It reports whether they had to be made: then nothing is published any more.
func Ensure(n Network) (made bool, err error) {
	c, err := nftables.New()
	if err != nil {
		return false, explained("set up network "+n.Bridge, err)
	}
	if err := changeForeign(c, n.Bridge, admit); err != nil {
		return false, err
	}
	// It is made in the transaction that makes all else. Why it cannot be listed, the library does not say
	// so that it could be told apart; if it is not that it is missing, what follows fails as well.
	if _, err = c.ListChain(table(), natChain(n.ID)); err == nil {
		return false, nil
	}
	_, err = c.ListTableOfFamily(tableName, nftables.TableFamilyINet)
	fresh := err != nil
	if fresh {
		if err := addTable(c); err != nil {
			return false, explained("set up table "+tableName, err)
		}
	}
	if err := addNetwork(c, n); err != nil {
		return false, explained("set up network "+n.Bridge, err)
	}
	if err := c.Flush(); errors.Is(err, syscall.EEXIST) {
		return false, nil // another tarn did, in this moment
	} else if err != nil {
		return false, explained("set up network "+n.Bridge, err)
	}
	return true, nil
}

// Remove takes a network's chains away. It does nothing if they are not there.
func Remove(n Network) error {
	c, err := nftables.New()
	if err != nil {
		return explained("remove network "+n.Bridge, err)
	}
	for _, m := range []*nftables.Set{verdicts(forwardMap), verdicts(natMap), bridges()} {
		e := nftables.SetElement{Key: ifname(n.Bridge)}
		if m.IsMap {
			chain := forwardChain(n.ID)
			if m.Name == natMap {
				chain = natChain(n.ID)
			}
			e.VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}
		}
		if err := c.SetDeleteElements(m, []nftables.SetElement{e}); err != nil {
			return err
		}
	}
	for _, name := range []string{forwardChain(n.ID), natChain(n.ID)} {
		c.DelChain(&nftables.Chain{Table: table(), Name: name})
	}
	return errors.Join(explained("remove network "+n.Bridge, ignoreMissing(c.Flush())), changeForeign(c, n.Bridge, dismiss))
}

// Publish leads ports of the host to containers, all of them or none.
func Publish(ports []Port) error { return changePorts(ports, (*nftables.Conn).SetAddElements) }

// Unpublish takes ports back. Those that are not there do not matter.
func Unpublish(ports []Port) error {
	err := changePorts(ports, (*nftables.Conn).SetDeleteElements)
	if !errors.Is(err, syscall.ENOENT) || len(ports) == 1 {
		return ignoreMissing(err)
	}
	// One of them is not there, so nothing was done.
	var errs []error
	for _, p := range ports {
		errs = append(errs, ignoreMissing(changePorts([]Port{p}, (*nftables.Conn).SetDeleteElements)))
	}
	return errors.Join(errs...)
}

func changePorts(ports []Port, change func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	if len(ports) == 0 {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return explained("publish ports", err)
	}
	elements := make(map[string][]nftables.SetElement)
	sets := make(map[string]*nftables.Set)
	for _, p := range ports {
		m, e := portElement(p)
		sets[m.Name], elements[m.Name] = m, append(elements[m.Name], e)
	}
	for name, m := range sets {
		if err := change(c, m, elements[name]); err != nil {
			return err
		}
	}
	return explained("publish ports", c.Flush())
}

// portElement gives the map that a port goes into, and its element there.
func portElement(p Port) (*nftables.Set, nftables.SetElement) {
	bound := p.HostIP.IsValid() && !p.HostIP.IsUnspecified()
	v6 := p.To.Addr().Is6()
	var key []byte
	if bound {
		key = p.HostIP.AsSlice()
	}
	key = append(append(key, p.Proto, 0, 0, 0), port(p.HostPort)...)
	return ports(bound, v6), nftables.SetElement{Key: key, Val: append(p.To.Addr().AsSlice(), port(p.To.Port())...)}
}

// port is in network byte order, and padded to a register's size.
func port(n uint16) []byte { return []byte{byte(n >> 8), byte(n), 0, 0} }

func ignoreMissing(err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

func explained(what string, err error) error {
	return explain.Kernel{
		Unable: ErrUnable, Part: "nftables, or a part of it", Absent: []syscall.Errno{syscall.EPROTONOSUPPORT, syscall.EOPNOTSUPP, syscall.EINVAL},
	}.Error(what, err)
}
