package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/network/dns"
	"github.com/tarnfs/tarn/network/firewall"
	"github.com/tarnfs/tarn/network/link"
	"github.com/tarnfs/tarn/network/proxy"
)

// Request is a container's wish to be in a network.
type Request struct {
	Network    *Network
	IPv4, IPv6 netip.Addr       // invalid: any
	MAC        net.HardwareAddr // nil: any
	Aliases    []string         // names besides the container's own
}

// Sandbox is who is to be in networks.
type Sandbox struct {
	Container string // ID
	Name      string
}

// Attachment is what a container has of networks, kept by this process: when it ends, by whatever death,
// the ports of the host are free, and the rest is collected.
type Attachment struct {
	networks *Networks
	keeper   *keeper
	places   []place
	bindings []binding
	names    []io.Closer // sockets of the name server
	beside   *Beside     // in place of places; nil for none
}

// place is a container's in one network.
type place struct {
	Endpoint
	network *Network
}

// Attach gives a container addresses and ports, all it wants or nothing. Of its network namespace
// nothing needs to be there yet: [Attachment.Connect] makes the links into it. The caller closes the
// Attachment.
func (ns *Networks) Attach(ctx context.Context, s Sandbox, requests []Request, ports []PortMapping) (a *Attachment, err error) {
	a = &Attachment{networks: ns}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
			a = nil
		}
	}()
	if len(ports) > 0 {
		if err := a.bind(ctx, requests, ports); err != nil {
			return a, err
		}
	}
	if a.keeper, err = ns.keep(ctx, s.Container); err != nil {
		return a, err
	}
	var m dns.Memberships
	for _, r := range requests {
		m.Networks = append(m.Networks, membership(r.Network))
	}
	if err := overwrite(a.keeper.file, m); err != nil {
		return a, err
	}
	for i, r := range requests {
		e, err := ns.join(ctx, s, r, "eth"+strconv.Itoa(i))
		if err != nil {
			return a, err
		}
		a.places = append(a.places, place{*e, r.Network})
	}
	return a, a.publish(ctx)
}

func membership(n *Network) dns.Membership {
	return dns.Membership{ID: n.ID, Name: n.Name, Resolves: n.Resolves(), Internal: n.Internal}
}

// bind binds the ports, which are those of the first network that leads out.
func (a *Attachment) bind(ctx context.Context, requests []Request, ports []PortMapping) (err error) {
	i := slices.IndexFunc(requests, func(r Request) bool { return !r.Network.Internal })
	if i < 0 {
		return fmt.Errorf("%w: no port can be published: the container is in internal networks only", ErrInvalid)
	}
	n := requests[i].Network
	if host, err := netip.ParseAddr(n.Options[optHostBinding]); err == nil {
		ports = slices.Clone(ports)
		for i := range ports {
			if !ports[i].HostIP.IsValid() {
				ports[i].HostIP = host
			}
		}
	}
	_, v6 := n.IPv6()
	a.bindings, err = a.networks.bindAll(ctx, ports, v6)
	return err
}

// join makes the network ready, and claims a place in it.
func (ns *Networks) join(ctx context.Context, s Sandbox, r Request, name string) (*Endpoint, error) {
	dir, err := ns.openRun(ctx, r.Network, false)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := ns.ensure(r.Network); err != nil {
		return nil, err
	}
	e := &Endpoint{
		Container: s.Container, Name: s.Name, Network: r.Network.ID, Interface: name,
	}
	e.Device = "tv" + e.ID()[:12]
	if r.MAC != nil {
		e.MAC = r.MAC.String()
	}
	if r.Network.Resolves() {
		e.Names = append([]string{s.Name, s.Container[:12]}, r.Aliases...)
	}
	return e, ns.claim(r.Network, e, r.IPv4, r.IPv6)
}

// publish writes down which ports there are, then has the packet filter lead there.
func (a *Attachment) publish(ctx context.Context) error {
	if len(a.bindings) == 0 {
		return nil
	}
	p := &a.places[a.wayOut()]
	for _, b := range a.bindings {
		p.Ports = append(p.Ports, b.Published)
	}
	if err := a.networks.rewrite(&p.Endpoint); err != nil {
		return err
	}
	if err := a.networks.lead(p.rules()); err != nil {
		return err
	}
	for i, b := range a.bindings {
		if b.HostIP.Is6() {
			a.bindings[i].passOn(context.WithoutCancel(ctx), netip.AddrPortFrom(p.IPv4, b.ContainerPort))
		}
	}
	return nil
}

// passOn passes on what comes to the port's socket, until that is closed.
func (b *binding) passOn(ctx context.Context, to netip.AddrPort) {
	switch socket := b.socket.(type) {
	case net.Listener:
		go proxy.Serve(ctx, socket, to)
	case *net.UDPConn:
		go proxy.ServeUDP(ctx, socket, to)
	default:
		return
	}
	b.passedOn = to
}

