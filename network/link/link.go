// Package link makes the links of networks: bridges on the host, and pairs of virtual Ethernet devices
// from them to containers. It talks rtnetlink(7), and executes no program.
//
// A container's network namespace is given as an open file. Everything else happens in the namespace of
// this program.
package link

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/tarnfs/tarn/network/internal/explain"
)

var (
	// ErrForeign is wrapped when a device has the name that ours is to have.
	ErrForeign = errors.New("there is another device of that name")
	// ErrUnable is wrapped when the kernel, or what this program may do, does not suffice.
	ErrUnable = errors.New("no bridge")
)

// Bridge is the device that joins the containers of a network and the host.
type Bridge struct {
	Name  string
	Alias string // says whose it is: one without it is not touched
	// Addresses are the host's in the network, with the length of the network's prefix. There may be none.
	Addresses []netip.Prefix
	MTU       int // 0: that of the host's way out
}

// Ensure makes the bridge, unless it is there already.
func (b *Bridge) Ensure() error {
	l, err := netlink.LinkByName(b.Name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		if err = b.create(); errors.Is(err, syscall.EEXIST) {
			l, err = netlink.LinkByName(b.Name) // by another tarn, in this moment
		} else if err != nil {
			return explained("make bridge "+b.Name, err)
		} else {
			return nil
		}
	}
	switch {
	case err != nil:
		return explained("look for bridge "+b.Name, err)
	case l.Type() != "bridge" || l.Attrs().Alias != "" && l.Attrs().Alias != b.Alias:
		return fmt.Errorf("bridge %s: %w", b.Name, ErrForeign)
	case l.Attrs().Alias == "" || l.Attrs().Flags&net.FlagUp == 0:
		return explained("set up bridge "+b.Name, b.setUp(l)) // whoever began to make it was killed
	}
	return nil
}

func (b *Bridge) create() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = b.Name, cmp.Or(b.MTU, DefaultMTU())
	// Without an address of its own a bridge has the lowest of its ports', which come and go.
	attrs.HardwareAddr = randomMAC()
	l := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(l); err != nil {
		return err
	}
	return b.setUp(l)
}

// setUp gives the bridge all that it is to have; the alias, which says that it has, comes last but one.
func (b *Bridge) setUp(l netlink.Link) error {
	v6 := slices.ContainsFunc(b.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })
	for name, value := range map[string]string{
		"ipv6/conf/" + b.Name + "/disable_ipv6": digit(!v6),
		"ipv6/conf/" + b.Name + "/accept_ra":    "0",
		// What the host sends from 127.0.0.1 to a published port leaves by this bridge.
		"ipv4/conf/" + b.Name + "/route_localnet": "1",
	} {
		if err := Sysctl(name, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // without IPv6 there is nothing to be set
		}
	}
	for _, a := range b.Addresses {
		if err := netlink.AddrAdd(l, address(a)); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	if err := netlink.LinkSetAlias(l, b.Alias); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// Remove removes the bridge; one that is not there, or is another's, stays as it is.
func (b *Bridge) Remove() error {
	l, err := netlink.LinkByName(b.Name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err == nil && l.Type() == "bridge" && l.Attrs().Alias == b.Alias {
		err = netlink.LinkDel(l)
	}
	return explained("remove bridge "+b.Name, err)
}

// Exists tells whether there is a device of that name.
func Exists(name string) bool {
	_, err := os.Lstat(filepath.Join("/sys/class/net", filepath.Base(name)))
	if err == nil {
		return true
	}
	_, err = netlink.LinkByName(name) // where /sys is another network namespace's
	return err == nil
}

// Sysctl sets a value below /proc/sys/net, in the network namespace of the calling thread.
func Sysctl(name, value string) error {
	path := "/proc/sys/net/" + name
	if now, err := os.ReadFile(path); err == nil && string(now) == value+"\n" {
		return nil // it may be read-only, and right
	}
	return os.WriteFile(path, []byte(value), 0)
}

// Used lists the host's addresses and routes, but the default ones: what a new network must not overlap.
func Used() ([]netip.Prefix, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: 0}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, explained("list routes", err)
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, explained("list addresses", err)
	}
	var used []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		bits, _ := n.Mask.Size()
		if p := netip.PrefixFrom(addr.Unmap(), bits); ok && p.IsValid() && bits > 0 {
			used = append(used, p.Masked())
		}
	}
	for _, r := range routes {
		add(r.Dst)
	}
	for _, a := range addresses {
		add(a.IPNet)
	}
	return used, nil
}

// DefaultMTU is that of the device by which packets leave for the rest of the world, 1500 without one.
func DefaultMTU() int {
	const ethernet = 1500
	routes, err := defaultRoutes()
	if err != nil {
		return ethernet
	}
	for _, r := range routes {
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().MTU > 0 {
			return min(l.Attrs().MTU, 65535)
		}
	}
	return ethernet
}

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = noDAD // that it is nobody else's we know; to wait for it takes a second
	}
	return a
}

// noDAD is IFA_F_NODAD of linux/if_addr.h.
const noDAD = 0x02

// explained says what was done, and what it means that it may not be, or cannot.
func explained(what string, err error) error {
	return explain.Kernel{
		Unable: ErrUnable, Part: "bridge or veth", Absent: []syscall.Errno{syscall.EOPNOTSUPP, syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT},
	}.Error(what, err)
}

func digit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// Forward6 lets the host pass packets of IPv6 on. Interfaces that are configured by router advertisements
// ignore these when their host is a router itself, unless they are told otherwise; so they are.
//
// Source: accept_ra and forwarding in the kernel's Documentation/networking/ip-sysctl.rst.
func Forward6() error {
	const all = "ipv6/conf/all/forwarding"
	if now, err := os.ReadFile("/proc/sys/net/" + all); err == nil && string(now) == "1\n" {
		return nil
	}
	interfaces, err := os.ReadDir("/proc/sys/net/ipv6/conf")
	if err != nil {
		return explained("forward IPv6", err)
	}
	for _, i := range interfaces {
		name := "ipv6/conf/" + i.Name() + "/accept_ra"
		if now, err := os.ReadFile("/proc/sys/net/" + name); err != nil || string(now) != "1\n" || i.Name() == "all" {
			continue
		}
		if err := Sysctl(name, "2"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return Sysctl(all, "1")
}
