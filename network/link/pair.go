package link

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/tarnfs/tarn/internal/sys"
)

// Pair is a container's link to a bridge: two devices, what goes into one comes out of the other.
type Pair struct {
	Host      string // the name of the host's end
	Bridge    string // that the host's end is a port of
	Name      string // of the container's end
	MAC       net.HardwareAddr
	Addresses []netip.Prefix // the container's, with the length of the network's prefix
	Gateways  []netip.Addr   // of the default routes, at most one for IPv4 and one for IPv6
	// Hairpin has what the container sends to itself by way of the host come back to it.
	Hairpin bool
	// Isolated keeps it from other isolated ports of the bridge.
	Isolated bool
}

// Connect makes the link into a network namespace. With an error there is none.
func (p *Pair) Connect(namespace *os.File) (err error) {
	bridge, err := netlink.LinkByName(p.Bridge)
	if err != nil {
		return explained("look for bridge "+p.Bridge, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = p.Host, bridge.Attrs().MTU, bridge.Attrs().Index, net.FlagUp
	attrs.HardwareAddr = randomMAC()
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: p.Name, PeerHardwareAddr: p.MAC, PeerNamespace: netlink.NsFd(int(namespace.Fd())),
	}
	err = netlink.LinkAdd(veth)
	if errors.Is(err, syscall.EEXIST) {
		// The container's of before, whose network namespace the kernel has not taken apart yet.
		if err = Disconnect(p.Host); err == nil {
			err = netlink.LinkAdd(veth)
		}
	}
	if err != nil {
		return explained("make link "+p.Host, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, Disconnect(p.Host))
		}
	}()
	if p.Hairpin {
		if err := netlink.LinkSetHairpin(veth, true); err != nil {
			return explained("set up link "+p.Host, err)
		}
	}
	if p.Isolated {
		if err := netlink.LinkSetIsolated(veth, true); err != nil {
			return explained("isolate link "+p.Host, err)
		}
	}
	return explained("set up "+p.Name+" in the container", InNamespace(namespace, p.configure))
}

// configure sets up the container's end, on a thread in its namespace.
func (p *Pair) configure() error {
	v6 := slices.ContainsFunc(p.Addresses, func(a netip.Prefix) bool { return a.Addr().Is6() })
	if err := Sysctl("ipv6/conf/"+p.Name+"/disable_ipv6", digit(!v6)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if v6 {
		// Nobody else has the address that follows from ours, and frames that come back are no proof.
		if err := Sysctl("ipv6/conf/"+p.Name+"/accept_dad", "0"); err != nil {
			return err
		}
	}
	h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(p.Name)
	if err != nil {
		return err
	}
	for _, a := range p.Addresses {
		if err := h.AddrAdd(l, address(a)); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	if err := h.LinkSetUp(l); err != nil {
		return err
	}
	for _, g := range p.Gateways {
		if err := h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: g.AsSlice()}); err != nil {
			return fmt.Errorf("add route by %s: %w", g, err)
		}
	}
	return nil
}

// Disconnect removes a link by the name of the host's end, if it is there. When it returns, nothing
// comes through it any more.
func Disconnect(host string) error {
	l, err := netlink.LinkByName(host)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return explained("remove link "+host, err)
}

// InNamespace does something on a thread in another network namespace: what it opens stays there. The
// thread ends with it.
func InNamespace(namespace *os.File, do func() error) error {
	result := make(chan error, 1)
	sys.OnOwnThread(func() {
		err := sys.Setns(namespace, sys.NewNet)
		if err == nil {
			err = do()
		}
		result <- err
	})
	return <-result
}

// MAC gives the hardware address that goes with an IPv4 address: whoever gets a container's address
// after it has the same one, so that nobody who knew the one before is wrong. Docker did the same.
func MAC(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// randomMAC is locally administered, and no group's.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac) // it does not fail
	mac[0] = mac[0]&^1 | 2
	return mac
}

// AddGateways adds default routes by a device in a network namespace, if there are none.
func AddGateways(namespace *os.File, device string, gateways []netip.Addr) error {
	return explained("add routes by "+device, InNamespace(namespace, func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		for _, g := range gateways {
			err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: g.AsSlice()})
			if err != nil && !errors.Is(err, syscall.EEXIST) {
				return fmt.Errorf("add route by %s: %w", g, err)
			}
		}
		return nil
	}))
}