// wayOut is the network by which the container reaches the rest of the world, -1 if none does.
func (a *Attachment) wayOut() int {
	return slices.IndexFunc(a.places, func(p place) bool { return !p.network.Internal })
}

// leadTime bounds how long a port's rule of a container that is dead is waited for to be taken away.
const leadTime = 2 * time.Second

// lead publishes ports that are ours alone: if there is a rule for one, whoever had it before is dead.
func (ns *Networks) lead(ports []firewall.Port) error {
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		err := firewall.Publish(ports)
		if err == nil {
			forgetFlows(ports)
			return nil
		}
		if !errors.Is(err, syscall.EEXIST) && !errors.Is(err, syscall.EBUSY) {
			return unable(err)
		}
		if time.Since(begun) > leadTime {
			return fmt.Errorf("port is %w: %w", ErrTaken, err)
		}
		if err := ns.Collect(); err != nil {
			return err
		}
	}
}

func forgetFlows(ports []firewall.Port) {
	for _, p := range ports {
		if p.Proto == protocols()["udp"] {
			link.ForgetUDP(p.HostPort)
		}
	}
}

// Connect makes the links into the container's network namespace.
func (a *Attachment) Connect(namespace *os.File) error {
	for i := range a.places {
		p := &a.places[i]
		if err := p.connect(namespace, i == a.wayOut()); err != nil {
			return fmt.Errorf("network %s: %w", p.network.Name, unable(err))
		}
	}
	return nil
}

func (p *place) connect(namespace *os.File, wayOut bool) error {
	l := &link.Pair{
		Host: p.Device, Bridge: p.network.Device, Name: p.Interface, MAC: p.hardwareAddr(),
		Hairpin: len(p.Ports) > 0, Isolated: !p.network.boolOption(optICC, true),
	}
	for _, s := range p.network.Subnets {
		address := p.IPv4
		if s.Subnet.Addr().Is6() {
			address = p.IPv6
		}
		l.Addresses = append(l.Addresses, netip.PrefixFrom(address, s.Subnet.Bits()))
		if wayOut {
			l.Gateways = append(l.Gateways, s.Gateway)
		}
	}
	return l.Connect(namespace)
}

// Endpoints are the container's places in its networks.
func (a *Attachment) Endpoints() []Endpoint {
	var list []Endpoint
	for _, p := range a.places {
		list = append(list, p.Endpoint)
	}
	if a.beside != nil {
		list = append(list, a.beside.Endpoint)
	}
	return list
}

// Host is the address at which the container reaches the host by pasta; invalid if it does not.
func (a *Attachment) Host() netip.Addr {
	if a == nil || a.beside == nil {
		return netip.Addr{}
	}
	return a.beside.Host
}

// Close takes away what the container has. Its links go with its network namespace: to remove them takes
// the kernel longer, and nobody need wait for it.
func (a *Attachment) Close() error {
	if a == nil {
		return nil
	}
	var errs []error
	for _, socket := range a.names {
		errs = append(errs, socket.Close())
	}
	if a.keeper != nil {
		errs = append(errs, a.leave())
	}
	closeBindings(a.bindings)
	*a = Attachment{networks: a.networks}
	return errors.Join(errs...)
}

// leave takes away the places, also those that others have made for the container meanwhile, see
// [Networks.Join].
func (a *Attachment) leave() error {
	m, err := readMemberships(a.keeper.file)
	if err != nil {
		return err
	}
	id := filepath.Base(a.keeper.path)
	errs := []error{a.networks.endBeside(id, a.beside)}
	for _, n := range m.Networks {
		all, err := a.networks.allEndpoints(n.ID)
		errs = append(errs, err)
		for i := range all {
			if all[i].Container == id {
				errs = append(errs, a.networks.remove(&all[i]))
			}
		}
	}
	return errors.Join(append(errs, a.keeper.release())...)
}

// Of lists the places that a container has in networks, in the order of its interfaces. One that is dead
// has none.
func (ns *Networks) Of(container string) ([]Endpoint, error) {
	f, err := ns.openLive(container)
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := readKept(f)
	if err != nil {
		return nil, err
	}
	var list []Endpoint
	if m.Beside != nil {
		list = append(list, m.Beside.Endpoint)
	}
	for _, n := range m.Networks {
		all, err := ns.allEndpoints(n.ID)
		if err != nil {
			return nil, err
		}
		for _, e := range all {
			if e.Container == container {
				list = append(list, e)
			}
		}
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return cmp.Compare(a.Interface, b.Interface) })
	return list, nil
}
