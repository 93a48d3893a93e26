package network

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
)

// last gives a prefix's last address.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// pools are where subnets are taken from if the user gives none: private addresses (RFC 1918) that
// neither Docker (172.17.0.0/16) nor podman (10.88.0.0/16, 10.89.0.0/16) begin with.
func pools(yield func(netip.Prefix) bool) {
	for i := range 14 {
		if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(18 + i), 0, 0}), 16)) {
			return
		}
	}
	for i := range 16 {
		if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(16 * i), 0}), 20)) {
			return
		}
	}
	for i := range 128 {
		if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + i), 0, 0}), 16)) {
			return
		}
	}
}

// freeSubnet gives a subnet of IPv4 that overlaps with none of these.
func freeSubnet(used []netip.Prefix) (netip.Prefix, error) {
	for p := range pools {
		if overlapping(p, used) == (netip.Prefix{}) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w: all private ranges of addresses are in use on this machine: use --subnet", ErrTaken)
}

// localSubnet gives the subnet of IPv6 that a network gets if the user gives none: one of its own among
// the unique local ones (RFC 4193), by the network's ID.
func localSubnet(id string) netip.Prefix {
	sum := sha256.Sum256([]byte(id))
	var b [16]byte
	b[0] = 0xfd
	copy(b[1:6], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// overlapping gives the first of the prefixes that has an address in common with p.
func overlapping(p netip.Prefix, prefixes []netip.Prefix) netip.Prefix {
	for _, other := range prefixes {
		if p.Overlaps(other) {
			return other
		}
	}
	return netip.Prefix{}
}

// candidates gives the addresses that a container can get, beginning after one of them, or with the
// first; each once.
func (s Subnet) candidates(after netip.Addr) func(yield func(netip.Addr) bool) {
	in := s.Subnet
	if s.Range.IsValid() {
		in = s.Range.Masked()
	}
	return func(yield func(netip.Addr) bool) {
		start := in.Addr()
		if in.Contains(after) && after != last(in) {
			start = after.Next()
		}
		for a := start; ; {
			if s.usable(a) && a != s.Gateway && !yield(a) {
				return
			}
			if a = a.Next(); !in.Contains(a) {
				a = in.Addr()
			}
			if a == start {
				return
			}
		}
	}
}

// beside gives the address of an IPv6 subnet with the number that a has in its own: containers have the
// same in both, as far as there is room.
func (s Subnet) beside(a netip.Addr, of netip.Prefix) netip.Addr {
	b, from, base := s.Subnet.Addr().AsSlice(), a.AsSlice(), of.Addr().AsSlice()
	for i := range from {
		b[len(b)-len(from)+i] |= from[i] &^ base[i]
	}
	beside, _ := netip.AddrFromSlice(b)
	return beside
}
