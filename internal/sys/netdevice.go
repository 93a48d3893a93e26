package sys

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// NetAddresses are the addresses of a network device that are to stay with it: those for good and of global scope.
type NetAddresses []syscall.NetlinkMessage

// MoveNetDevice moves a network device from the calling thread's network namespace to another one, where its name is
// then newName; "%d" in that stands for a number the kernel chooses. The kernel takes its addresses away, for
// [AdoptNetDevice] to give it again. (rtnetlink(7).)
func MoveNetDevice(name, newName string, to *os.File) (NetAddresses, error) {
	links, err := NetDevices()
	if err != nil {
		return nil, err
	}
	index, ok := links[name]
	if !ok {
		return nil, fmt.Errorf("network device %s: %w", name, os.ErrNotExist)
	}
	addresses, err := addressesOf(index)
	if err != nil {
		return nil, err
	}
	attrs := netAttr(unix.IFLA_IFNAME, append([]byte(newName), 0))
	attrs = append(attrs, netAttr(unix.IFLA_NET_NS_FD, binary.NativeEndian.AppendUint32(nil, uint32(to.Fd())))...)
	if err := netRequest(unix.RTM_NEWLINK, 0, linkMessage(index, 0), attrs); err != nil {
		return nil, fmt.Errorf("move network device %s, as %s: %w", name, newName, err)
	}
	return addresses, nil
}

// AdoptNetDevice turns on the device that was moved to the calling thread's network namespace, with its addresses.
// known are the devices that were there before; it is added to them.
func AdoptNetDevice(known map[string]int, addresses NetAddresses) error {
	links, err := NetDevices()
	if err != nil {
		return err
	}
	for name, index := range links {
		if _, ok := known[name]; ok {
			continue
		}
		for _, a := range addresses {
			binary.NativeEndian.PutUint32(a.Data[4:8], uint32(index)) // ifaddrmsg.ifa_index
			if err := netRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a.Data, nil); err != nil {
				return fmt.Errorf("network device %s: address: %w", name, err)
			}
		}
		if err := netRequest(unix.RTM_NEWLINK, 0, linkMessage(index, unix.IFF_UP), nil); err != nil {
			return fmt.Errorf("network device %s: turn on: %w", name, err)
		}
		known[name] = index
	}
	return nil
}

// NetDevices gives the indexes of the devices of the calling thread's network namespace by their names. The thread's:
// what package net has is that of any.
func NetDevices() (map[string]int, error) {
	messages, err := netDump(unix.RTM_GETLINK, unix.RTM_NEWLINK, unix.SizeofIfInfomsg)
	if err != nil {
		return nil, err
	}
	links := make(map[string]int)
	for _, m := range messages {
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return nil, fmt.Errorf("list network devices: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_IFNAME && len(a.Value) > 0 {
				links[string(a.Value[:len(a.Value)-1])] = int(binary.NativeEndian.Uint32(m.Data[4:8]))
			}
		}
	}
	return links, nil
}

// addressesOf gives the addresses of a device that stay: RFC 3549, 2.3.3.2 has their form.
func addressesOf(index int) (NetAddresses, error) {
	messages, err := netDump(unix.RTM_GETADDR, unix.RTM_NEWADDR, unix.SizeofIfAddrmsg)
	if err != nil {
		return nil, err
	}
	var kept NetAddresses
	for _, m := range messages {
		flags, scope, at := m.Data[2], m.Data[3], binary.NativeEndian.Uint32(m.Data[4:8])
		if int(at) == index && flags&unix.IFA_F_PERMANENT != 0 && scope == unix.RT_SCOPE_UNIVERSE {
			kept = append(kept, m)
		}
	}
	return kept, nil
}

// netDump asks for a whole table, and gives its entries, which are at least so long.
func netDump(ask int, kind uint16, least int) ([]syscall.NetlinkMessage, error) {
	text, err := syscall.NetlinkRIB(ask, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(text)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	var entries []syscall.NetlinkMessage
	for _, m := range messages {
		if m.Header.Type == kind && len(m.Data) >= least {
			entries = append(entries, m)
		}
	}
	return entries, nil
}

// linkMessage is a struct ifinfomsg that sets flags.
func linkMessage(index int, flags uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:8], uint32(index))
	binary.NativeEndian.PutUint32(b[8:12], flags)
	binary.NativeEndian.PutUint32(b[12:16], flags) // which of them are meant
	return b
}

// netAttr is a struct rtattr with its value.
func netAttr(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, -len(b)&3)...)
}

// netRequest makes one change in the calling thread's network namespace, and waits for the kernel's answer.
func netRequest(kind uint16, flags int, body, attrs []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing to lose
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)+len(attrs)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags))
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number and port
	b = append(append(b, body...), attrs...)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	answer := make([]byte, os.Getpagesize())
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(answer[:n])
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	for _, m := range messages { // struct nlmsgerr: 0 is well
		if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
			if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
				return syscall.Errno(errno)
			}
		}
	}
	return nil
}
