package link

import (
	"syscall"

	"github.com/vishvananda/netlink"
)

// ForgetUDP has the kernel forget the flows to a port of UDP: where a flow goes is decided by its first packet,
// which may have been before the port led to where it does now. If that fails, flows that are older than
// the port end by themselves, when nobody has sent anything for half a minute.
func ForgetUDP(port uint16) {
	filter := &netlink.ConntrackFilter{}
	if filter.AddProtocol(syscall.IPPROTO_UDP) != nil || filter.AddPort(netlink.ConntrackOrigDstPort, port) != nil {
		return
	}
	for _, family := range []netlink.InetFamily{syscall.AF_INET, syscall.AF_INET6} {
		_, _ = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
	}
}
