package link

import (
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
)

// Seen is what somebody else has made in a network namespace: the device by which packets leave it.
type Seen struct {
	Device    string
	MAC       net.HardwareAddr
	Addresses []netip.Prefix // that are no link's
	Gateways  []netip.Addr   // of default routes
}

// defaultRoutes lists those of IPv4, then those of IPv6: a filter for both finds neither.
func defaultRoutes() ([]netlink.Route, error) {
	var list []netlink.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
		if err != nil {
			return nil, err
		}
		list = append(list, routes...)
	}
	return list, nil
}

// Look finds the device in a namespace by which default routes lead.
func Look(namespace *os.File) (s Seen, err error) {
	err = InNamespace(namespace, func() error {
		routes, err := defaultRoutes()
		if err != nil {
			return err
		}
		var device netlink.Link
		for _, r := range routes {
			gateway, ok := netip.AddrFromSlice(r.Gw)
			if !ok {
				continue
			}
			if device == nil {
				if device, err = netlink.LinkByIndex(r.LinkIndex); err != nil {
					return err
				}
			}
			s.Gateways = append(s.Gateways, gateway.Unmap())
		}
		if device == nil {
			return nil
		}
		s.Device, s.MAC = device.Attrs().Name, device.Attrs().HardwareAddr
		addresses, err := netlink.AddrList(device, netlink.FAMILY_ALL)
		for _, a := range addresses {
			if address, ok := netip.AddrFromSlice(a.IP); ok && !address.IsLinkLocalUnicast() {
				bits, _ := a.Mask.Size()
				s.Addresses = append(s.Addresses, netip.PrefixFrom(address.Unmap(), bits))
			}
		}
		return err
	})
	return s, explained("look into a network namespace", err)
}
